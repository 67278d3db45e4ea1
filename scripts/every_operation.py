"""Run every operation on one backend, forward, backward and inverse.

    python scripts/every_operation.py --backend triton

For tools that watch a process, such as valgrind (`scripts/sanitize.sh`) and compute-sanitizer
(`scripts/gpu_check.sh`). Odd sizes, all dtypes, and sums that have to be taken in log space.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for scripts, from any folder

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch

from tests.ops.inputs import (
    ALL,
    DIFFERENTIABLE,
    gradients,
    mixture_inputs,
    outputs,
)
from vflow import ops
from vflow.ops import native
from vflow.ops.backend import ANY_DTYPE

DEVICES = {"cpu": "cpu", "triton": "cuda", "cuda": "cuda"}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in ANY_DTYPE}


def main() -> None:
    """Call everything; say what ran."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=DEVICES, default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    arguments = parser.parse_args()
    backend = arguments.backend
    device = DEVICES[backend]
    has = native.DTYPES if device == "cpu" else native.CUDA_DTYPES
    dtypes = [DTYPES[name] for name in arguments.dtypes if DTYPES[name] in has]
    cases = {
        name: case
        for name, case in ALL.items()
        if device == "cpu" or not name.startswith("self_attention")  # which has no GPU kernel
    }
    torch.set_num_threads(2)
    with ops.use_backend(backend):
        for dtype in dtypes:
            for name, case in cases.items():
                inputs = tuple(t.to(device) for t in case.make(3, dtype))
                results = outputs(case.function(*inputs))
                if name in DIFFERENTIABLE:
                    results = gradients(case, inputs)
                assert all(r.isfinite().all() for r in results), name
            for components in (1, 4, 10, 32, 40):
                for squash in (True, False):
                    made = mixture_inputs(2, dtype, (37,), components)
                    x, params = (t.to(device) for t in made)
                    x[0] *= 1000
                    leaves = [t.requires_grad_() for t in (x, params)]
                    y, logdet = ops.mixlogistic(*leaves, squash)
                    torch.autograd.grad(y.float().sum() + logdet.float().sum(), leaves)
                    ops.mixlogistic_inverse(y, params, squash)
    if device == "cuda":
        torch.cuda.synchronize()
    where = native.cpu_target() if backend == "cpu" else torch.cuda.get_device_name()
    print(f"every operation ran on {where}, {', '.join(map(str, dtypes))}")


if __name__ == "__main__":
    main()
