"""Run every operation once on the native CPU library, forward, backward and inverse.

For tools that watch a process, such as valgrind: `scripts/sanitize.sh` uses it. Odd sizes, all
dtypes, and sums that have to be taken in log space.
"""

from __future__ import annotations

import torch

from tests.ops.inputs import ALL, DIFFERENTIABLE, gradients, mixture_inputs, outputs
from vflow import ops
from vflow.ops import native


def main() -> None:
    """Call everything; say what ran."""
    torch.set_num_threads(2)
    with ops.use_backend("cpu"):
        for dtype in native.DTYPES:
            for name, case in ALL.items():
                inputs = case.make(3, dtype)
                results = outputs(case.function(*inputs))
                if name in DIFFERENTIABLE:
                    results = gradients(case, inputs)
                assert all(r.isfinite().all() for r in results), name
            for components in (1, 4, 10, 32, 40):
                for squash in (True, False):
                    x, params = mixture_inputs(2, dtype, (37,), components)
                    x[0] *= 1000
                    leaves = [t.requires_grad_() for t in (x, params)]
                    y, logdet = ops.mixlogistic(*leaves, squash)
                    torch.autograd.grad(y.sum() + logdet.sum(), leaves)
                    ops.mixlogistic_inverse(y, params, squash)
    print(f"every operation ran on {native.cpu_target()}, {', '.join(map(str, native.DTYPES))}")


if __name__ == "__main__":
    main()
