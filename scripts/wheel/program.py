"""A user's program, for an installed wheel: `make try-wheel` runs it, mypy --strict reads it."""

from __future__ import annotations

import torch

import vflow
from vflow.compression import decode, encode


def main() -> None:
    """Sample the trained model of the package, and code samples without loss."""
    model = vflow.load_model("cifar10-mini")
    samples = model.sample(64, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (64, 3, 32, 32)
    assert samples.dtype == torch.uint8
    bits = model.bits_per_dim(samples)
    archive = encode(model, samples)
    assert torch.equal(decode(model, archive), samples)
    written = 8 * len(archive) / samples.numel()
    print(f"vflow {vflow.__version__} at {vflow.__file__}, torch {torch.__version__}")
    print(
        f"64 samples of cifar10-mini: {bits.mean().item():.3f} bits/dim, {written:.3f} as archive"
    )
    with vflow.ops.use_backend("cpu"):  # the wheel's library, which is asked for by name
        model.sample(1)


if __name__ == "__main__":
    main()
