"""What the CUDA library has that Triton's kernels have not: paths by size and alignment, a C ABI.

Values are held to the reference in the tests of each operation; these choose the ways around.
"""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.kernels import emulated
from tests.kernels.agreement import DEVICE, DTYPES, assert_agrees, wide
from tests.kernels.launchers import cuda_launchers
from vflow.ops import backend, native
from vflow.ops.launchers import call
from vflow.ops.reference import actnorm_conv1x1 as actnorm_reference
from vflow.ops.reference import concat_elu as elu_reference
from vflow.ops.reference import dropout as dropout_reference
from vflow.ops.reference import gated_residual_norm as norm_reference
from vflow.ops.reference import mixlogistic as mix_reference
from vflow.ops.reference import mixlogistic_inverse as inverse_reference

actnorm_conv1x1 = cuda_launchers("actnorm_conv1x1")
concat_elu = cuda_launchers("concat_elu")
dropout = cuda_launchers("dropout")
gated_residual_norm = cuda_launchers("gated_residual_norm")
mixlogistic = cuda_launchers("mixlogistic")

emulated_only = pytest.mark.skipif(DEVICE != "cpu", reason="asks the emulator")


@pytest.fixture(autouse=True)
def _library(cuda_kernels):
    """Every test runs on the CUDA library or its emulation."""


@pytest.fixture
def emulator():
    library = emulated.library()
    library.emulator_last_stream.restype = ctypes.c_void_p
    yield library
    library.emulator_reverse(0)


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def misaligned(tensor):
    """A copy whose first number is not on a multiple of 16 bytes."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return room[1:].view(tensor.shape).copy_(tensor)


def mixture(shape, components, dtype, seed=0):
    x, grad_y = 2 * normal(*shape, dtype=dtype, seed=seed), normal(*shape, dtype=dtype)
    params = normal(*shape, 2 + 3 * components, dtype=dtype)
    return x, params, grad_y, normal(shape[0], dtype=wide(dtype))


def assert_mixture_agrees(x, params, grad_y, grad_logdet):
    squash = {"squash": True}
    assert_agrees(
        lambda *t: mixlogistic.mixlogistic(*t, **squash), mix_reference.mixlogistic, (x, params)
    )
    assert_agrees(
        lambda *t: mixlogistic.mixlogistic_backward(*t, **squash),
        mix_reference.mixlogistic_backward,
        (grad_y, grad_logdet, x, params),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("components", [4, 10, 32, 7])
@pytest.mark.parametrize("elements", [45, 256], ids=["odd", "even"])
def test_parameters_on_and_off_16_bytes(components, dtype, elements):
    """Tiles of both kinds are copied: in chunks where they can be, else number by number."""
    x, params, grad_y, grad_logdet = mixture((2, elements), components, dtype)
    assert_mixture_agrees(x, params, grad_y, grad_logdet)
    assert_mixture_agrees(x, misaligned(params), grad_y, grad_logdet)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("components", [90, 700])
def test_more_components_than_shared_memory_holds(components, dtype):
    """90 are too many for the inverse's room, 700 for a tile of rows."""
    x, params, grad_y, grad_logdet = mixture((2, 35), components, dtype)
    assert_mixture_agrees(x, params, grad_y, grad_logdet)
    y, _ = mix_reference.mixlogistic(x.cpu(), params.cpu())
    found = mixlogistic.mixlogistic_inverse(y.to(DEVICE), params, squash=True)
    expected = inverse_reference.mixlogistic_inverse(y, params.cpu())
    tolerance = 1e-9 if dtype == torch.float64 else 64 * torch.finfo(dtype).eps
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(
            a.cpu(), e, rtol=tolerance, atol=tolerance * e.abs().max().item()
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [8, 40, 56, 96, 112, 264, 512, 520])
def test_rows_of_every_number_of_chunks(features, dtype):
    grad, x = normal(9, features, dtype=dtype), normal(9, features, dtype=dtype, seed=1)
    ab, weight = normal(9, 2 * features, dtype=dtype), normal(features, dtype=dtype)
    for change in (lambda t: t, misaligned):
        inputs = change(x), ab, weight, weight
        norm = gated_residual_norm
        assert_agrees(norm.gated_residual_norm, norm_reference.gated_residual_norm, inputs)
        assert_agrees(
            norm.gated_residual_norm_backward,
            norm_reference.gated_residual_norm_backward,
            (grad, *inputs),
        )
        assert_agrees(concat_elu.concat_elu, elu_reference.concat_elu, (change(x),))
        assert_agrees(
            concat_elu.concat_elu_backward, elu_reference.concat_elu_backward, (ab, change(x))
        )


