"""The native CPU library: mixlogistic and its inverse against the reference, and other builds."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.forks import run_fork
from tests.ops.agreement import LARGE_BYTES
from tests.tolerances import assert_within_budget
from vflow.ops import mixlogistic, mixlogistic_inverse, native, use_backend
from vflow.ops.launchers.call import Rows

ROOT = Path(__file__).parent.parent.parent
COMPONENTS = [1, 3, 4, 10, 32, 40]
SHAPES = [(1, 1), (3, 7), (2, 5, 3), (2, 13, 9, 5), (2, 513)]  # odd sizes, and more than one run
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(autouse=True)
def _built():
    assert native.cpu_missing() is None, native.cpu_missing()


def outputs_and_gradients(backend, x, params, squash=True):
    """y, logdet and, for fixed cotangents, the gradients."""
    leaves = [t.detach().requires_grad_() for t in (x, params)]
    with use_backend(backend):
        y, logdet = mixlogistic(*leaves, squash)
    generator = torch.Generator().manual_seed(2)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(x.dtype).to(t.dtype)
        for t in (y, logdet)
    ]
    return [y.detach(), logdet.detach(), *torch.autograd.grad((y, logdet), leaves, cotangents)]


def assert_agrees(x, params, squash=True):
    """Hold the native forward and backward to the reference, at the dtype of the inputs."""
    truth = outputs_and_gradients("reference", x.double(), params.double(), squash)
    found = outputs_and_gradients("cpu", x, params, squash)
    reference = outputs_and_gradients("reference", x, params, squash)
    names = ["y", "logdet", "grad x", "grad params"]
    for name, f, r, t in zip(names, found, reference, truth, strict=True):
        if x.dtype == torch.float64:
            assert f.isfinite().all()
            torch.testing.assert_close(f, t, rtol=1e-12, atol=1e-12 * t.abs().max().item())
        else:
            # The logarithms that a log-determinant adds up are of order one.
            assert_within_budget(name, f, r, t, scale=1.0 if name == "logdet" else 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(shape, components, squash, dtype):
    x = 3 * torch.randn(shape, dtype=dtype)
    params = 2 * torch.randn(*shape, 2 + 3 * components, dtype=dtype)
    assert_agrees(x, params, squash)


@given(
    batch=st.integers(1, 3),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    components=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    squash=st.booleans(),
    split=st.sampled_from(["checkerboard", "channels", "transposed", "whole"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_on_any_shape_and_stride(batch, shape, components, dtype, squash, split, seed):
    torch.manual_seed(seed)
    if split == "checkerboard":
        wide = torch.randn(batch, *shape[:-1], 2 * shape[-1], 3)
        x = wide[..., 1::2, :]
    elif split == "channels":
        x = torch.randn(batch, *shape, 5)[..., 2:]
    elif split == "transposed":
        x = torch.randn(batch, 3, *shape).movedim(1, -1)
    else:
        x = torch.randn(batch, *shape)
    params = torch.randn(*x.shape, 2 + 3 * components)
    x, params = x.to(dtype), params.to(dtype)  # .to keeps strides
    assert_agrees(x, params, squash)


@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inverse_of_strided_outputs(dtype, components, squash):
    """The inverse meets y as closely as the reference's inverse does."""
    x = torch.randn(3, 6, 8, 5, dtype=torch.float64)[:, :, 1::2]
    params = torch.randn(*x.shape, 2 + 3 * components, dtype=torch.float64).to(dtype)
    y = torch.empty(3, 6, 8, 5, dtype=dtype)[:, :, 1::2]
    with use_backend("reference"):
        reach = 2.5 * torch.tanh(x)  # well inside the squash
        y.copy_(params[..., 1] + params[..., 0].double().tanh().exp() * reach)
        expected, expected_logdet = mixlogistic_inverse(y, params, squash)
        truth, truth_logdet = mixlogistic_inverse(y.double(), params.double(), squash)
    with use_backend("cpu"):
        found, logdet = mixlogistic_inverse(y, params, squash)
    if dtype == torch.float64:  # the Newton iterations end within some roundings of each other
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logdet, truth_logdet, rtol=1e-9, atol=1e-9)
    else:
        assert_within_budget("x", found, expected, truth)
        assert_within_budget("logdet", logdet, expected_logdet, truth_logdet, scale=1.0)


