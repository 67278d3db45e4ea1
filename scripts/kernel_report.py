"""Compile the Triton kernels for GPUs that need not be here, and tell what each would use.

Every launcher is called as the operations call it, on CPU tensors; what it launches is compiled to
a cubin for each architecture instead. For each kernel the table gives warps, registers a thread,
bytes of spills stored and loaded, bytes of shared memory, instructions, and how many global loads
and stores there are by width in bytes, as counted in the machine code. Nothing here says how fast a
kernel is.

    python scripts/kernel_report.py [--architectures 80 90 100] [--only "mixlogistic K=32"]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

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

ARCHITECTURES = (80, 90, 100)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Usage:
    """What one kernel of one launch uses on one architecture."""

    architecture: int
    case: str
    kernel: str
    warps: int
    registers: int
    spill_stores: int  # bytes
    spill_loads: int  # bytes
    shared: int  # bytes
    instructions: int
    loads: dict[int, int]  # bytes -> instructions
    stores: dict[int, int]


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
    found: list[Usage] = []
    run = JITFunction.run

    def compile_only(
        self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object
    ):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        found.append(_usage(architecture, case, kernel))
        return kernel

    driver.set_active(_NoDevice(GPUTarget("cuda", architecture, 32)))
    JITFunction.run = compile_only
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def _usage(architecture: int, case: str, kernel: object) -> Usage:
    metadata, asm = kernel.metadata, kernel.asm
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(asm["cubin"])
        resources = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        sass = _tool("cuobjdump", "--dump-sass", str(cubin))
    return Usage(
        architecture=architecture,
        case=case,
        kernel=metadata.name,
        warps=metadata.num_warps,
        registers=int(re.search(r"REG:(\d+)", resources)[1]),
        # Triton's kernels have no arrays in local memory: whatever goes there is a spill.
        spill_stores=_total(_widths(sass, "STL")),
        spill_loads=_total(_widths(sass, "LDL")),
        shared=metadata.shared,
        instructions=len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", sass, re.MULTILINE)),
        loads=_widths(sass, "LDG"),
        stores=_widths(sass, "STG"),
    )


def _tool(name: str, *arguments: str) -> str:
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _widths(sass: str, instruction: str) -> dict[int, int]:
    """Count memory accesses by their width in bytes."""
    counts: dict[int, int] = {}
    for modifiers in re.findall(rf"\b{instruction}((?:\.\w+)*)", sass):
        bits = re.search(r"\.(128|64)\b", modifiers)
        narrow = re.search(r"\.[US](8|16)\b", modifiers)
        width = int((bits or narrow)[1]) // 8 if bits or narrow else 4
        counts[width] = counts.get(width, 0) + 1
    return counts


def _total(widths: dict[int, int]) -> int:
    return sum(width * count for width, count in widths.items())


def _row(usage: Usage) -> str:
    def counts(widths: dict[int, int]) -> str:
        return " ".join(f"{widths.get(width, 0):4}" for width in (16, 8, 4, 2))

    return (
        f"{usage.architecture:4} {usage.case:44} {usage.kernel:24} {usage.warps:2} "
        f"{usage.registers:4} {usage.spill_stores:6} {usage.spill_loads:6} {usage.shared:7} "
        f"{usage.instructions:6} "
        f"| {counts(usage.loads)} | {counts(usage.stores)}"
    )


def main() -> int:
    """Print the table; the exit status is 1 if anything spills."""
    parser = argparse.ArgumentParser(description="Registers, spills and loads of the kernels.")
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--only", nargs="+", default=("",), help="how launches' names begin")
    options = parser.parse_args()
    print(
        f"{'sm':>4} {'launch':44} {'kernel':24} {'w':>2} {'regs':>4} {'st':>6} {'ld':>6} "
        f"{'shared':>7} {'instr':>6} | loads of 16, 8, 4, 2 bytes | stores"
    )
    spilled = False
    for architecture in options.architectures:
        for case, call in cases(options.only):
            for usage in compile_case(case, call, architecture):
                print(_row(usage), flush=True)
                spilled |= usage.spill_stores + usage.spill_loads > 0
    return int(spilled)


if __name__ == "__main__":
    sys.exit(main())
