"""The native CPU kernels against the reference, and the C ABI against misuse."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.tolerances import assert_within_budget
from vflow.ops import mixlogistic, native, use_backend

ROOT = Path(__file__).parent.parent.parent
COMPONENTS = [1, 3, 4, 10, 32, 40]
SHAPES = [(1, 1), (3, 7), (2, 5, 3), (3, 19, 9, 7), (2, 513)]  # odd sizes, and more than one run


@pytest.fixture(autouse=True)
def _built():
    assert native.cpu_missing() is None, native.cpu_missing()


def run(backend, *inputs):
    with use_backend(backend):
        return mixlogistic(*inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(shape, components, dtype):
    x = 3 * torch.randn(shape, dtype=dtype)
    params = 2 * torch.randn(*shape, 2 + 3 * components, dtype=dtype)
    truth = run("reference", x.double(), params.double())
    for name, actual, reference, exact in zip(
        ("y", "logdet"), run("cpu", x, params), run("reference", x, params), truth, strict=True
    ):
        if dtype == torch.float64:
            torch.testing.assert_close(actual, exact, rtol=1e-12, atol=1e-12)
        else:
            assert_within_budget(name, actual, reference, exact)


def test_strided_inputs():
    x, params = torch.randn(4, 6, 5), torch.randn(4, 6, 5, 14)
    expected = run("cpu", x.transpose(1, 2).contiguous(), params.transpose(1, 2).contiguous())
    for actual, wanted in zip(
        run("cpu", x.transpose(1, 2), params.transpose(1, 2)), expected, strict=True
    ):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_bits_for_any_number_of_threads(dtype):
    x, params = torch.randn(3, 1700, dtype=dtype), torch.randn(3, 1700, 14, dtype=dtype)
    expected = run("cpu", x, params)
    for threads in (2, 3, 5, 64):
        torch.set_num_threads(threads)
        for actual, wanted in zip(run("cpu", x, params), expected, strict=True):
            assert torch.equal(actual, wanted), threads


def test_an_image_does_not_depend_on_its_neighbours():
    x, params = torch.randn(3, 700), torch.randn(3, 700, 14)
    y, logdet = run("cpu", x, params)
    alone_y, alone_logdet = run("cpu", x[1:2].clone(), params[1:2].clone())
    assert torch.equal(y[1:2], alone_y)
    assert torch.equal(logdet[1:2], alone_logdet)


GOOD = {
    "x": 1,
    "params": 1,
    "y": 1,
    "logdet": 1,
    "batch": 2,
    "elements": 3,
    "components": 4,
    "threads": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "null"),
        ({"params": None}, "null"),
        ({"y": None}, "null"),
        ({"logdet": None}, "null"),
        ({"batch": -1}, "negative"),
        ({"elements": -1}, "negative"),
        ({"components": 0}, "components"),
        ({"components": -3}, "components"),
        ({"threads": 0}, "threads"),
        ({"components": 2**62}, "large"),
        ({"batch": 2**40, "elements": 2**40}, "large"),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["f32", "f64"])
def test_misuse_returns_an_error_and_writes_nothing(change, message, suffix):
    library = ctypes.CDLL(str(native.LIBRARY_FOLDER / "libvflow_cpu.so"))
    kernel = getattr(library, f"vflow_cpu_mixlogistic_{suffix}")
    kernel.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int]
    library.vflow_error_message.restype = ctypes.c_char_p
    buffers = {
        name: torch.full((6 * 14,), 7.0, dtype=torch.float64)
        for name in ("x", "params", "y", "logdet")
    }
    arguments = {**GOOD, **{name: t.data_ptr() for name, t in buffers.items()}, **change}
    error = kernel(*arguments.values())
    assert error != 0
    assert message in library.vflow_error_message(error).decode()
    assert (buffers["y"] == 7).all()
    assert (buffers["logdet"] == 7).all()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("target", ["generic", "x86-64-v3", "x86-64-v4"])
def test_every_instruction_set(target, tmp_path, monkeypatch):
    """Build for one instruction set alone, and hold it to the reference too."""
    if target != "generic" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{target} is not of this processor")
    options = [f"-DVFLOW_CPU_TARGETS={target}", f"-DCMAKE_INSTALL_PREFIX={tmp_path}"]
    for step in (
        ["-S", str(ROOT), "-B", str(tmp_path / "build"), *options],
        ["--build", str(tmp_path / "build"), "--target", "install"],
    ):
        done = subprocess.run(["cmake", *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr.lower(), done.stderr
    library = native._load(tmp_path / "libvflow_cpu.so")
    best = library.vflow_cpu_target().decode()
    if best != target:
        assert best == "generic", "a processor without the instruction set gets the plain one"
    monkeypatch.setattr(native, "_cpu", lambda: library)
    native._kernels.cache_clear()
    try:
        for dtype in (torch.float32, torch.float64):
            for components in (1, 4, 17):
                test_agrees_with_the_reference((3, 19, 7), components, dtype)
    finally:
        native._kernels.cache_clear()
