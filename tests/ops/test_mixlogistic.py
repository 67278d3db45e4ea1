"""The mixture-of-logistics transform: the authors' numbers, extremes, its inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import load, tensor
from tests.ops.inputs import plain_mixlogistic
from tests.tolerances import assert_within_budget, relative_error
from vflow.ops import mixlogistic, mixlogistic_inverse, use_backend
from vflow.ops.reference.mixlogistic import mixture
from vflow.ops.reference.mixlogistic_inverse import mixture_quantile

BACKENDS = ["reference", "cpu"]
GOLDEN_TOLERANCE = 1e-8
REACH = math.log(0.95 / 0.05)  # |logit(u)| at the ends of the squash


@pytest.fixture(scope="module")
def golden():
    return load("mixlogistic")


def golden_inputs(golden, components):
    def get(name):
        return tensor(golden[f"K{components}/{name}"])

    a = get("log_scale")
    head = torch.stack([torch.atanh(a), get("shift")], dim=-1)
    params = torch.cat([head, get("logits"), get("means"), get("logscales")], dim=-1)
    return get, a, get("x")[:, None], params[:, None]  # one element an image: logdet is elementwise


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("components", [4, 10, 32])
def test_golden(golden, components, backend):
    get, a, x, params = golden_inputs(golden, components)
    x.requires_grad_()
    params.requires_grad_()
    with use_backend(backend):
        y, logdet = mixlogistic(x, params)
    assert relative_error(y[:, 0], get("out/y")) < GOLDEN_TOLERANCE
    assert relative_error(logdet, get("out/logd")) < GOLDEN_TOLERANCE
    objective = (get("w_y") * y[:, 0]).sum() + (get("w_logd") * logdet).sum()
    grad_x, grad_params = torch.autograd.grad(objective, (x, params))
    grad_params = grad_params[:, 0]
    found = {
        "x": grad_x[:, 0],
        "log_scale": grad_params[:, 0] / (1 - a * a),  # the authors' a is past its tanh
        "shift": grad_params[:, 1],
        "logits": grad_params[:, 2 : 2 + components],
        "means": grad_params[:, 2 + components : 2 + 2 * components],
        "logscales": grad_params[:, 2 + 2 * components :],
    }
    for name, gradient in found.items():
        assert relative_error(gradient, get(f"grad/{name}")) < GOLDEN_TOLERANCE, name


@pytest.mark.parametrize("components", [4, 10, 32])
def test_golden_cdf_density_and_quantiles(golden, components):
    get, _, x, params = golden_inputs(golden, components)
    parts = params[:, 0, 2:].t().contiguous().chunk(3)
    m = mixture(x[:, 0], *parts)
    assert relative_error(m.cdf, get("out/logcdf").exp()) < GOLDEN_TOLERANCE
    assert relative_error(m.log_density, get("out/logpdf")) < GOLDEN_TOLERANCE
    u = get("u")
    quantile = mixture_quantile(u.log() - (-u).log1p(), *parts)
    assert relative_error(quantile, get("out/invcdf")) < GOLDEN_TOLERANCE


def extreme_inputs(seed, batch, elements, components, dtype):
    """Everything at once: |x| to 50 and beyond, narrow and wide components, far means, tiny
    weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, elements)) * rng.choice([1, 50, 1000], size=(batch, elements))
    params = rng.normal(size=(batch, elements, 2 + 3 * components))
    params[..., 2 : 2 + components] *= rng.choice([1, 16], size=(batch, elements, 1))
    params[..., 2 + components : 2 + 2 * components] *= rng.choice(
        [1, 100], size=(batch, elements, 1)
    )
    params[..., 2 + 2 * components :] += rng.choice([-9, 0, 9], size=(batch, elements, components))
    return torch.from_numpy(x).to(dtype), torch.from_numpy(params).to(dtype)


def outputs_and_gradients(function, leaves, squash):
    y, logdet = function(*leaves, squash)
    return [y, logdet, *torch.autograd.grad(y.sum() + logdet.sum(), leaves)]


