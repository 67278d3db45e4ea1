"""Dropout whose mask is a function of a seed and of an element's place, and is never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from vflow.ops.backend import Implementation, native_cpu, native_cuda, triton_gpu
from vflow.ops.checks import check_dropout, check_rank, check_seed, check_tensor
from vflow.ops.launchers import dropout as launchers
from vflow.ops.library import Operation
from vflow.ops.reference import composition
from vflow.ops.reference import dropout as reference


def dropout(x: Tensor, dropout: float, seed: Tensor | None = None) -> Tensor:
    """Make each element 0 with a probability, and divide the others by 1 - dropout.

    The mask depends on x's shape and on a seed alone: it is the same on every backend, whatever the
    number of threads. Seen as [rows, C], the element (r, c) is dropped where

        word r mod 4 of Philox4x32-10(counter, key) < floor(dropout 2^32),
        counter = (r div 4) C + c as 128 bits,

    and the key is the seed's two words of 32 bits. (Four rows of one column share a counter, and
    neighbours in a row have neighbouring ones, which suits SIMD lanes and GPU threads alike.)

    Args:
        x: Input [..., C] of float16, bfloat16, float32 or float64.
        dropout: The probability, in [0, 1).
        seed: int64 [2], as `draw_seeds` draws them; if None, PyTorch's generator of x's device
            draws one, so that `torch.manual_seed` holds.

    Returns:
        Like x, contiguous; x itself if dropout is 0. A NaN stays where it is, dropped or not.

    Raises:
        ValueError: If x is not a floating tensor with a last dimension, dropout is not a number
            in [0, 1), seed is not of this kind and on x's device, or a backend asked for by name
            cannot run this.
    """
    check_tensor("x", x)
    check_rank("x", x, "[..., C]", 1)
    check_dropout(dropout)
    if dropout == 0:
        return x
    return _dropout(x, seed_for(x, seed), float(dropout))


def draw_seeds(count: int, device: torch.device) -> Tensor:
    """Seeds of as many masks, from PyTorch's generator of the device: int64 [count, 2], below 2^32.

    One launch for all masks of a network, which may then be computed again without a look at the
    generator's state.
    """
    return torch.randint(1 << 32, (count, 2), dtype=torch.int64, device=device)


def seed_for(x: Tensor, seed: Tensor | None) -> Tensor:
    """The seed of a mask of x: the one given, or one that is drawn.

    Raises:
        ValueError: If what was given is no seed on x's device; says what it is.
    """
    if seed is None:
        return draw_seeds(1, x.device)[0]
    check_seed(seed, x)
    return seed


def _backward(grad: Tensor, x: Tensor, seed: Tensor, dropout: float, backend: str) -> Tensor:
    return _dropout_backward.run(grad, seed, dropout, backend)


# The same function, for what it is called by in a profile.
_dropout_backward = Operation(
    "dropout_backward",
    "Tensor grad, Tensor seed, float dropout -> Tensor",
    fake=lambda grad, seed, dropout: grad.new_empty(grad.shape),
    reference=Implementation(launch=reference.dropout),
    cpu=native_cpu(launchers.dropout),
    triton=triton_gpu("dropout", "dropout"),
    cuda=native_cuda(launchers.dropout),
)
_dropout = Operation(
    "dropout",
    "Tensor x, Tensor seed, float dropout -> Tensor",
    fake=lambda x, seed, dropout: x.new_empty(x.shape),
    composition=composition.dropout,
    backward=_backward,
    reference=Implementation(launch=reference.dropout),
    cpu=native_cpu(launchers.dropout),
    triton=triton_gpu("dropout", "dropout"),
    cuda=native_cuda(launchers.dropout),
)
