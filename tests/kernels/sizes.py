"""Compile every Triton launcher at sizes for which Triton makes other code, and print what fails.

Triton makes an integer argument that is 1 a constant, and treats those that are multiples of 16 and
pointers on multiples of 16 bytes apart. The interpreter knows nothing of it.

    python -m tests.kernels.sizes
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from triton.backends.nvidia.compiler import CUDABackend

from scripts.kernel_report import compiled
from vflow.kernels import (
    actnorm_conv1x1,
    actnorm_conv1x1_backward,
    concat_elu,
    concat_elu_dropout,
    dropout,
    gated_residual_norm,
    mixlogistic,
    mixlogistic_inverse,
    reduction,
)

Make = Callable[..., Tensor]  # a tensor of a shape

DEFAULT = 5
SIZES = (1, 2, 3, 16)


def _mixture(
    make: Make, batch: int, positions: int, channels: int, components: int
) -> Iterator[partial]:
    x, params = (
        make(batch, positions, channels),
        make(batch, positions, channels, 2 + 3 * components),
    )
    logdet = torch.empty(batch)
    squash = batch % 2 == 1
    yield partial(mixlogistic.mixlogistic, x, params, squash=squash)
    yield partial(mixlogistic.mixlogistic_backward, x, logdet, x, params, squash=squash)
    yield partial(mixlogistic_inverse.mixlogistic_inverse, x, params, squash=squash)


def _channels(make: Make, batch: int, positions: int, channels: int) -> Iterator[partial]:
    x, scale = make(batch, positions, channels), make(positions, channels)
    inputs = x, scale, scale, make(channels, channels)
    yield partial(actnorm_conv1x1.actnorm_conv1x1, *inputs)
    yield partial(actnorm_conv1x1.actnorm_conv1x1_inverse, *inputs)
    backward = actnorm_conv1x1_backward.actnorm_conv1x1_backward
    yield partial(backward, x, torch.empty(batch), *inputs)
    yield partial(backward, x, torch.empty(1).expand(batch), *inputs)


def _network(make: Make, rows: int, features: int) -> Iterator[partial]:
    x, ab, weight = make(rows, features), make(rows, 2 * features), make(features)
    mask = torch.empty(2, dtype=torch.int64), 0.2
    yield partial(gated_residual_norm.gated_residual_norm, x, ab, weight, weight)
    yield partial(gated_residual_norm.gated_residual_norm_backward, x, x, ab, weight, weight)
    yield partial(concat_elu.concat_elu, x)
    yield partial(concat_elu.concat_elu_backward, ab, x)
    yield partial(concat_elu_dropout.concat_elu_dropout, x, *mask)
    yield partial(concat_elu_dropout.concat_elu_dropout_backward, ab, x, *mask)
    yield partial(dropout.dropout, x, *mask)


def _sums(make: Make, count: int, terms: int) -> Iterator[partial]:
    yield partial(reduction.sum_rows, make(count, terms))
    yield partial(reduction.sum_columns, make(terms, count))


FAMILIES = {_mixture: 4, _channels: 3, _network: 2, _sums: 2}  # and how many sizes they have


def _misaligned_half(*shape: int) -> Tensor:
    return torch.empty(math.prod(shape) + 1, dtype=torch.bfloat16)[1:].view(shape)


def _every_other(*shape: int) -> Tensor:
    """Every other row, as the halves of a checkerboard lie."""
    if len(shape) == 1:
        return torch.empty(2 * shape[0])[::2]
    return torch.empty(*shape[:-2], 2 * shape[-2], shape[-1])[..., ::2, :]


def whole() -> Iterator[tuple[str, Callable[[], object]]]:
    """What is compiled to machine code; test_compiled.py does so with large, aligned sizes."""
    yield from _alike(torch.empty, 1)
    yield from _alike(_misaligned_half, 3)


def _alike(make: Make, size: int) -> Iterator[tuple[str, Callable[[], object]]]:
    for family, count in FAMILIES.items():
        for call in family(make, *[size] * count):
            yield f"{call.func.__name__} {make.__name__} {(size,) * count}", call


def swept() -> Iterator[tuple[str, Callable[[], object]]]:
    """What is read by Triton: every size in turn, among others that are 1 or not."""
    yield from _alike(torch.empty, 16)
    yield from _alike(_every_other, DEFAULT)
    seen = set()
    for family, count in FAMILIES.items():
        for others, place, size in itertools.product((DEFAULT, 1), range(count), SIZES):
            sizes = tuple(size if i == place else others for i in range(count))
            if (family, sizes) not in seen:
                seen.add((family, sizes))
                for call in family(torch.empty, *sizes):
                    yield f"{call.func.__name__} {sizes}", call


def only_read() -> None:
    """Leave out all stages after Triton's own intermediate code, which take most of the time."""
    add_stages = CUDABackend.add_stages

    def add(self: CUDABackend, stages: dict, *arguments: object) -> None:
        add_stages(self, stages, *arguments)
        for name in list(stages)[1:]:
            stages[name] = partial(skip, name)

    def skip(name: str, module: object, metadata: dict) -> object:
        metadata |= {"shared": 0, "name": "skipped", "tmem_size": 0}
        return b"" if name == "cubin" else str(module)

    CUDABackend.add_stages = add


def failures(calls: Iterator[tuple[str, Callable[[], object]]], architecture: int) -> Iterator[str]:
    """Names of the calls that do not compile, with the end of why."""
    for name, call in calls:
        try:
            if not compiled(call, architecture):
                yield f"{name}: nothing was launched"
        except Exception as error:
            yield f"{name} on sm_{architecture}: {' '.join(str(error).split())[-160:]}"


def main() -> None:
    """Print how many calls there were, and which failed, as JSON."""
    calls = len([*whole()]) + len([*swept()])
    found = [*failures(whole(), 90)]
    with tempfile.TemporaryDirectory() as folder:  # no kernel without its code in the user's cache
        os.environ["TRITON_CACHE_DIR"] = folder
        only_read()
        # As if for another device: in the process, too, nothing of the above then serves.
        found += failures(swept(), 80)
    print(json.dumps({"calls": calls, "failures": found}))


if __name__ == "__main__":
    main()