@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 4),
    elements=st.integers(1, 40),
    components=st.sampled_from([1, 2, 3, 4, 10, 32, 40]),
    kind=st.sampled_from([(b, s) for b in ("reference", "cpu") for s in (True, False)]),
)
def test_extremes_are_finite_and_right(seed, batch, elements, components, kind):
    backend, squash = kind
    x, params = extreme_inputs(seed, batch, elements, components, torch.float32)

    def run(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, params)]
        return outputs_and_gradients(function, leaves, squash)

    truth = run(plain_mixlogistic, torch.float64)
    with use_backend(backend):
        single, exact = run(mixlogistic, torch.float32), run(mixlogistic, torch.float64)
    plain = run(plain_mixlogistic, torch.float32)
    names = ["y", "logdet", "grad x", "grad params"]
    for name, e, s, p, t in zip(names, exact, single, plain, truth, strict=True):
        # z reaches 1e6 here, so that exp(-|z|) is good to 1e6 roundings.
        assert relative_error(e, t) < 1e-9, name
        assert_within_budget(name, s, p, t)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_tails(backend, dtype):
    """Far from every component the density decays like exp(-|z|), in log space without end."""
    x = torch.tensor([[-5e4], [-50.0], [50.0], [5e4]], dtype=dtype)
    params = torch.zeros(4, 1, 8, dtype=dtype)
    with use_backend(backend):
        y, logdet = mixlogistic(x, params)
    expected = -x[:, 0].double().abs() + math.log(0.9) - math.log(0.05) - math.log(0.95)
    torch.testing.assert_close(logdet.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(y[:, 0].double(), REACH * x[:, 0].double().sign(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_squash_one_component_is_affine_however_far(backend, dtype):
    """logit(sigmoid(z)) = z: no tail is lost to underflow."""
    x = torch.tensor([[-5e4], [-300.0], [0.5], [300.0], [5e4]], dtype=dtype)
    params = torch.zeros(5, 1, 5, dtype=dtype)
    with use_backend(backend):
        y, logdet = mixlogistic(x, params, squash=False)
        back, _ = mixlogistic_inverse(y, params, squash=False)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(logdet, torch.zeros(5, dtype=dtype), rtol=0, atol=1e-2)
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_mixtures_at_the_edge(backend, squash):
    """Equal components are one; one of weight 1 - 1e-7 rules where it can; scales at the clamp."""
    components, elements = 5, 40
    x = torch.linspace(-50, 50, elements, dtype=torch.float64)
    one = torch.randn(elements, 5, dtype=torch.float64)
    one[:, 4] = torch.linspace(-8, 2, elements, dtype=torch.float64)

    def spread(logits):
        parts = [t.expand(-1, components) for t in one[:, 2:].split(1, dim=1)]
        return torch.cat([one[:, :2], parts[0] + logits, *parts[1:]], dim=1)

    heavy = spread(torch.tensor([0, *[math.log(1e-7 / 4)] * 4], dtype=torch.float64))
    heavy[:, -4:] = 3  # the light ones reach further and rule the tails
    for params in (spread(torch.zeros(components)), heavy):
        single = [t.float()[None].requires_grad_() for t in (x, params)]
        double = [t.detach().double().requires_grad_() for t in single]
        truth = outputs_and_gradients(plain_mixlogistic, double, squash)
        plain = outputs_and_gradients(plain_mixlogistic, single, squash)
        with use_backend(backend):
            exact = outputs_and_gradients(mixlogistic, double, squash)
            found = outputs_and_gradients(mixlogistic, single, squash)
        names = ["y", "logdet", "grad x", "grad params"]
        for name, e, f, p, t in zip(names, exact, found, plain, truth, strict=True):
            assert relative_error(e, t) < 1e-9, name
            assert_within_budget(name, f, p, t)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("log_scale", [-7.1, -30.0])
def test_clamped_log_scale_acts_as_minus_seven_without_gradient(log_scale, backend):
    x = torch.randn(3, 5, dtype=torch.float64) * 1e-3
    params = torch.randn(3, 5, 11, dtype=torch.float64)
    params[..., 5:8] *= 1e-3
    params[..., 8] = log_scale
    at_clamp = params.clone()
    at_clamp[..., 8] = -7
    params.requires_grad_()
    with use_backend(backend):
        y, logdet = mixlogistic(x, params)
        clamped = mixlogistic(x, at_clamp)
    for actual, expected in zip((y, logdet), clamped, strict=True):
        assert torch.equal(actual, expected)
    (gradient,) = torch.autograd.grad(y.sum() + logdet.sum(), params)
    assert (gradient[..., 8] == 0).all()
    assert (gradient[..., 9:] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_not_hidden(backend):
    """A diverged network must show: the training loop skips steps by it."""
    for place in range(11):
        params = torch.zeros(2, 1, 11)
        params[0, 0, place] = math.nan
        with use_backend(backend):
            y, logdet = mixlogistic(torch.zeros(2, 1), params)
        assert y[0].isnan().all(), place
        assert logdet[0].isnan() or place == 1  # the shift does not enter the derivative
        assert torch.cat([y[1], logdet[1:]]).isfinite().all()


@given(
    seed=st.integers(0, 2**32 - 1),
    components=st.sampled_from([1, 3, 4, 10, 32]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    backend=st.sampled_from(BACKENDS),
)
def test_inverse_meets_the_cdf(seed, components, dtype, backend):
    _, params = extreme_inputs(seed, 1, 64, components, dtype)
    params[..., :2] = 0  # y is the log-odds of the squashed CDF itself
    y = torch.linspace(-2.9, 2.9, 64, dtype=dtype)[None]
    with use_backend(backend):
        found = mixlogistic_inverse(y, params)[0][0].double()
    # Four roundings of x either side: neighbouring floats can be far apart in the CDF.
    rounding = 4 * torch.finfo(dtype).eps * found.abs()
    parts = params[0, :, 2:].double().t().contiguous().chunk(3)
    target = (torch.sigmoid(y[0].double()) - 0.05) / 0.9
    residual = 1e-6 if dtype == torch.float32 else 1e-12
    assert (mixture(found - rounding, *parts).cdf <= target + residual).all()
    assert (mixture(found + rounding, *parts).cdf >= target - residual).all()


@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
@pytest.mark.parametrize("components", [1, 4, 32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_round_trip(backend, components, squash):
    x = 2 * torch.randn(4, 3, 5, dtype=torch.float64)
    params = torch.randn(4, 3, 5, 2 + 3 * components, dtype=torch.float64)
    with use_backend(backend):
        y, logdet = mixlogistic(x, params, squash)
        back, inverse_logdet = mixlogistic_inverse(y, params, squash)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-9, atol=1e-9)


DTYPES_OF = {
    "reference": [torch.float16, torch.bfloat16, torch.float32, torch.float64],
    "cpu": [torch.bfloat16, torch.float32, torch.float64],
}


@pytest.mark.parametrize(("backend", "dtype"), [(b, d) for b in BACKENDS for d in DTYPES_OF[b]])
@pytest.mark.parametrize("shift", ["b", "0"])
@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
def test_inverse_is_finite_for_every_finite_y(backend, dtype, shift, squash):
    largest = torch.finfo(dtype).max
    y = torch.tensor([0, 2.9, 2.95, 10, 1e4, largest], dtype=dtype)
    y = torch.cat([-y, y])[None]
    params = torch.randn(1, 12, 14).to(dtype)
    if shift == "0":
        params[..., :2] = 0
    with use_backend(backend):
        x, logdet = mixlogistic_inverse(y, params, squash)
    assert x.isfinite().all()
    assert logdet.isfinite().all()
    if shift == "0":  # outside the reach: in order, at the two ends
        assert x[0, 6:].max() > 0
        assert x[0, :6].min() < 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_inverse_ends_for_absurd_parameters(backend):
    y = torch.linspace(-2.9, 2.9, 400)[None]
    for scale in (1e2, 1e4, 1e30):
        with use_backend(backend):
            x, _ = mixlogistic_inverse(y, scale * torch.randn(1, 400, 14))
        assert x.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("squash", [True, False], ids=["squash", "no squash"])
def test_inverse_of_nan_is_nan_and_ends(backend, squash):
    params = torch.randn(2, 5, 14)
    y = torch.randn(2, 5).clamp(-1, 1)
    y[0, 2] = math.nan
    with use_backend(backend):
        x, logdet = mixlogistic_inverse(y, params, squash)
    assert x[0, 2].isnan()
    assert logdet[0].isnan()
    assert x[1].isfinite().all()
