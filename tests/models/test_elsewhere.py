"""Models where PyTorch's own tools take them: export, meta and fake tensors, replicas, vectors."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from vflow import create_model
from vflow.models.glow import Glow, GlowConfig
from vflow.models.residual_flow import ResidualFlow, ResidualFlowConfig
from vflow.models.vector_vflow import VectorVFlow, VectorVFlowConfig
from vflow.ops import use_backend

PRESETS = ["vflow-tiny", "flowpp-tiny"]
VECTORS = {
    "glow": lambda: Glow(GlowConfig(dims=3, hidden=8)),
    "residual flow": lambda: ResidualFlow(ResidualFlowConfig(dims=3, hidden=8)),
    "vflow": lambda: VectorVFlow(VectorVFlowConfig(dims=3, extra_dims=2, hidden=8)),
}
MODELS = [*PRESETS, *VECTORS]
SCALES = ((("checkerboard", 1),), (("channel", 1),))


def small(name):
    """A model of images that is soon traced: every layer once."""
    steps = {"dequantizer_steps": 1}
    if name == "vflow-tiny":
        steps["posterior_steps"] = 1
    return create_model(name, scales=SCALES, **steps)


def make(name):
    """An initialised model in evaluation mode."""
    model = VECTORS[name]() if name in VECTORS else small(name)
    model.initialize(batch(name, 4))
    return model.eval()


def batch(name, size):
    if name in VECTORS:
        return torch.randn(size, 3)
    return torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8)


def noise(model, name, size):
    if name in VECTORS:
        return {"eps_z": torch.randn(size, 2)} if name == "vflow" else {}
    return model.draw_noise(size)


def exported(model, name, size):
    given = noise(model, name, size)
    rows = torch.export.Dim("rows", min=2, max=64)
    first = "x" if name in VECTORS else "images"
    return torch.export.export(
        model,
        (batch(name, size),),
        given,
        dynamic_shapes={key: {0: rows} for key in (first, *given)},
    )


@pytest.mark.parametrize("name", MODELS)
def test_export_of_any_batch(name):
    """Saved, loaded, and run at other sizes."""
    model, file = make(name), io.BytesIO()
    torch.export.save(exported(model, name, 5), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in (2, 5, 16, 33):  # 16 is a size of the images, too
        x, given = batch(name, size), noise(model, name, size)
        torch.testing.assert_close(loaded(x, **given), model(x, **given), rtol=1e-6, atol=1e-4)


def test_export_holds_the_backend_it_was_made_under():
    with use_backend("reference"):
        program = exported(make("flowpp-tiny"), "flowpp-tiny", 3)
    calls = [node for node in program.graph.nodes if str(node.target).startswith("vflow.")]
    assert calls
    assert {node.args[-1] for node in calls} == {"reference"}


@pytest.mark.parametrize("name", PRESETS)
def test_images_on_meta(name):
    with torch.device("meta"):
        model = small(name)
    model.mark_initialized()
    images = torch.empty(4, 3, 16, 16, dtype=torch.uint8, device="meta")
    elbo = model.elbo(images)
    elbo.sum().backward()
    assert elbo.shape == (4,)
    assert all(p.grad.shape == p.shape for p in model.parameters())
    walk(model, images)


@pytest.mark.parametrize("name", PRESETS)
def test_images_in_fake_tensor_mode(name):
    with FakeTensorMode():
        model = small(name)
        model.mark_initialized()
        images = torch.empty(4, 3, 16, 16, dtype=torch.uint8)
        elbo = model.elbo(images)
        elbo.sum().backward()
        walk(model, images)
        given = model.draw_noise(4)
    assert elbo.shape == (4,)
    fake = model.encode(images, **given)  # fake tensors outside of their mode
    assert fake.shape == (4, 4 * model.config.total_channels, 8, 8)


def walk(model, images):
    """Every public method that gives tensors: shapes alone."""
    batch, latent = len(images), model.encode(images)
    assert latent.shape == (batch, 4 * model.config.total_channels, 8, 8)
    assert model.decode(latent).shape == images.shape
    assert model.sample(3).shape == (3, 3, 16, 16)
    assert model.log_prob(images, samples=3).shape == (batch,)
    assert model.bits_per_dim(images).shape == (batch,)
    for value in model.draw_noise(batch).values():
        assert value.shape[0] == batch


@pytest.mark.parametrize("name", ["glow", "vflow"])
def test_vectors_on_meta(name):
    with torch.device("meta"):
        model = VECTORS[name]()
    x = torch.empty(4, 3, device="meta")
    assert model(x).shape == model.log_prob(x).shape == (4,)
    model(x).sum().backward()
    assert model.sample(5).shape == (5, 3)


@pytest.mark.parametrize("name", MODELS)
def test_replicas_of_data_parallel(name):
    """Made as torch.nn.parallel.replicate makes them, but on the CPU."""
    model = make(name)
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for key, child in module._modules.items():
            replica._modules[key] = None if child is None else replicas[child]
        for key, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[key] = None
            else:
                setattr(replica, key, parameter.clone())
    x, given = batch(name, 3), noise(model, name, 3)
    assert not [*replicas[model].parameters()]
    value = replicas[model](x, **given)
    assert torch.equal(value, model(x, **given))
    value.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_as_a_vector(name):
    model = make(name)
    other = copy.deepcopy(model)
    vector = parameters_to_vector(model.parameters())
    with torch.no_grad():
        for p in other.parameters():
            p.view(-1)[0] += 1
    vector_to_parameters(vector, other.parameters())
    x, given = batch(name, 3), noise(model, name, 3)
    assert torch.equal(other(x, **given), model(x, **given))
    for p in other.parameters():
        assert p.is_contiguous()


def test_lbfgs():
    model = make("flowpp-tiny")
    x, given = batch("flowpp-tiny", 4), model.draw_noise(4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-3, max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = -model(x, **given).mean()
        loss.backward()
        return loss

    before = optimizer.step(closure)
    assert closure() < before


def test_channels_last_gives_the_same():
    """What training runs in: the weights of convolutions as these want them."""
    model = make("vflow-tiny")
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    weights = [m.weight for m in other.modules() if getattr(m, "weight", torch.ones(0)).ndim == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    x, given = batch("vflow-tiny", 4), model.draw_noise(4)
    torch.testing.assert_close(other(x, **given), model(x, **given))
