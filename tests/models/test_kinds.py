"""Every registered kind of coupling, flow, posterior and dequantizer, by being registered.

Each goes through its round trip, its log-determinant against the whole Jacobian, widening, data-
dependent initialisation, gradients, compilation, saving and loading; `test_kinds_in_runs.py` takes
the flows through processes and interrupted runs.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vflow
from tests import kinds
from vflow.flows import COUPLINGS, CannotEmbed, ChannelSplit, Compose, Inverse, Places
from vflow.io.kinds import to_tree
from vflow.models import ImageFlow, ModelConfig, make_model
from vflow.models.builders import DEQUANTIZERS, FLOWS, POSTERIORS
from vflow.models.initialization import data_dependent_init
from vflow.nets import MLP, Trunk


def shaken(module: Any, scale: float = 0.2) -> Any:
    """With parameters that matter, in float64."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.eval()


def flat(value: Any) -> Tensor:
    """A latent's tensors side by side, [B, D]."""
    parts = value if isinstance(value, tuple) else (value,)
    return torch.cat([part.flatten(1) for part in parts], 1)


def jacobian_logdet(flow: nn.Module, x: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(lambda t: flat(flow(t)[0]), x)
    size = x[0].numel()
    jacobian = jacobian.reshape(len(x), size, len(x), size)
    return torch.stack([torch.linalg.slogdet(jacobian[i, :, i]).logabsdet for i in range(len(x))])


def assert_invertible(flow: Any, x: Tensor) -> None:
    with torch.no_grad():
        y, logdet = flow(x)
        back, inverse_logdet = flow.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-8, atol=1e-7)
    torch.testing.assert_close(logdet, jacobian_logdet(flow, x), rtol=1e-8, atol=1e-8)
    parts = y if isinstance(y, tuple) else (y,)
    shapes = flow.output_shape(tuple(x.shape[1:]))
    expected = shapes if isinstance(y, tuple) else (shapes,)
    assert tuple(tuple(part.shape[1:]) for part in parts) == expected
    assert flow.input_shape(shapes) == tuple(x.shape[1:])


# Couplings


