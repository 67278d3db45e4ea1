"""The kernels through the public operations: every case of tests/ops/inputs.py that they have."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.kernels.agreement import DEVICE
from tests.ops.inputs import ALL, DIFFERENTIABLE, gradients, outputs
from tests.tolerances import assert_within_budget
from vflow.ops import backend, use_backend

CPU_ALONE = ("self_attention", "conv3x3")
CASES = [name for name in ALL if not name.startswith(CPU_ALONE)]
WITH_GRADIENT = [name for name in DIFFERENTIABLE if name in CASES]


@pytest.fixture(params=["triton", "cuda"])
def backend_name(request, monkeypatch):
    """A backend; where there is no device, it takes tensors on the CPU, interpreted or emulated."""
    name = request.param
    request.getfixturevalue(f"{name}_kernels")
    if DEVICE == "cpu":
        monkeypatch.setitem(backend._DEVICES, name, ("cpu",))
        for known in backend._implementations.values():
            if name in known:
                monkeypatch.setitem(known, name, dataclasses.replace(known[name], missing=None))
    return name


def make(name, batch, dtype):
    return tuple(t.to(DEVICE) for t in ALL[name].make(batch, dtype))


def run(name, inputs, backend):
    with use_backend(backend):
        if name in DIFFERENTIABLE:
            return gradients(DIFFERENTIABLE[name], inputs)
        return list(outputs(ALL[name].function(*inputs)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(backend_name, name, dtype):
    inputs = make(name, 5, dtype)
    here = tuple(t.cpu() for t in inputs)
    truth = run(name, tuple(t.double() for t in here), "reference")
    expected = run(name, here, "reference")
    for i, (a, e, t) in enumerate(
        zip(run(name, inputs, backend_name), expected, truth, strict=True)
    ):
        assert_within_budget(f"output or gradient {i}", a.cpu(), e, t)


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_gradcheck(backend_name, name):
    inputs = tuple(t.requires_grad_() for t in make(name, 2, torch.float64))
    fast = DEVICE == "cpu"  # along one random direction
    with use_backend(backend_name):
        assert torch.autograd.gradcheck(DIFFERENTIABLE[name].function, inputs, fast_mode=fast)


@pytest.mark.gpu
@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_a_step_is_captured_in_a_graph(backend_name, name):
    """Nothing makes the host wait: a captured step gives the bits of one that is not."""
    function = DIFFERENTIABLE[name].function
    leaves = tuple(t.requires_grad_() for t in make(name, 3, torch.float32))

    def step():
        results = outputs(function(*leaves))
        ones = [torch.ones_like(r) for r in results]
        return [*results, *torch.autograd.grad(results, leaves, ones)]

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with use_backend(backend_name), torch.cuda.stream(stream):
        expected = step()  # compiles
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            captured = step()
        graph.replay()
    torch.cuda.synchronize()
    for a, e in zip(captured, expected, strict=True):
        assert torch.equal(a, e)
