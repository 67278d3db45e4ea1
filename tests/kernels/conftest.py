"""Kernels run on the device where there is one.

Else Triton's run in its interpreter on the CPU, and those of csrc/cuda in the emulator here.

Triton decides when a kernel is defined whether it is to be interpreted, its own library's included:
everything is imported here, with the environment variable set for as long as that takes, and again
for as long as a test of this folder runs. pytest reads this file before it runs any test, so no
other test imports Triton before.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.kernels import emulated
from tests.kernels.agreement import DEVICE
from tests.kernels.launchers import cuda_launchers
from vflow.ops import native
from vflow.ops.launchers import call

MODULES = (
    "mixlogistic",
    "mixlogistic_inverse",
    "actnorm_conv1x1",
    "actnorm_conv1x1_backward",
    "gated_residual_norm",
    "concat_elu",
    "concat_elu_dropout",
    "dropout",
    "reduction",
)


def _import_kernels() -> SimpleNamespace | str:
    """The modules of kernels, or why there are none."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            if DEVICE == "cpu":
                patch.setenv("TRITON_INTERPRET", "1")
            return SimpleNamespace(
                **{name: importlib.import_module(f"vflow.kernels.{name}") for name in MODULES}
            )
    except ImportError as error:
        return f"triton does not import: {error}"


_KERNELS = _import_kernels()


# The launchers of csrc/cuda, by the names of the files of Triton's.
CUDA_MODULES = {
    "mixlogistic": "mixlogistic",
    "mixlogistic_inverse": "mixlogistic",
    "actnorm_conv1x1": "actnorm_conv1x1",
    "actnorm_conv1x1_backward": "actnorm_conv1x1",
    "gated_residual_norm": "gated_residual_norm",
    "concat_elu": "concat_elu",
    "concat_elu_dropout": "concat_elu",
    "dropout": "dropout",
}


@pytest.fixture(params=["triton", "cuda"])
def kernels(request) -> SimpleNamespace:
    """The launchers of either backend, which take and give the same."""
    return request.getfixturevalue(f"{request.param}_kernels")


@pytest.fixture
def cuda_kernels(monkeypatch) -> SimpleNamespace:
    """The launchers of the CUDA library, or of its emulation."""
    if DEVICE == "cpu":
        if emulated.why_not():
            pytest.skip(emulated.why_not())
        monkeypatch.setattr(native, "cuda_library", emulated.library)
        monkeypatch.setattr(call, "queue_of", lambda x: (0, 0))
    elif native.cuda_missing():
        pytest.skip(native.cuda_missing())
    return SimpleNamespace(
        **{name: cuda_launchers(module) for name, module in CUDA_MODULES.items()}
    )


@pytest.fixture(scope="session")
def triton_kernels() -> SimpleNamespace:
    if isinstance(_KERNELS, str):
        pytest.skip(_KERNELS)
    if DEVICE == "cpu":
        library = importlib.import_module("triton.language")
        interpreted = type(library.sum).__name__ == "InterpretedFunction"
        assert interpreted, "triton was imported before, and not for its interpreter"
    return _KERNELS


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        # NumPy warns of overflows and NaN that the interpreter meets on purpose.
        item.add_marker(
            pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
        )
        if item.get_closest_marker("gpu") and DEVICE == "cpu":
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