def coupling_on(name: str, shape: tuple[int, ...]) -> Any:
    spec, channels = COUPLINGS[name].tiny(), shape[-1]
    out = spec.parameters * (channels - channels // 2)
    net: nn.Module = MLP(channels // 2, out, hidden=5, layers=1)
    if len(shape) == 3:
        size = (shape[0], shape[1])
        net = Trunk(channels // 2, out, filters=4, blocks=1, heads=None, size=size)
    split = ChannelSplit(channels // 2)
    return Compose([split, spec.build(net), Inverse(split)])


@pytest.mark.parametrize("shape", [(5,), (2, 2, 3)], ids=["vectors", "images"])
@pytest.mark.parametrize("name", COUPLINGS.names)
def test_coupling(name: str, shape: tuple[int, ...]) -> None:
    flow = shaken(coupling_on(name, shape))
    x = 1.5 * torch.randn(3, *shape, dtype=torch.float64)
    assert_invertible(flow, x)
    assert not torch.allclose(flow(x)[0], x), "it does nothing"


@pytest.mark.parametrize("name", COUPLINGS.names)
def test_a_coupling_is_the_identity_at_rest_or_says_why_not(name: str) -> None:
    coupling = coupling_on(name, (4,)).flows[1]
    x = 3 * torch.randn(50, 2, dtype=torch.float64)
    if name in kinds.NEVER_AT_REST:
        with pytest.raises(CannotEmbed, match="is the identity for no parameters"):
            coupling.resting()
        return
    resting = coupling.resting().double()
    y, logdet = coupling.transform(x, resting.expand(50, 2, -1).contiguous())
    scale = math.exp(coupling.rests_at)
    torch.testing.assert_close(y, scale * x, rtol=1e-12, atol=1e-12)
    expected = torch.full((50,), 2 * coupling.rests_at, dtype=torch.float64)
    torch.testing.assert_close(logdet, expected, rtol=0, atol=1e-12)


# Flows


@pytest.fixture(params=FLOWS.names)
def flow_kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_flow(flow_kind: str) -> None:
    torch.manual_seed(0)
    shape = kinds.inner_shape(flow_kind)
    flow = shaken(FLOWS[flow_kind].tiny().build(shape, 0), 0.1)
    assert_invertible(flow, torch.randn(2, *shape, dtype=torch.float64))


@pytest.mark.parametrize("extra", [1, 3])
def test_flow_is_widened_or_says_why_not(flow_kind: str, extra: int) -> None:
    torch.manual_seed(0)
    *size, channels = kinds.inner_shape(flow_kind)
    spec = FLOWS[flow_kind].tiny()
    narrow = shaken(spec.build((*size, channels), 0), 0.1)
    wide = shaken(spec.build((*size, channels + extra), 0), 0.1)
    places = Places(tuple(range(channels)), channels + extra)
    if flow_kind in kinds.NEVER_WIDENED:
        with pytest.raises(CannotEmbed, match=r"layer \d+: "):
            wide.embed(narrow, places)
        return
    wide.embed(narrow, places)
    x = torch.randn(3, *size, channels, dtype=torch.float64)
    z = 3 * torch.randn(3, *size, extra, dtype=torch.float64)
    latent, logdet = wide(torch.cat([x, z], -1))
    alone, expected = narrow(x)
    torch.testing.assert_close(logdet, expected, rtol=1e-10, atol=1e-10)
    energy = flat(latent).square().sum(1)
    without = flat(alone).square().sum(1) + z.square().flatten(1).sum(1)
    torch.testing.assert_close(energy, without, rtol=1e-10, atol=1e-10)


def test_flow_is_initialised_from_data(flow_kind: str) -> None:
    """The latent of the batch it is initialised from is of order one, whatever the data's scale."""
    torch.manual_seed(0)
    shape = kinds.inner_shape(flow_kind)
    flow = FLOWS[flow_kind].tiny().build(shape, 0).double().train()
    x = 50 + 20 * torch.randn(64, *shape, dtype=torch.float64)
    data_dependent_init(flow, lambda: flow(x))
    latent = flat(flow(x)[0])
    assert latent.mean().abs() < 0.5
    assert 0.3 < latent.std() < 3


# Whole models


@pytest.fixture(params=kinds.MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_model_encodes_and_decodes(name: str) -> None:
    torch.manual_seed(0)
    model = make_model(kinds.MODELS[name]).eval()
    model.initialize(kinds.data_of(model, 16))  # else a squashed coupling may saturate
    model = shaken(model, 0.02)
    data = kinds.data_of(model)
    if isinstance(model, ImageFlow):
        assert torch.equal(model.decode(model.encode(data)).floor(), data.double())
        sample = model.sample(2)
        assert sample.shape == (2, *model.data_shape)
        assert sample.dtype == torch.uint8
    else:
        latent = model.encode(data)[0]
        back = model.decode(latent)[0]
        torch.testing.assert_close(back, data, rtol=1e-7, atol=1e-7)
        assert model.sample(2).shape == (2, *data.shape[1:])


def test_model_is_initialised_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = make_model(kinds.MODELS[name]).double().train()
    data = kinds.data_of(model, 16)
    model.initialize(data)
    with torch.no_grad():  # some networks start at zero, behind which nothing would learn
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    loss = -model(data).mean()
    assert loss.isfinite()
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def test_model_is_saved_and_loaded(name: str, tmp_path) -> None:
    config = kinds.MODELS[name]
    assert ModelConfig.from_tree(config.to_tree(), name) == config
    model = shaken(make_model(config), 0.05)
    model.save_pretrained(tmp_path)
    loaded = vflow.load_model(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == config
    assert torch.equal(kinds.bound(loaded), kinds.bound(model))
    again = copy.deepcopy(model)
    assert torch.equal(kinds.bound(again), kinds.bound(model))


# A flow with extra dimensions is compiled like one without; of these one of images, one of vectors.
COMPILED = [
    name
    for name in kinds.MODELS
    if f"{name}, normal" not in kinds.MODELS or name in ("flowpp", "vector-glow")
]


@pytest.mark.parametrize("name", COMPILED)
def test_model_compiles_whole(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = make_model(kinds.MODELS[name]).eval()
    data = kinds.data_of(model)
    model.initialize(data)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    noise = kinds.noise_of(model, len(data))
    torch.testing.assert_close(compiled(data, **noise), model(data, **noise), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kinds_of", [FLOWS, COUPLINGS, POSTERIORS, DEQUANTIZERS])
def test_options_are_checked_and_described(kinds_of: Any) -> None:
    for kind in kinds_of.names:
        options = kinds_of[kind]
        assert (options.__doc__ or "").strip(), kind
        assert kinds_of.read(to_tree(options.tiny()), "here", "there") == options.tiny()
        with pytest.raises(ValueError, match="colour differ"):
            kinds_of.read({**to_tree(options.tiny()), "colour": 1}, "here", "there")
