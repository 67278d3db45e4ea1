"""The mixture-of-logistics kernels: against the reference, at the extremes, on views."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from tests.kernels.agreement import (
    DEVICE,
    DTYPES,
    assert_agrees,
    assert_same_bits,
    to_device,
    wide,
)
from tests.tolerances import assert_within_budget
from vflow.ops.reference.mixlogistic import mixlogistic, mixlogistic_backward, mixture
from vflow.ops.reference.mixlogistic_inverse import mixlogistic_inverse

REACH = math.log(0.95 / 0.05)  # |logit(u)| at the ends of the squash


@pytest.fixture(params=[True, False], ids=["squash", "no squash"])
def squash(request):
    return request.param


@pytest.fixture
def forward(kernels, squash):
    return partial(kernels.mixlogistic.mixlogistic, squash=squash)


@pytest.fixture
def backward(kernels, squash):
    return partial(kernels.mixlogistic.mixlogistic_backward, squash=squash)


@pytest.fixture
def invert(kernels, squash):
    return partial(kernels.mixlogistic_inverse.mixlogistic_inverse, squash=squash)


def make(shape, components, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, grad_y, grad_logdet, params = (
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in (shape, shape, shape[:1], (*shape, 2 + 3 * components))
    )
    return to_device(
        (2 * x).to(dtype), params.to(dtype), grad_y.to(dtype), grad_logdet.to(wide(dtype))
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("components", [1, 3, 4, 10, 32, 40])
def test_agrees_with_the_reference(forward, backward, squash, components, dtype):
    # More than one tile an image for most, and never a whole number of them.
    x, params, grad_y, grad_logdet = make((2, 5, 3, 3), components, dtype)
    assert_agrees(forward, partial(mixlogistic, squash=squash), (x, params))
    assert_agrees(
        backward, partial(mixlogistic_backward, squash=squash), (grad_y, grad_logdet, x, params)
    )


@pytest.mark.parametrize("shape", [(3, 1), (1, 2, 700)], ids=str)
def test_tiny_and_large_images(forward, backward, squash, shape):
    x, params, grad_y, grad_logdet = make(shape, 4, torch.float32)
    assert_agrees(forward, partial(mixlogistic, squash=squash), (x, params))
    assert_agrees(
        backward, partial(mixlogistic_backward, squash=squash), (grad_y, grad_logdet, x, params)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("components", [1, 10])
def test_inverse_agrees_with_the_reference(invert, squash, components, dtype):
    x, params, _, _ = make((2, 7, 3), components, dtype)
    y, _ = mixlogistic(x.cpu(), params.cpu(), squash)
    if dtype == torch.float64:  # Newton's end is where it ends: to its own tolerance
        found, logdet = invert(y.to(DEVICE), params)
        expected, expected_logdet = mixlogistic_inverse(y, params.cpu(), squash)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logdet.cpu(), expected_logdet, rtol=1e-9, atol=1e-9)
    else:
        assert_agrees(invert, partial(mixlogistic_inverse, squash=squash), (y.to(DEVICE), params))


def test_round_trip_of_32_components(forward, invert):
    x, params, _, _ = make((2, 3, 3), 32, torch.float64)
    y, logdet = forward(x, params)
    back, inverse_logdet = invert(y, params)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-9, atol=1e-9)


def extreme(components, dtype, seed=0):
    """|x| to 50 and beyond, narrow and wide components, far means, tiny weights."""
    generator = torch.Generator().manual_seed(seed)

    def pick(values, shape):
        return torch.tensor(values)[torch.randint(len(values), shape, generator=generator)]

    shape = (2, 40)
    x = torch.randn(shape, generator=generator) * pick([1.0, 50.0, 1000.0], shape)
    params = torch.randn(*shape, 2 + 3 * components, generator=generator)
    logits, means, log_scales = params[..., 2:].chunk(3, dim=-1)
    logits *= pick([1.0, 16.0], (*shape, 1))
    means *= pick([1.0, 100.0], (*shape, 1))
    log_scales += pick([-9.0, 0.0, 9.0], log_scales.shape)
    return to_device(x.to(dtype), params.to(dtype))


@pytest.mark.parametrize("components", [1, 3, 10])
def test_extremes(forward, backward, squash, components):
    x, params = extreme(components, torch.float32)
    ones = torch.ones(2, device=DEVICE)
    assert_agrees(forward, partial(mixlogistic, squash=squash), (x, params))
    assert_agrees(
        backward,
        partial(mixlogistic_backward, squash=squash),
        (torch.ones_like(x), ones, x, params),
    )


@pytest.mark.parametrize("components", [1, 4])
def test_inverse_of_extremes_meets_the_cdf(kernels, components):
    _, params = extreme(components, torch.float32)
    params[..., :2] = 0  # y is the log-odds of the squashed CDF itself
    y = torch.linspace(-2.9, 2.9, 80, device=DEVICE).view(2, 40)
    found = kernels.mixlogistic_inverse.mixlogistic_inverse(y, params, squash=True)[0]
    found = found.cpu().double().view(-1)
    # Four roundings of x either side: neighbouring floats can be far apart in the CDF.
    rounding = 4 * torch.finfo(torch.float32).eps * found.abs()
    parts = params[..., 2:].cpu().double().view(80, -1).t().contiguous().chunk(3)
    target = (torch.sigmoid(y.cpu().double().view(-1)) - 0.05) / 0.9
    assert (mixture(found - rounding, *parts).cdf <= target + 1e-6).all()
    assert (mixture(found + rounding, *parts).cdf >= target - 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tails(kernels, dtype):
    """Far from every component the density decays like exp(-|z|), in log space without end."""
    x = torch.tensor([[-5e4], [-50.0], [50.0], [5e4]], dtype=dtype, device=DEVICE)
    params = torch.zeros(4, 1, 8, dtype=dtype, device=DEVICE)
    y, logdet = kernels.mixlogistic.mixlogistic(x, params, squash=True)
    far = x[:, 0].double()
    expected = -far.abs() + math.log(0.9) - math.log(0.05) - math.log(0.95)
    torch.testing.assert_close(logdet.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(y[:, 0].double(), REACH * far.sign(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_squash_one_component_is_affine_however_far(kernels, dtype):
    x = torch.tensor([[-5e4], [-300.0], [0.5], [300.0], [5e4]], dtype=dtype, device=DEVICE)
    params = torch.zeros(5, 1, 5, dtype=dtype, device=DEVICE)
    y, logdet = kernels.mixlogistic.mixlogistic(x, params, squash=False)
    back, _ = kernels.mixlogistic_inverse.mixlogistic_inverse(y, params, squash=False)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(logdet, torch.zeros_like(logdet), rtol=0, atol=1e-2)
    torch.testing.assert_close(back, x)


def test_equal_components_are_one(forward, backward, squash):
    """And one of weight 1 - 1e-7 rules where it can."""
    x = torch.linspace(-50, 50, 40, device=DEVICE)[None]
    one = torch.randn(1, 40, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    parts = [t.expand(-1, -1, 5) for t in one[..., 2:].split(1, dim=-1)]
    equal = torch.cat([one[..., :2], *parts], dim=-1)
    single = forward(x, one)
    for actual, expected in zip(forward(x, equal), single, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    light = torch.tensor([0, *[math.log(1e-7 / 4)] * 4], device=DEVICE)
    heavy = torch.cat([one[..., :2], parts[0] + light, *parts[1:]], dim=-1)
    heavy[..., -4:] = 3  # the light ones reach further and rule the tails
    ones = torch.ones(1, device=DEVICE)
    for params in (equal, heavy):
        assert_agrees(forward, partial(mixlogistic, squash=squash), (x, params))
        assert_agrees(
            backward,
            partial(mixlogistic_backward, squash=squash),
            (torch.ones_like(x), ones, x, params),
        )


@pytest.mark.parametrize("log_scale", [-7.1, -30.0])
def test_clamped_log_scale_acts_as_minus_seven_without_gradient(forward, backward, log_scale):
    x, params, grad_y, grad_logdet = make((3, 5), 3, torch.float64)
    x *= 1e-3
    params[..., 5:8] *= 1e-3
    params[..., 8] = log_scale
    at_clamp = params.clone()
    at_clamp[..., 8] = -7
    for actual, expected in zip(forward(x, params), forward(x, at_clamp), strict=True):
        assert torch.equal(actual, expected)
    _, gradient = backward(grad_y, grad_logdet, x, params)
    assert (gradient[..., 8] == 0).all()
    assert (gradient[..., 9:] != 0).all()


def test_nan_is_not_hidden(forward, invert):
    """A diverged network must show: the training loop skips steps by it."""
    params = torch.zeros(12, 1, 11, device=DEVICE)
    places = torch.arange(11)
    params[places, 0, places] = math.nan  # the last image is whole
    x = torch.zeros(12, 1, device=DEVICE)
    y, logdet = forward(x, params)
    assert y[:11].isnan().all()
    # The shift does not enter the derivative.
    assert logdet.isnan().tolist() == [place != 1 for place in range(11)] + [False]
    assert y[11].isfinite()
    y = torch.zeros(2, 3, device=DEVICE)
    y[0, 2] = math.nan
    x, logdet = invert(y, torch.zeros(2, 3, 11, device=DEVICE))
    assert x.isnan().tolist() == [[False, False, True], [False] * 3]
    assert logdet.isnan().tolist() == [True, False]


def test_inverse_ends_for_absurd_parameters(invert):
    y = torch.linspace(-2.9, 2.9, 60, device=DEVICE)[None]
    scale = torch.tensor([1e2, 1e4, 1e30]).repeat(20)[:, None]
    params = scale * torch.randn(1, 60, 14, generator=torch.Generator().manual_seed(0))
    x, _ = invert(y, params.to(DEVICE))
    assert x.isfinite().all()


@pytest.mark.skipif(DEVICE != "cpu", reason="a compiled kernel does not see the change")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bisection_alone_ends_at_the_answer(triton_kernels, monkeypatch, dtype):
    """What Newton's method leaves unsettled, the count of floats in the bracket settles."""
    monkeypatch.setattr(triton_kernels.mixlogistic_inverse, "NEWTON_ITERATIONS", 0)
    x, params, _, _ = make((1, 20), 4, dtype)
    params[..., 2:6] *= 10
    y, _ = mixlogistic(x.cpu(), params.cpu())
    found, _ = triton_kernels.mixlogistic_inverse.mixlogistic_inverse(y, params, squash=True)
    back, _ = mixlogistic(found.cpu(), params.cpu())
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(back, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inverse_is_finite_for_every_finite_y(invert, dtype):
    largest = torch.finfo(dtype).max
    y = torch.tensor([0, 2.9, 2.95, 10, 1e4, largest], dtype=dtype)
    y = torch.cat([-y, y])
    params = torch.randn(12, 14, generator=torch.Generator().manual_seed(0)).to(dtype)
    x, logdet = invert(*to_device(torch.cat([y, y])[None], torch.cat([params, 100 * params])[None]))
    assert x.isfinite().all()
    assert logdet.isfinite().all()


def test_two_runs_give_the_same_bits(forward, backward):
    x, params, grad_y, grad_logdet = make((2, 5, 7, 3), 10, torch.float32)
    assert_same_bits(forward, (x, params))
    assert_same_bits(backward, (grad_y, grad_logdet, x, params))


@pytest.mark.parametrize(
    ("dtype", "squash"),
    [(torch.float32, True), (torch.bfloat16, False)],
    ids=["float32", "bfloat16, no squash"],
    indirect=["squash"],
)
def test_views_are_taken_as_they_are(forward, backward, invert, dtype):
    x, params, grad_y, grad_logdet = make((2, 4, 6, 4), 3, dtype)
    for cut in (
        lambda t: t[:, :, 1::2],
        lambda t: t[:, ::2],
        lambda t: t[:, :, :, 1:3],
        lambda t: t[:, :, :, ::2],
        lambda t: t.transpose(1, 2),
        lambda t: t[:1, :, :, :1].expand(2, 4, 6, *t.shape[3:]),
    ):
        views, p = (cut(x), cut(grad_y)), cut(params)
        x_c, grad_c, p_c = (t.contiguous() for t in (*views, p))
        assert_same_bits(forward, (views[0], p), (x_c, p_c))
        assert_same_bits(
            backward, (views[1], grad_logdet, views[0], p), (grad_c, grad_logdet, x_c, p_c)
        )
    half = x[:, :, 1::2]
    assert_same_bits(
        invert, (half, params[:, :, 1::2]), (half.contiguous(), params[:, :, 1::2].contiguous())
    )


def test_expanded_gradients(backward):
    x, params, _, _ = make((3, 4, 2), 3, torch.float32)
    one = torch.ones((), device=DEVICE)
    inputs = one.expand(3, 4, 2), one.expand(3), x, params
    assert_same_bits(backward, inputs, tuple(t.contiguous() for t in inputs))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)], ids=str)
