"""torch.func, forward mode and derivatives of derivatives, of every operation."""

from __future__ import annotations

import re

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacrev, jvp, vmap

from tests.ops.inputs import ALL, DIFFERENTIABLE, INVERSES, Case, outputs
from tests.ops.test_registration import operator_of, with_backends
from vflow import ops
from vflow.ops import backend

KERNELS = [(name, "cpu") for name, b in with_backends(ALL) if b == "cpu"]
USE_REFERENCE = r"use vflow\.ops\.use_backend\('reference'\)$"


def scalar(case: Case):
    """A nonlinear function of all outputs, for fixed weights."""

    def function(*inputs):
        results = outputs(case.function(*inputs))
        return sum(
            (r * torch.linspace(1, 2, r.numel(), dtype=r.dtype).view(r.shape)).sum().sin()
            for r in results
        )

    return function


def inner(left, right):
    return sum((a * b).sum() for a, b in zip(left, right, strict=True))


def places(inputs):
    return tuple(range(len(inputs)))


@pytest.fixture
def reference():
    with ops.use_backend("reference"):
        yield


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_and_batched_gradients(name):
    case = DIFFERENTIABLE[name]
    inputs = tuple(t.requires_grad_() for t in case.make(2, torch.float64))
    assert torch.autograd.gradcheck(
        case.function,
        inputs,
        fast_mode=True,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("named", [True, False], ids=["reference", "nothing named"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivatives(name, named):
    """By finite differences: backward over backward, and forward over backward."""
    case = DIFFERENTIABLE[name]
    inputs = tuple(t.requires_grad_() for t in case.make(2, torch.float64))
    with ops.use_backend("reference") if named else torch.enable_grad():
        assert torch.autograd.gradgradcheck(
            case.function, inputs, fast_mode=True, check_fwd_over_rev=named
        )


@pytest.mark.parametrize("named", [True, False], ids=["reference", "nothing named"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_functional_transforms(name, named):
    case = DIFFERENTIABLE[name]
    inputs, plain = case.make(3, torch.float64), scalar(case._replace(function=case.plain))
    tangents = tuple(torch.randn_like(t) for t in inputs)
    leaves = tuple(t.clone().requires_grad_() for t in inputs)
    gradients = torch.autograd.grad(plain(*leaves), leaves, create_graph=True)
    along = inner(gradients, tangents)
    products = torch.autograd.grad(along, leaves, allow_unused=True, materialize_grads=True)

    with ops.use_backend("reference") if named else torch.enable_grad():
        function = scalar(case)
        gradient = grad(function, places(inputs))
        found = {
            "grad": (gradient(*inputs), gradients),
            "jacrev": (jacrev(function, places(inputs))(*inputs), gradients),
            "jvp": (jvp(function, inputs, tangents)[1], along),
            "product with the Hessian": (jvp(gradient, inputs, tangents)[1], products),
            "product with the Hessian, backward": (
                grad(
                    lambda *t: sum(
                        (g * v).sum() for g, v in zip(gradient(*t), tangents, strict=True)
                    ),
                    places(inputs),
                )(*inputs),
                products,
            ),
        }
    for what, (actual, expected) in found.items():
        torch.testing.assert_close(
            actual, expected, rtol=1e-9, atol=1e-9, msg=lambda m, what=what: f"{what}: {m}"
        )


@pytest.mark.usefixtures("reference")
def test_whole_hessian():
    case = DIFFERENTIABLE["mixlogistic"]
    x, params = case.make(1, torch.float64)
    ours, plain = (
        hessian(lambda t, f=f: f(x, t))(params)
        for f in (scalar(case), scalar(case._replace(function=case.plain)))
    )
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("named", [True, False], ids=["reference", "nothing named"])
@pytest.mark.parametrize("name", ALL)
def test_vmap(name, named):
    """Over all inputs at once, and over each alone, whatever dimension it is batched along."""
    case = ALL[name]
    sets = [case.make(3, torch.float64) for _ in range(2)]
    stacked = tuple(torch.stack(pair, dim=1) for pair in zip(*sets, strict=True))
    with ops.use_backend("reference") if named else torch.enable_grad():
        for only in (None, *places(sets[0])):
            in_dims = tuple(1 if only in (None, i) else None for i in places(sets[0]))
            inputs = tuple(
                s if d == 1 else t for s, t, d in zip(stacked, sets[0], in_dims, strict=True)
            )
            found = outputs(vmap(case.function, in_dims)(*inputs))
            for index in range(2):
                chosen = tuple(
                    s.select(1, index) if d == 1 else s
                    for s, d in zip(inputs, in_dims, strict=True)
                )
                for actual, expected in zip(found, outputs(case.function(*chosen)), strict=True):
                    torch.testing.assert_close(actual[index], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_each_of_a_batch(name):
    case = DIFFERENTIABLE[name]
    function, sets = scalar(case), [case.make(2, torch.float64) for _ in range(2)]
    stacked = tuple(torch.stack(pair) for pair in zip(*sets, strict=True))
    found = vmap(grad(function, places(stacked)))(*stacked)
    for index, inputs in enumerate(sets):
        leaves = tuple(t.requires_grad_() for t in inputs)
        expected = torch.autograd.grad(function(*leaves), leaves)
        for actual, plain in zip(found, expected, strict=True):
            torch.testing.assert_close(actual[index], plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_from_outside_of_a_vmap(name):
    case = DIFFERENTIABLE[name]
    stacked = tuple(t.unsqueeze(0).requires_grad_() for t in case.make(3, torch.float64))
    results = outputs(vmap(case.function)(*stacked))
    actual = torch.autograd.grad(sum(r.sum() for r in results), stacked)
    expected = torch.autograd.grad(
        sum(r.sum() for r in outputs(case.function(*(t[0] for t in stacked)))), stacked
    )
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", INVERSES)
def test_inverses_carry_no_tangent(name):
    case, inputs = INVERSES[name], INVERSES[name].make(2, torch.float64)
    for tangent in outputs(jvp(case.function, inputs, inputs)[1]):
        assert torch.equal(tangent, torch.zeros_like(tangent))
    with forward_ad.dual_level():
        dual = tuple(forward_ad.make_dual(t, t) for t in inputs)
        for result in outputs(case.function(*dual)):
            assert forward_ad.unpack_dual(result).tangent is None


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_half_types_under_a_transform(name):
    case = DIFFERENTIABLE[name]
    inputs = case.make(3, torch.bfloat16)
    for plain, actual in zip(
        outputs(case.function(*inputs)),
        outputs(vmap(case.function)(*(t.unsqueeze(0) for t in inputs))),
        strict=True,
    ):
        assert actual.dtype == plain.dtype
        torch.testing.assert_close(actual[0], plain, rtol=2e-2, atol=2e-2)


def test_an_input_that_is_a_function_of_another():
    """The gradient of x is its own part: what comes through params is counted once."""
    case = DIFFERENTIABLE["mixlogistic"]
    x, params = case.make(2, torch.float64)

    def second(function):
        leaf = x.clone().requires_grad_()
        y, logdet = function(leaf, params * leaf.unsqueeze(-1))
        (first,) = torch.autograd.grad(y.sum() + logdet.sum(), leaf, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), leaf)[0]

    torch.testing.assert_close(second(case.function), second(case.plain), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "backend_name"), KERNELS)
def test_a_kernel_says_who_can(name, backend_name):
    case, inputs = ALL[name], ALL[name].make(2, torch.float32)
    function = scalar(case)
    calls = [
        lambda: vmap(case.function)(*(t.unsqueeze(0) for t in inputs)),
        lambda: jvp(case.function, inputs, inputs),
    ]
    if name in DIFFERENTIABLE:
        leaves = tuple(t.clone().requires_grad_() for t in inputs)

        def twice():
            first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
            sum(g.square().sum() for g in first).backward()

        def batched():
            result = function(*leaves)
            ones = torch.ones(2, *result.shape, dtype=result.dtype)
            torch.autograd.grad(result, leaves, ones, is_grads_batched=True)

        def forward_mode():
            with forward_ad.dual_level():
                case.function(*(forward_ad.make_dual(t, t) for t in inputs))

        calls += [lambda: grad(function)(*inputs), twice, batched, forward_mode]
    for call in calls:
        with ops.use_backend(backend_name), pytest.raises(ValueError, match=USE_REFERENCE) as e:
            call()
        assert re.match(r"backend 'cpu' cannot (run|differentiate) \w+ ", str(e.value))
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(("name", "backend_name"), [k for k in KERNELS if k[0] in DIFFERENTIABLE])
def test_a_graph_that_nobody_differentiates_costs_nothing(name, backend_name):
    """With create_graph alone, a kernel that was named gives its own bits."""
    case = DIFFERENTIABLE[name]
    leaves = tuple(t.requires_grad_() for t in case.make(2, torch.float32))
    with ops.use_backend(backend_name):
        result = sum(r.sum() for r in outputs(case.function(*leaves)))
    plain = torch.autograd.grad(result, leaves, retain_graph=True)
    for actual, expected in zip(
        torch.autograd.grad(result, leaves, create_graph=True), plain, strict=True
    ):
        assert torch.equal(actual, expected)


def test_a_kernel_serves_plain_tensors_inside_of_a_transform():
    x = torch.randn(2, 3)
    with ops.use_backend("cpu"):
        expected = ops.concat_elu(x)
        assert torch.equal(vmap(lambda t: t + ops.concat_elu(x))(torch.zeros(1, 2, 6))[0], expected)
        with forward_ad.dual_level():
            assert torch.equal(ops.concat_elu(x), expected)


def test_dropout_under_vmap():
    x = torch.ones(2, 64, 8)
    same = vmap(lambda t: ops.dropout(t, 0.5), randomness="same")(x)
    assert torch.equal(same[0], same[1])
    different = vmap(lambda t: ops.concat_elu(t, 0.5), randomness="different")(x)
    assert not torch.equal(different[0], different[1])


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_transforms_are_traced_whole(name):
    torch._dynamo.reset()
    case = DIFFERENTIABLE[name]
    inputs, function = case.make(2, torch.float64), scalar(case)
    gradient = grad(function, places(inputs))
    product = lambda *t: jvp(gradient, t, t)[1]  # noqa: E731
    compiled = torch.compile(product, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), product(*inputs), rtol=1e-9, atol=1e-9)


def test_every_operation_has_a_case():
    known = {operator_of(name)._opname for name in ALL}
    registered = {name for name in backend.describe() if not name.endswith("_backward")}
    assert registered - {"only_reference"} == known
