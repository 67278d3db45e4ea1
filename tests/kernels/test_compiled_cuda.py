"""The machine code of csrc/cuda, compiled for a GPU that need not be here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[2] / "build" / "cubins"
pytestmark = pytest.mark.alone  # two compilers at a time, of half a gigabyte each


@pytest.fixture(scope="module")
def usages():
    """What each kernel of the fast paths uses on sm_90a, by its name."""
    pytest.importorskip("triton")  # brings cuobjdump
    cuda_kernels = pytest.importorskip("scripts.cuda_kernels")
    if cuda_kernels.why_not():
        pytest.skip(cuda_kernels.why_not())
    sources = ("mixlogistic", "gated_residual_norm", "concat_elu", "dropout")
    return {usage.kernel: usage for usage in cuda_kernels.compile_cuda(90, sources, KEPT)}


STORED = ["float", "__nv_bfloat16"]
FLAT = [
    *["concat_elu", "concat_elu_backward", "dropout"],
    *["concat_elu_dropout", "concat_elu_dropout_backward"],
]
FAST = [
    *(
        f"mixlogistic{backward}_kernel<{stored}, {squash}, {components}>"
        for backward in ("", "_backward")
        for stored in STORED
        for squash in ("true", "false")
        for components in (4, 10, 32)
    ),
    *(f"mixlogistic_inverse_kernel<{s}, {q}>" for s in STORED for q in ("true", "false")),
    *(f"gated_residual_norm_kernel<{stored}, {n}>" for stored in STORED for n in (1, 2, 3, 4)),
    *(f"gated_residual_norm_backward_kernel<float, {n}>" for n in (1, 2, 3, 4)),
    *(f"gated_residual_norm_backward_kernel<__nv_bfloat16, {n}>" for n in (1, 2)),
    *(f"{name}_kernel<float, 4>" for name in FLAT),
    *(f"{name}_kernel<__nv_bfloat16, 8>" for name in FLAT),
]


@pytest.mark.parametrize("kernel", FAST)
def test_fast_paths_do_not_spill(usages, kernel):
    usage = usages[kernel]
    assert usage.spill_stores == usage.spill_loads == 0, usage
    assert 16 <= usage.registers < 255, usage


@pytest.mark.parametrize("kernel", FAST)
def test_fast_paths_move_16_bytes_at_a_time(usages, kernel):
    """Parameters and their gradients, rows of features; not x of a mixture, which has strides."""
    usage = usages[kernel]
    assert usage.loads[16] >= 1, usage
    writes_rows = not re.match(r"mixlogistic(_inverse)?_kernel", kernel)
    assert (usage.stores.get(16, 0) >= 1) == writes_rows, usage


@pytest.mark.parametrize("kernel", [kernel for kernel in FAST if kernel.startswith(tuple(FLAT))])
def test_flat_kernels_store_nothing_narrower(usages, kernel):
    """Several stores in a row, which a compiler takes apart unless it is told not to."""
    assert not {width for width, count in usages[kernel].stores.items() if count} - {16}
