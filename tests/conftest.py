"""Every test: one thread, a fixed seed, and uninitialised memory that shows.

Tests run in several processes at once (`pytest -n`); those marked `alone` one at a time.
"""

from __future__ import annotations

from typing import Any

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import pytest
import torch
from hypothesis import settings

from tests.alone import pytest_runtest_protocol  # noqa: F401, a hook

# Derandomised: a red run must be red again. No deadline: the first call of an operation is slow.
settings.register_profile("vflow", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("vflow")


@pytest.fixture(scope="session", autouse=True)
def _unwritten_memory_is_nan():
    """Fill torch.empty with NaN, so that an output which nobody writes cannot pass by luck."""
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(4).isnan().all()


@pytest.fixture(autouse=True)
def _same_start():
    torch.set_num_threads(1)
    # torch.manual_seed takes milliseconds without a device, to note who has called it.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


def _settings_of_pytorch() -> dict[str, object]:
    """What holds for a whole process, and so for every test that comes later."""
    backends: Any = torch.backends
    products = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return {
        "oneDNN": torch._C._get_mkldnn_enabled(),
        "cuDNN": backends.cudnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "dtype": torch.get_default_dtype(),
        "float32 products": torch.get_float32_matmul_precision(),
        "TF32": [product.fp32_precision for product in products],
        "gradients": torch.is_grad_enabled(),
    }


@pytest.fixture(autouse=True)
def _settings_are_put_back():
    before = _settings_of_pytorch()
    yield
    assert _settings_of_pytorch() == before