@pytest.mark.parametrize(
    ("tensor", "copied"),
    [
        (torch.arange(24).view(2, 3, 4), False),
        (torch.arange(48).view(2, 2, 4, 3)[:, :, ::2], False),
        (torch.arange(48).view(2, 2, 4, 3)[:, :, 1::2], False),
        (torch.arange(48).view(2, 2, 4, 3)[..., 1:], False),
        (torch.arange(48).view(2, 2, 4, 3)[..., 1:2], False),
        (torch.tensor(7).expand(2, 3, 4), False),
        (torch.arange(24).view(2, 3, 4).transpose(1, 2), True),
        (torch.arange(2)[:, None].expand(2, 5), True),
        (torch.arange(48).view(2, 4, 3, 2)[:, ::2, :, 1:], True),
    ],
    ids=["whole", "even", "odd", "channels", "channel", "expanded", "transposed", "rows", "both"],
)
def test_rows_are_the_tensor(tensor, copied):
    """What the C ABI reads is the tensor, and only what lies in no rows is copied."""
    rows = Rows(tensor)
    pointer, row, stride = rows.arguments
    assert (rows.tensor.data_ptr() != tensor.data_ptr()) == copied
    numbers = [
        ctypes.c_int64.from_address(pointer + 8 * (i // row * stride + i % row)).value
        for i in range(tensor.numel())
    ]
    assert numbers == tensor.flatten().tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_for_any_number_of_threads(dtype):
    x, params = torch.randn(3, 1700).to(dtype), torch.randn(3, 1700, 14).to(dtype)

    def run():
        with use_backend("cpu"):
            inverse = mixlogistic_inverse(x, params)
        return [*outputs_and_gradients("cpu", x, params), *inverse]

    expected = run()
    for threads in (2, 3, 5, 64):
        torch.set_num_threads(threads)
        for actual, wanted in zip(run(), expected, strict=True):
            assert torch.equal(actual, wanted), threads


@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
def test_an_image_does_not_depend_on_its_neighbours(squash):
    x, params = torch.randn(3, 700), torch.randn(3, 700, 14)
    x[2] *= 1e4  # its sums are taken in log space
    together = outputs_and_gradients("cpu", x, params, squash)
    for i in range(3):
        image = slice(i, i + 1)
        with use_backend("cpu"):
            alone = mixlogistic(x[image].clone(), params[image].clone(), squash)
        for one, all_of_them in zip(alone, together, strict=False):
            assert torch.equal(one, all_of_them[image])


def test_large_gradients_go_around_the_caches():
    """Above 8 MiB the gradient of the parameters is streamed: the same bits as image by image."""
    x, params = torch.randn(5, 4507), torch.randn(5, 4507, 98)
    y, logdet, grad_x, grad_params = outputs_and_gradients("cpu", x, params)
    assert grad_params.nbytes > LARGE_BYTES
    leaves = [t[:1].clone().requires_grad_() for t in (x, params)]
    generator = torch.Generator().manual_seed(2)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(torch.float32)
        for t in (y, logdet)
    ]
    with use_backend("cpu"):
        alone = torch.autograd.grad(mixlogistic(*leaves), leaves, [t[:1] for t in cotangents])
    assert torch.equal(alone[0], grad_x[:1])
    assert torch.equal(alone[1], grad_params[:1])


def python_on(target: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the library held to an instruction set."""
    return run_fork(code, {**os.environ, native.TARGET_VARIABLE: target})


SAY_WHETHER = "from vflow.ops import native; print(native.cpu_missing())"


@pytest.mark.parametrize("target", ["generic", "x86-64-v2", "x86-64-v3"])
def test_every_instruction_set(target):
    """The lesser ones, too, agree with the reference: their tests once more, in a process each."""
    if native.TARGET_VARIABLE in python_on(target, SAY_WHETHER).stdout:
        pytest.skip(f"{target} is not of this processor or build")
    tests = [__file__, *map(str, Path(__file__).parent.glob("test_cpu_*.py"))]
    arguments = [*tests, "-k", "agrees or inverse", "-p", "no:cacheprovider"]
    done = python_on(target, f"import pytest; raise SystemExit(pytest.main({arguments}))")
    assert done.returncode == 0, done.stdout[-4000:]


def test_an_instruction_set_that_is_not_there_is_named():
    said = python_on("x86-64-v9", SAY_WHETHER).stdout
    assert native.TARGET_VARIABLE in said
    assert "got 'x86-64-v9'" in said


ARM_COMPILER = "aarch64-linux-gnu-g++"


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(shutil.which(ARM_COMPILER) is None, reason=f"needs {ARM_COMPILER}")
def test_compiles_for_other_processors(tmp_path):
    """Where there are no x86-64 levels, the plain kernels serve."""
    for step in (
        [
            *["-S", str(ROOT), "-B", str(tmp_path), f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}"],
            *["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"],
            "-DVFLOW_CUDA=OFF",  # which has nothing of the processor's
        ],
        ["--build", str(tmp_path)],
    ):
        done = subprocess.run(["cmake", *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr.lower(), done.stderr
    header = (tmp_path / "libvflow_cpu.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183, "not for aarch64"
