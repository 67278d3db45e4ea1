"""Whether a GPU may round the factors of float32 products to TensorFloat-32 (10-bit fraction)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_BACKENDS: Any = torch.backends  # whose typing knows some of its attributes only


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow it in convolutions and matrix products within, or forbid it in both.

    PyTorch's own default allows it in convolutions only. Its settings are put back as they were, be
    they the old ones (`allow_tf32`, `set_float32_matmul_precision`) or the new (`fp32_precision`).
    Only that default itself cannot be had again: convolutions are set to "tf32" in its place, and
    so no longer take what is set above them later (`torch.backends.cudnn.fp32_precision`).
    """
    cudnn, matmul = _BACKENDS.cudnn, _BACKENDS.cuda.matmul
    on_gpu, on_cpu = (matmul, cudnn.conv, cudnn.rnn), _BACKENDS.mkldnn.matmul
    new = _own_settings(on_gpu, on_cpu)
    # The old settings cannot be read where a new one differs. Of products, "ieee" never does.
    old_of_cudnn = _old_of_cudnn()
    matmul.fp32_precision = on_cpu.fp32_precision = "ieee"
    old = torch.get_float32_matmul_precision()
    on_cpu.fp32_precision = new[-1]
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    for product in on_gpu:  # cuDNN's old "no" leaves the new one to what stands above it
        product.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        cudnn.allow_tf32 = old_of_cudnn
        torch.set_float32_matmul_precision(old)
        for product, setting in zip((*on_gpu, on_cpu), new, strict=True):
            product.fp32_precision = setting


def _old_of_cudnn() -> bool:
    try:
        return bool(_BACKENDS.cudnn.allow_tf32)
    except RuntimeError:
        return bool(_BACKENDS.cudnn.conv.fp32_precision != "tf32")


def _own_settings(on_gpu: tuple[Any, ...], on_cpu: Any) -> list[str]:
    """The new settings as such: "none" for one that takes what stands above it."""
    everything, cudnn = _BACKENDS, _BACKENDS.cudnn  # of which the latter is above all on the GPU
    of_everything = everything.fp32_precision
    of_cudnn = _own(everything, of_everything, cudnn)
    return [
        *(_own(cudnn, of_cudnn, product) for product in on_gpu),
        _own(everything, of_everything, on_cpu),
    ]


def _own(above: Any, own_above: str, product: Any) -> str:
    """Change what stands above for a moment, to see whether a setting follows."""
    found: str = product.fp32_precision
    if found == "tf32" and above.fp32_precision == "none":
        return found  # as a process begins with: it follows, until it is set for the first time
    above.fp32_precision = "ieee" if found == "tf32" else "tf32"
    own = found if product.fp32_precision == found else "none"
    above.fp32_precision = own_above
    return own