DROPOUTS = [
    (dropout.dropout, dropout_reference.dropout),
    (concat_elu.concat_elu_dropout, elu_reference.concat_elu_dropout),
    (concat_elu.concat_elu_dropout_backward, elu_reference.concat_elu_dropout_backward),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("launch", "reference"), DROPOUTS, ids=["alone", "forward", "backward"])
@pytest.mark.parametrize("channels", [8, 33, 264])
def test_dropout_of_rows_on_and_off_16_bytes(launch, reference, channels, dtype):
    """The mask is the reference's to the bit, whatever rows the last four or two of them lack."""
    seed, p = torch.tensor([0xDEADBEEF, 0xFFFFFFFF], device=DEVICE), 0.4
    for rows in (1, 2, 3, 4, 37):
        x = normal(rows, channels, dtype=dtype)
        grad = normal(rows, 2 * channels, dtype=dtype, seed=1)
        for change in (lambda t: t, misaligned):
            inputs = (grad, change(x)) if "backward" in reference.__name__ else (change(x),)
            assert_agrees(
                lambda *t: launch(*t, seed, p), lambda *t: reference(*t, seed.cpu(), p), inputs
            )
            kept = reference(*(t.cpu() for t in inputs), seed.cpu(), p) != 0
            assert torch.equal(launch(*inputs, seed, p).cpu() != 0, kept)


def test_the_seed_is_read_when_the_kernel_runs():
    """From its place in memory, of both words: other numbers there are another mask."""
    x, seed = torch.ones(40, 16, device=DEVICE), torch.tensor([1, 2], device=DEVICE)
    first = dropout.dropout(x, seed, 0.5)
    for word in (0, 1):
        seed[word] += 1
        assert not torch.equal(dropout.dropout(x, seed, 0.5), first)
        seed[word] -= 1
    assert torch.equal(dropout.dropout(x, seed, 0.5), first)


@pytest.mark.parametrize(("rows", "features"), [(4099, 512), (1030, 3)], ids=["held", "walked"])
def test_more_rows_than_blocks(rows, features):
    """Blocks visit several rows, some one fewer than others."""
    inputs = normal(rows, features), normal(rows, features, seed=1), normal(rows, 2 * features)
    inputs += normal(features), normal(features)
    assert_agrees(
        gated_residual_norm.gated_residual_norm_backward,
        norm_reference.gated_residual_norm_backward,
        inputs,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(300, 2, 4), (600, 1), (70, 40, 3), (2, 3, 70), (3, 130)], ids=str
)
def test_many_images_and_large_matrices(shape, dtype):
    """Several lines a block, several images a line; matrices beyond shared memory."""
    channels = shape[-1]
    x, grad_y = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    bias, scale = normal(*shape[1:], dtype=dtype), normal(*shape[1:], dtype=dtype).abs() + 0.5
    weight = torch.linalg.qr(normal(channels, channels, dtype=torch.float64).cpu())[0]
    inputs = x, scale, bias, weight.to(DEVICE, dtype)
    op, reference = actnorm_conv1x1, actnorm_reference
    assert_agrees(op.actnorm_conv1x1, reference.actnorm_conv1x1, inputs)
    assert_agrees(op.actnorm_conv1x1_inverse, reference.actnorm_conv1x1_inverse, inputs)
    grads = grad_y, normal(shape[0], dtype=wide(dtype))
    assert_agrees(
        op.actnorm_conv1x1_backward, reference.actnorm_conv1x1_backward, (*grads, *inputs)
    )