def test_empty(forward, backward, invert, shape):
    x, params, grad_y, grad_logdet = make(shape, 3, torch.float32)
    for function in (forward, invert):
        y, logdet = function(x, params)
        assert y.shape == x.shape
        assert torch.equal(logdet, torch.zeros(shape[0], device=DEVICE))
    assert [g.shape for g in backward(grad_y, grad_logdet, x, params)] == [x.shape, params.shape]


def test_offsets_beyond_32_bits(kernels, tmp_path):
    """Two images 2^31 + 3 numbers apart, in a file with a hole."""
    apart = 2**31 + 3
    path = tmp_path / "numbers"
    with path.open("wb") as file:
        file.truncate(4 * (apart + 8))
    stored = torch.from_file(str(path), shared=True, size=apart + 8, dtype=torch.float32)
    x = stored.as_strided((2, 4, 2), (apart, 2, 1))
    numbers, params, grad_y, grad_logdet = (t.cpu() for t in make((2, 4, 2), 2, torch.float32))
    x.copy_(numbers)
    if DEVICE == "cuda":
        x = torch.empty(apart + 8, device=DEVICE).as_strided((2, 4, 2), (apart, 2, 1)).copy_(x)
    params, grad_y, grad_logdet, numbers = to_device(params, grad_y, grad_logdet, numbers)
    forward = partial(kernels.mixlogistic.mixlogistic, squash=True)
    backward = partial(kernels.mixlogistic.mixlogistic_backward, squash=True)
    assert_same_bits(forward, (x, params), (numbers, params))
    assert_same_bits(
        backward, (grad_y, grad_logdet, x, params), (grad_y, grad_logdet, numbers, params)
    )


def test_the_budget_can_be_missed(kernels):
    """A log-determinant that is off by 1e-4 of its size fails."""
    x, params, _, _ = make((2, 5), 3, torch.float32)
    logdet = kernels.mixlogistic.mixlogistic(x, params, squash=True)[1].cpu()
    truth = mixlogistic(x.cpu().double(), params.cpu().double())[1]
    reference = mixlogistic(x.cpu(), params.cpu())[1]
    with pytest.raises(AssertionError, match="budget"):
        assert_within_budget("logdet", logdet * (1 + 1e-4), reference, truth)
