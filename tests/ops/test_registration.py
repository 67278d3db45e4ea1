"""Every operation through both doors: eager and dispatcher, gradients, torch.compile, dtypes,
views."""

from __future__ import annotations

import pytest
import torch

from tests.ops.inputs import ALL, DIFFERENTIABLE, INVERSES, gradients, outputs
from tests.tolerances import assert_within_budget, relative_error
from vflow import ops
from vflow.ops.backend import choose, describe, implementation


def operator_of(name: str):
    """The registered operator of a case."""
    return getattr(torch.ops.vflow, name.split()[0]).default


def with_backends(cases):
    """Each case with each backend of this processor that has it."""
    table = describe()
    return [
        (name, backend)
        for name in cases
        for backend in ("reference", "cpu")
        if table[operator_of(name)._opname][backend] == "available"
    ]


@pytest.mark.parametrize("door", ["eager", "dispatcher"])
@pytest.mark.parametrize(("name", "backend"), with_backends(DIFFERENTIABLE))
def test_gradcheck(name, door, backend):
    case, operator = DIFFERENTIABLE[name], operator_of(name)
    inputs = tuple(t.requires_grad_() for t in case.make(2, torch.float64))
    if torch.float64 not in implementation(operator._opname, backend).dtypes:
        pytest.skip("it does not compute in float64")
    with ops.use_backend(backend):
        if door == "eager":
            assert torch.autograd.gradcheck(case.function, inputs)
        else:
            assert torch.autograd.gradcheck(lambda *t: operator(*t, *case.extra, backend), inputs)


@pytest.mark.parametrize(("name", "backend"), with_backends(ALL))
def test_opcheck(name, backend):
    case = ALL[name]
    inputs = case.make(2, torch.float32)
    if name in DIFFERENTIABLE:
        inputs = tuple(t.requires_grad_() for t in inputs)
    report = torch.library.opcheck(operator_of(name), (*inputs, *case.extra, backend))
    assert set(report.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ALL)
def test_compiles_whole_with_dynamic_batch(name):
    torch._dynamo.reset()
    case = ALL[name]
    graphs = 0

    def count(module, example_inputs):
        nonlocal graphs
        graphs += 1
        return module.forward

    compiled = torch.compile(case.function, fullgraph=True, dynamic=True, backend=count)
    for batch in (7, 11, 13):  # no dimension of an image: equal sizes would share a symbol
        inputs = case.make(batch, torch.float32)
        for expected, actual in zip(
            outputs(case.function(*inputs)), outputs(compiled(*inputs)), strict=True
        ):
            assert torch.equal(expected, actual)
    assert graphs == 1, "a new batch size was compiled anew"


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiled_gradients_are_the_eager_ones(name):
    torch._dynamo.reset()
    case = DIFFERENTIABLE[name]
    inputs = case.make(3, torch.float32)
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    for expected, actual in zip(
        gradients(case, inputs), gradients(case._replace(function=compiled), inputs), strict=True
    ):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_values_and_gradients_are_those_of_the_definition(name):
    case = DIFFERENTIABLE[name]
    plain = case._replace(function=case.plain)
    inputs = case.make(5, torch.float32)
    exact_inputs = tuple(t.double() for t in inputs)
    truth = gradients(plain, exact_inputs)
    for i, (exact, expected) in enumerate(zip(gradients(case, exact_inputs), truth, strict=True)):
        assert relative_error(exact, expected) < 1e-12, f"output or gradient {i}"
    single = zip(gradients(case, inputs), gradients(plain, inputs), truth, strict=True)
    for i, (actual, reference, expected) in enumerate(single):
        assert_within_budget(f"output or gradient {i}", actual, reference, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_half_types_are_computed_in_float32(name, dtype):
    case = DIFFERENTIABLE[name]
    inputs = case.make(3, dtype)
    backend = choose(operator_of(name)._opname, inputs[0])
    if name in ("self_attention", "conv3x3") and backend == "reference":
        pytest.skip("PyTorch's own, with its own rounding of half types")
    results = outputs(case.function(*inputs))
    with ops.use_backend(backend):
        wide = outputs(case.function(*(t.float() for t in inputs)))
    assert torch.equal(results[0], wide[0].to(dtype))
    for logdet, expected in zip(results[1:], wide[1:], strict=True):
        assert logdet.dtype == torch.float32
        assert torch.equal(logdet, expected)
    leaves = tuple(t.requires_grad_() for t in inputs)
    for t, gradient in zip(
        leaves,
        torch.autograd.grad(sum(r.float().sum() for r in outputs(case.function(*leaves))), leaves),
        strict=True,
    ):
        assert gradient.dtype == dtype
        assert gradient.shape == t.shape
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_strided_inputs_and_expanded_gradients(name):
    case = DIFFERENTIABLE[name]
    inputs = case.make(4, torch.float64)
    views = []
    for t in inputs:
        wide = torch.stack([t, t + 1], dim=-1)
        views.append(wide[..., 0].requires_grad_())
        assert not views[-1].is_contiguous()
    leaves = [t.requires_grad_() for t in inputs]
    for ours, plain in zip(
        torch.autograd.grad(sum(r.sum() for r in outputs(case.function(*views))), views),
        torch.autograd.grad(sum(r.sum() for r in outputs(case.function(*leaves))), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_alone(name):
    inputs = ALL[name].make(2, torch.float32)
    before = [t.clone() for t in inputs]
    if name in DIFFERENTIABLE:
        gradients(ALL[name], inputs)
    else:
        ALL[name].function(*inputs)
    for t, copy in zip(inputs, before, strict=True):
        assert torch.equal(t, copy)


@pytest.mark.parametrize("name", ALL)
def test_empty_batch(name):
    results = outputs(ALL[name].function(*ALL[name].make(0, torch.float32)))
    assert all(r.shape[0] == 0 for r in results)


@pytest.mark.parametrize("name", INVERSES)
def test_inverses_can_be_differentiated(name):
    x, *parameters = INVERSES[name].make(2, torch.float64)
    forward = getattr(ops, name.split()[0].removesuffix("_inverse"))
    y, _ = forward(x, *parameters, *INVERSES[name].extra)
    inputs = tuple(t.detach().requires_grad_() for t in (y, *parameters))
    assert torch.autograd.gradcheck(INVERSES[name].function, inputs, atol=1e-4)


def test_budget_rejects_a_wrong_result():
    truth = torch.ones(3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="budget"):
        assert_within_budget("y", torch.ones(3) + 1e-5, torch.ones(3), truth)