def every_launch():
    """Results of every function, at sizes of more than one block and more than one warp."""
    x, params, grad_y, grad_logdet = mixture((2, 150), 10, torch.float32)
    found = [*mixlogistic.mixlogistic(x, params, squash=True)]
    found += mixlogistic.mixlogistic_inverse(x, params, squash=False)
    found += mixlogistic.mixlogistic_backward(grad_y, grad_logdet, x, params, squash=False)
    rows, ab, weight = normal(70, 96), normal(70, 192), normal(96)
    found += gated_residual_norm.gated_residual_norm_backward(rows, rows, ab, weight, weight)
    found += [concat_elu.concat_elu(rows), concat_elu.concat_elu_backward(ab, rows)]
    seed = torch.tensor([3, 4], device=DEVICE)
    found += [dropout.dropout(rows, seed, 0.3), concat_elu.concat_elu_dropout(rows, seed, 0.3)]
    found += [concat_elu.concat_elu_dropout_backward(ab, rows, seed, 0.3)]
    images, scale, square = normal(5, 40, 12), normal(40, 12).abs(), normal(12, 12)
    found += actnorm_conv1x1.actnorm_conv1x1(images, scale, scale, square)
    found += actnorm_conv1x1.actnorm_conv1x1_inverse(images, scale, scale, square)
    grads = images, normal(5)
    return [*found, *actnorm_conv1x1.actnorm_conv1x1_backward(*grads, images, scale, scale, square)]


@emulated_only
def test_threads_may_run_in_any_order(emulator):
    """What needs a barrier has one: the last thread first gives the same bits."""
    expected = every_launch()
    emulator.emulator_reverse(1)
    for i, (a, e) in enumerate(zip(every_launch(), expected, strict=True)):
        assert torch.equal(a, e), f"result {i}"


@emulated_only
def test_runs_on_the_stream_and_device_of_its_input_and_leaves_the_device_as_it_was(
    emulator, monkeypatch
):
    monkeypatch.setattr(call, "queue_of", lambda x: (1, 0x1234))
    concat_elu.concat_elu(normal(3, 4))
    assert emulator.emulator_last_stream() == 0x1234
    assert emulator.emulator_device() == 0
    monkeypatch.setattr(call, "queue_of", lambda x: (7, 0))
    with pytest.raises(RuntimeError, match=r"vflow_cuda_concat_elu failed: invalid device ordinal"):
        concat_elu.concat_elu(normal(3, 4))


def test_1025_channels_are_refused():
    x, square = torch.zeros(1, 1025, device=DEVICE), torch.zeros(1025, 1025, device=DEVICE)
    with pytest.raises(RuntimeError, match="at most 1024 channels"):
        actnorm_conv1x1.actnorm_conv1x1(x, x[0], x[0], square)


@pytest.mark.skipif(DEVICE != "cpu", reason="there is a device")
def test_without_a_device_the_backend_says_so():
    assert backend.describe()["mixlogistic"]["cuda"] == "there is no CUDA device"
    missing = native.LIBRARY_FOLDER / "no" / "libvflow_cuda.so"
    with pytest.raises(native.LibraryMissing, match=r"was not built \(pip install needs nvcc\)"):
        native.load_cuda(missing)


def test_old_devices_are_refused(monkeypatch):
    known = backend.Implementation(launch=torch.clone, capability=(8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    reason = backend._too_old(known, torch.device("cuda", 0))
    assert reason == "it needs a device of compute capability 8.0 or above, cuda:0 has 7.5"
    assert backend._too_old(known, torch.device("cpu")) is None


def test_order_on_a_device(monkeypatch):
    """Triton's come first until somebody has measured; an operation may say otherwise."""
    assert backend.order("concat_elu", "cuda") == ("triton", "cuda", "reference")
    monkeypatch.setitem(backend._first, "concat_elu", "cuda")
    assert backend.order("concat_elu", "cuda") == ("cuda", "triton", "reference")
    assert backend.order("concat_elu", "cpu") == ("cpu", "reference")
