"""Compile all kernels for GPUs that need not be here, and tell what each would use.

Every Triton launcher is called as the operations call it, on CPU tensors; what it launches is
compiled to a cubin for each architecture instead. Of csrc/cuda, where there is an nvcc, every
kernel of the library is listed under "cuda FILE"; its warps and shared memory are chosen at the
launch and not told. For each kernel the table gives warps, registers a thread,
bytes of spills stored and loaded, bytes of shared memory, instructions, and how many global loads
and stores there are by width in bytes, as counted in the machine code. Nothing here says how fast a
kernel is.

    python scripts/kernel_report.py [--architectures 80 90 100] [--only "mixlogistic K=32"]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for scripts, from any folder

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from scripts import cuda_kernels
from scripts.machine_code import ARCHITECTURES, HEAD, Usage, usages
from vflow.kernels import (
    actnorm_conv1x1,
    actnorm_conv1x1_backward,
    concat_elu,
    concat_elu_dropout,
    dropout,
    gated_residual_norm,
    mixlogistic,
    mixlogistic_inverse,
)

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class _NoDevice:
    """Stands in for Triton's driver: a target to compile for, and nothing to run on."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def cases(only: Sequence[str] = ("",)) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names and calls of the launches to look at: those whose name begins with one of `only`."""
    for name, call in _all_cases():
        if name.startswith(tuple(only)):
            yield name, call


def _all_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype_name, dtype in DTYPES.items():
        yield from _mixture_cases(dtype_name, dtype)
        yield from _network_cases(dtype_name, dtype)
        yield from _channel_cases(dtype_name, dtype)


def _mixture_cases(dtype_name: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable]]:
    x = torch.empty(2, 32, 32, 6, dtype=dtype)[:, :, ::2]  # half of a checkerboard
    grad, logdet = torch.empty(x.shape, dtype=dtype), torch.empty(2)
    for components in (4, 10, 32):
        params = torch.empty(*x.shape, 2 + 3 * components, dtype=dtype)
        for squash in (True, False):
            kind = f"{'' if squash else '_unsquashed'} K={components} {dtype_name}"
            for name, launch, args in (
                ("mixlogistic", mixlogistic.mixlogistic, (x, params)),
                (
                    "mixlogistic_backward",
                    mixlogistic.mixlogistic_backward,
                    (grad, logdet, x, params),
                ),
                ("mixlogistic_inverse", mixlogistic_inverse.mixlogistic_inverse, (x, params)),
            ):
                yield f"{name}{kind}", partial(launch, *args, squash=squash)


def _network_cases(dtype_name: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable]]:
    for features in (32, 56, 96, 112):
        x, weight = torch.empty(2, 32, 16, features, dtype=dtype), torch.empty(features)
        ab = torch.empty(2, 32, 16, 2 * features, dtype=dtype)
        mask = torch.empty(2, dtype=torch.int64), 0.2
        for name, launch, args in (
            ("concat_elu", concat_elu.concat_elu, (x,)),
            ("concat_elu_backward", concat_elu.concat_elu_backward, (ab, x)),
            ("concat_elu_dropout", concat_elu_dropout.concat_elu_dropout, (x, *mask)),
            (
                "concat_elu_dropout_backward",
                concat_elu_dropout.concat_elu_dropout_backward,
                (ab, x, *mask),
            ),
            ("dropout", dropout.dropout, (x, *mask)),
            (
                "gated_residual_norm",
                gated_residual_norm.gated_residual_norm,
                (x, ab, weight, weight),
            ),
            (
                "gated_residual_norm_backward",
                gated_residual_norm.gated_residual_norm_backward,
                (x, x, ab, weight, weight),
            ),
        ):
            yield f"{name} F={features} {dtype_name}", partial(launch, *args)


def _channel_cases(dtype_name: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable]]:
    for channels in (6, 12, 24, 48):
        x = torch.empty(2, 16, 16, channels, dtype=dtype)
        scale, weight = torch.empty(x.shape[1:], dtype=dtype), torch.empty(channels, channels)
        inputs = x, scale, scale, weight.to(dtype)
        for name, launch, args in (
            ("actnorm_conv1x1", actnorm_conv1x1.actnorm_conv1x1, inputs),
            (
                "actnorm_conv1x1_backward",
                actnorm_conv1x1_backward.actnorm_conv1x1_backward,
                (x, torch.empty(2), *inputs),
            ),
            ("actnorm_conv1x1_inverse", actnorm_conv1x1.actnorm_conv1x1_inverse, inputs),
        ):
            yield f"{name} C={channels} {dtype_name}", partial(launch, *args)


def compile_case(case: str, call: Callable[[], object], architecture: int) -> list[Usage]:
    """Compile what a call launches.

    Returns:
        The usage of each of its kernels, in order.
    """
    return [_usage(architecture, case, kernel) for kernel in compiled(call, architecture)]


def compiled(call: Callable[[], object], architecture: int) -> list[object]:
    """Triton's compiled kernels of what a call launches, in order; nothing is launched."""
    found: list[object] = []
    run = JITFunction.run

    def compile_only(
        self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object
    ):
        found.append(run(self, *args, grid=grid, warmup=True, **kwargs))
        return found[-1]

    driver.set_active(_NoDevice(GPUTarget("cuda", architecture, 32)))
    JITFunction.run = compile_only
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def _usage(architecture: int, case: str, kernel: object) -> Usage:
    metadata = kernel.metadata
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        return usages(cubin, architecture, case, metadata.num_warps, metadata.shared)[0]


def main() -> int:
    """Print the table; the exit status is 1 if anything spills."""
    parser = argparse.ArgumentParser(description="Registers, spills and loads of the kernels.")
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--only", nargs="+", default=("",), help="how launches' names begin")
    options = parser.parse_args()
    print(HEAD)
    if cuda_kernels.why_not():
        print(f"without csrc/cuda: {cuda_kernels.why_not()}", file=sys.stderr)
    spilled = False
    for architecture in options.architectures:
        for usage in _all_usages(architecture, options.only):
            print(usage.row, flush=True)
            spilled |= usage.spill_stores + usage.spill_loads > 0
    return int(spilled)


def _all_usages(architecture: int, only: Sequence[str]) -> Iterator[Usage]:
    for case, call in cases(only):
        yield from compile_case(case, call, architecture)
    prefix = "cuda "
    wanted = [name.removeprefix(prefix) for name in only if name.startswith(prefix)]
    wanted += ["" for name in only if prefix.startswith(name)]
    if wanted and cuda_kernels.why_not() is None:
        yield from cuda_kernels.compile_cuda(architecture, wanted)


if __name__ == "__main__":
    sys.exit(main())
