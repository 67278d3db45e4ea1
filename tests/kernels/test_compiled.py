"""The machine code of the fast paths, compiled for GPUs that need not be here."""

from __future__ import annotations

import json
import os

import pytest

from tests.forks import run_fork

pytestmark = pytest.mark.alone
LAUNCHES = (
    "mixlogistic K=32 f32",
    "mixlogistic_backward K=32 f32",
    "mixlogistic_inverse K=32 f32",
    "actnorm_conv1x1 C=12 f32",
    "actnorm_conv1x1_backward C=12 f32",
    "actnorm_conv1x1_inverse C=12 f32",
    "gated_residual_norm F=96 bf16",
    "gated_residual_norm_backward F=96 f32",
    "concat_elu F=96 f32",
    "concat_elu_backward F=96 bf16",
    "concat_elu_dropout F=96 f32",
    "concat_elu_dropout_backward F=96 bf16",
    "dropout F=96 bf16",
)
REPORT = """
import dataclasses, json
from scripts.kernel_report import cases, compile_case
for name, call in cases({launches}):
    for usage in compile_case(name, call, 90):
        print(json.dumps(dataclasses.asdict(usage)))
"""


def python(code):
    """The output of a process of its own, where kernels are not interpreted."""
    pytest.importorskip("triton")
    found = run_fork(code, {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"})
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def usages():
    """What each kernel of the launches uses on sm_90."""
    report = python(REPORT.format(launches=LAUNCHES))
    return [json.loads(line) for line in report.splitlines()]


def test_every_size_compiles():
    """Triton makes an integer argument that is 1 a constant, which the interpreter does not."""
    found = json.loads(python("from tests.kernels.sizes import main; main()"))
    assert found["failures"] == []
    assert found["calls"] > 300


def test_nothing_spills(usages):
    assert {usage["case"] for usage in usages} == set(LAUNCHES)
    for usage in usages:
        assert usage["spill_stores"] == usage["spill_loads"] == 0, usage
        assert 16 <= usage["registers"] < 255, usage


@pytest.mark.parametrize("launch", ["gated_residual_norm", "concat_elu", "dropout"])
def test_rows_are_read_and_written_16_bytes_at_a_time(usages, launch):
    """But for the weights of a norm, which all rows share."""
    for usage in usages:
        if usage["case"].startswith(launch) and usage["kernel"] != "_sum_kernel":
            assert usage["loads"]["16"] >= 2, usage
            assert set(usage["stores"]) <= {"16", "4"}, usage


def test_parameters_are_read_8_bytes_at_a_time(usages):
    """A row of 2 + 3 * 32 float32 begins on a multiple of 8 bytes, not of 16."""
    for usage in usages:
        if usage["case"].startswith("mixlogistic") and usage["kernel"] != "_sum_kernel":
            assert usage["loads"]["8"] >= 6, usage
