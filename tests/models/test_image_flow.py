"""The public API of Flow++ and VFlow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import vflow
from vflow.models import FlowPlusPlusConfig, ImageFlow, VFlowConfig

NAMES = ["vflow-tiny", "flowpp-tiny"]


def photo_like(n: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 0) -> Tensor:
    """Smooth random images."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, shape[0], 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    fine = 5 * torch.randn(n, *shape, generator=generator)
    return (128 + 40 * smooth + fine).clamp(0, 255).to(torch.uint8)


def make(name: str, **overrides: Any) -> ImageFlow:
    torch.manual_seed(0)
    model = vflow.create_model(name, **overrides).double()
    model.initialize(photo_like(8), generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> ImageFlow:
    return make(request.param)


def test_decode_inverts_encode(model: ImageFlow) -> None:
    images = photo_like(3, seed=5)
    noise = model.draw_noise(3)
    decoded = model.decode(model.encode(images, **noise))
    pixels = images.permute(0, 2, 3, 1).double()
    u, _ = model.dequantizer(pixels, noise["eps_u"].permute(0, 2, 3, 1))
    torch.testing.assert_close(decoded.permute(0, 2, 3, 1), pixels + u, rtol=0, atol=1e-4)
    assert torch.equal(decoded.floor(), images.double())


def test_float32_still_gives_the_pixels_back(model: ImageFlow) -> None:
    images = photo_like(8, seed=6)
    decoded = model.float().decode(model.encode(images))
    assert (decoded.floor() == images).float().mean() > 0.999


def log_determinant(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log|det| [B] of a map [B, ...] -> [B, ...] by its full Jacobian."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    size = x[0].numel()
    blocks = jacobian.reshape(len(x), size, len(x), size)
    rows = [torch.linalg.slogdet(blocks[i, :, i]).logabsdet for i in range(len(x))]
    return torch.stack(rows)


def log_normal(x: Tensor) -> Tensor:
    return torch.distributions.Normal(0, 1).log_prob(x).flatten(1).sum(1)


@pytest.mark.parametrize("name", NAMES)
def test_elbo_is_the_change_of_variables(name: str) -> None:
    """The bound is made of three maps: eps_u -> u, eps_z -> z, and (x + u, z) -> latent."""
    widen = {"extra_dims": 1} if name.startswith("vflow") else {}
    size: dict[str, Any] = {"image_size": 4, "in_channels": 1, **widen}
    model = vflow.create_model(name, **size, filters=4, heads=1, components=2).double()
    images = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    model.initialize(images)
    model.eval()
    images = images[:2]
    noise = model.draw_noise(2)
    nhwc = {key: value.permute(0, 2, 3, 1) for key, value in noise.items()}
    pixels = images.permute(0, 2, 3, 1).double()

    def dequantize(eps: Tensor) -> Tensor:
        return model.dequantizer(pixels, eps)[0]

    u = dequantize(nhwc["eps_u"]).detach()
    expected = -(log_normal(nhwc["eps_u"]) - log_determinant(dequantize, nhwc["eps_u"]))
    x = (0.05 + 0.9 * (pixels + u) / 256).logit()
    joint = pixels + u
    if widen:

        def posterior(eps: Tensor) -> Tensor:
            return model.posterior(x, eps)[0]

        z = posterior(nhwc["eps_z"]).detach()
        expected -= log_normal(nhwc["eps_z"]) - log_determinant(posterior, nhwc["eps_z"])
        joint = torch.cat([joint, z], dim=-1)

    def whole(joint: Tensor) -> Tensor:
        x = (0.05 + 0.9 * joint[..., :1] / 256).logit()
        return model.flow(torch.cat([x, joint[..., 1:]], dim=-1))[0]

    expected += log_normal(whole(joint)) + log_determinant(whole, joint)
    torch.testing.assert_close(model.elbo(images, **noise), expected, rtol=1e-10, atol=1e-8)


def test_importance_sampling_is_a_log_mean_exp_of_elbos(model: ImageFlow) -> None:
    images = photo_like(3)
    generator = torch.Generator().manual_seed(3)
    got = model.log_prob(images, samples=5, chunk=5, generator=generator)
    generator = torch.Generator().manual_seed(3)
    terms = model.elbo(images.repeat_interleave(5, 0), generator=generator).view(3, 5)
    torch.testing.assert_close(got, terms.logsumexp(1) - math.log(5))
    assert not got.requires_grad
    # Chunks see other noise, but stay the same estimator: three runs of one sample each.
    generator = torch.Generator().manual_seed(4)
    chunked = model.log_prob(images, samples=3, chunk=1, generator=generator)
    generator = torch.Generator().manual_seed(4)
    singles = torch.stack([model.elbo(images, generator=generator) for _ in range(3)])
    torch.testing.assert_close(chunked, singles.logsumexp(0) - math.log(3))


def test_an_image_is_read_once_for_all_its_samples(model: ImageFlow) -> None:
    images, read = photo_like(3), []
    network = model.density.dequantizer.context
    if network is None:
        assert model.features(images) is None
        return
    hook = network.register_forward_hook(lambda module, inputs, output: read.append(len(output)))
    model.log_prob(images, samples=6, chunk=2)
    posteriors = [] if read == [3] else read[1:]  # q(z|x) may share the network, and sees the noise
    assert read[0] == 3
    assert all(rows == 6 for rows in posteriors)
    hook.remove()
    noise = model.draw_noise(3, torch.Generator().manual_seed(0))
    given = model.elbo(images, features=model.features(images), **noise)
    torch.testing.assert_close(given, model.elbo(images, **noise))


def test_more_samples_tighten_the_bound() -> None:
    model = make("vflow-tiny")
    images = photo_like(8)
    means = [model.log_prob(images, samples=n).mean().item() for n in (1, 4, 16)]
    assert means[0] < means[1] < means[2]


def test_bits_per_dim_counts_the_data_dimensions_only(model: ImageFlow) -> None:
    images = photo_like(2)
    nats = model.log_prob(images, generator=torch.Generator().manual_seed(0))
    bits = model.bits_per_dim(images, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bits, -nats / (3 * 16 * 16 * math.log(2)))
    assert model.dims == 3 * 16 * 16


def test_uniform_dequantizer_and_normal_posterior() -> None:
    """With q = N(0, I) and uniform u, an untouched flow still bounds the likelihood."""
    torch.manual_seed(0)
    config = VFlowConfig(
        image_size=(8, 8),
        filters=8,
        blocks=1,
        components=4,
        heads=2,
        dropout=0.0,
        dequantizer="uniform",
        posterior="normal",
    )
    model = vflow.VFlow(config).double()
    images = photo_like(8, (3, 8, 8))
    model.initialize(images)
    noise = model.draw_noise(8)
    assert 0 <= noise["eps_u"].min() < noise["eps_u"].max() < 1
    pixels = (images + noise["eps_u"]).permute(0, 2, 3, 1)
    x, logdet = model.preprocess(pixels)
    z = noise["eps_z"].permute(0, 2, 3, 1)
    latent, flow_logdet = model.flow(torch.cat([x, z], dim=-1))
    log_normal = -0.5 * (latent**2 + math.log(2 * math.pi)).flatten(1).sum(1)
    log_q = -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)
    torch.testing.assert_close(
        model.elbo(images, **noise), log_normal + flow_logdet + logdet - log_q
    )
    assert not list(model.dequantizer.parameters())


def test_given_noise_and_generators_decide_everything(model: ImageFlow) -> None:
    images = photo_like(3)
    noise = model.draw_noise(3, torch.Generator().manual_seed(7))
    expected = model.elbo(images, **noise)
    assert torch.equal(model.elbo(images, generator=torch.Generator().manual_seed(7)), expected)
    assert not torch.equal(model.elbo(images), expected)
    first = model.sample(3, generator=torch.Generator().manual_seed(8))
    assert torch.equal(model.sample(3, generator=torch.Generator().manual_seed(8)), first)
    assert not torch.equal(model.sample(3, generator=torch.Generator().manual_seed(9)), first)
    assert first.shape == (3, 3, 16, 16)
    assert first.dtype == torch.uint8


def test_part_of_the_noise_may_be_given() -> None:
    model = make("vflow-tiny")
    images = photo_like(2)
    noise = model.draw_noise(2, torch.Generator().manual_seed(0))
    drawn = model.elbo(images, eps_u=noise["eps_u"], generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, model.elbo(images, **noise))


def test_samples_are_finite_at_any_temperature(model: ImageFlow) -> None:
    latent = 50 * torch.randn(4, 4 * model.config.total_channels, 8, 8, dtype=torch.float64)
    assert model.decode(latent).isfinite().all()
    assert model.sample(2, temperature=10.0).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("name", NAMES)
def test_initialised_once_by_the_first_training_batch(name: str) -> None:
    torch.manual_seed(0)
    model = vflow.create_model(name)
    assert not model.initialized
    model.eval().elbo(photo_like(4))
    assert not model.initialized
    model.train().elbo(photo_like(4))
    assert model.initialized
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.elbo(photo_like(4, seed=1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_initialisation_normalises_every_half(name: str) -> None:
    model = make(name)
    images = photo_like(8)
    noise = model.draw_noise(8, torch.Generator().manual_seed(1))
    seen = []

    def check(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        normed = args[0] * module.scale + module.bias
        torch.testing.assert_close(normed.mean(0), torch.zeros_like(normed[0]), rtol=0, atol=1e-6)
        deviation = normed.std(0, correction=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-5)
        seen.append(module)

    for module in model.modules():
        if isinstance(module, vflow.flows.ActNormConv1x1):
            module.register_forward_pre_hook(check)
    model.elbo(images, **noise)
    assert len(seen) == sum(isinstance(m, vflow.flows.ActNormConv1x1) for m in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = make(name).train()
    model.elbo(photo_like(4)).mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def test_dropout_acts_in_training_only() -> None:
    model = make("vflow-tiny", dropout=0.5)
    images, noise = photo_like(2), model.draw_noise(2)
    assert torch.equal(model.elbo(images, **noise), model.elbo(images, **noise))
    model.train()
    assert not torch.equal(model.elbo(images, **noise), model.elbo(images, **noise))
    generator = torch.Generator().manual_seed(0)
    first = model.log_prob(images, generator=generator)
    assert torch.equal(model.log_prob(images, generator=generator.manual_seed(0)), first)
    assert model.training


def test_shared_context_is_one_network() -> None:
    shared = vflow.create_model("vflow-4m-c6", filters=8, blocks=1, image_size=8)
    assert shared.posterior.context is None
    model = shared.double().eval()
    images = photo_like(2, (3, 8, 8))
    noise = model.draw_noise(2)
    before = model.elbo(images, **noise)
    with torch.no_grad():
        model.dequantizer.context.conv_in.bias.add_(0.3)
        u, _ = model.dequantizer(
            images.permute(0, 2, 3, 1).double(), noise["eps_u"].permute(0, 2, 3, 1)
        )
    assert not torch.allclose(before, model.elbo(images, **noise))
    assert u.isfinite().all()


def test_bf16_networks_keep_float32_flows() -> None:
    model = make("vflow-tiny").float()
    images, noise = photo_like(8), None
    noise = model.draw_noise(8, torch.Generator().manual_seed(0))
    exact = model.to_bits_per_dim(model.elbo(images, **noise))
    model.set_precision("bf16")
    rough = model.elbo(images, **noise)
    assert rough.dtype == torch.float32
    rough = model.to_bits_per_dim(rough)
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough.mean(), exact.mean(), rtol=0, atol=0.05)
    model.set_precision("fp32")
    assert torch.equal(model.to_bits_per_dim(model.elbo(images, **noise)), exact)


IMAGES = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
BAD_CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "float images": ("elbo", {"images": IMAGES.float()}, "images must be a uint8 tensor, got"),
    "array": ("elbo", {"images": IMAGES.numpy()}, "images must be a uint8 tensor, got ndarray"),
    "no batch": ("elbo", {"images": IMAGES[0]}, "images must have shape [B, 3, 16, 16]"),
    "empty": ("elbo", {"images": IMAGES[:0]}, "with B at least 1, got (0, 3, 16, 16)"),
    "channels last": ("elbo", {"images": IMAGES.mT.transpose(1, 3)}, "got (2, 16, 16, 3)"),
    "wrong size": ("log_prob", {"images": IMAGES[..., :8]}, "got (2, 3, 16, 8)"),
    "noise type": (
        "elbo",
        {"images": IMAGES, "eps_u": torch.zeros(2, 3, 16, 16)},
        "eps_u must be a tensor of the model's torch.float64, got torch.float32",
    ),
    "noise shape": (
        "elbo",
        {"images": IMAGES, "eps_u": torch.zeros(1, 3, 16, 16).double()},
        "eps_u must have shape [2, 3, 16, 16], got (1, 3, 16, 16)",
    ),
    "extra noise": (
        "elbo",
        {"images": IMAGES, "eps_z": torch.zeros(2, 3, 16, 16).double()},
        "eps_z must be None: FlowPlusPlus has no such noise",
    ),
    "no samples": ("log_prob", {"images": IMAGES, "samples": 0}, "samples must be an integer"),
    "samples type": ("bits_per_dim", {"images": IMAGES, "samples": 2.0}, "at least 1, got 2.0"),
    "chunk": ("log_prob", {"images": IMAGES, "chunk": 0}, "chunk must be an integer"),
    "n": ("sample", {"n": 0}, "n must be an integer of at least 1, got 0"),
    "below zero": ("sample", {"n": 1, "temperature": -0.1}, "temperature must be a number of at"),
    "nan": ("sample", {"n": 1, "temperature": math.nan}, "temperature must be a number of"),
    "latent shape": ("decode", {"latent": torch.zeros(1, 3, 8, 8).double()}, "[B, 12, 8, 8]"),
    "latent type": ("decode", {"latent": torch.zeros(1, 12, 8, 8)}, "got torch.float32"),
    "latent scalar": ("decode", {"latent": torch.zeros(()).double()}, "got ()"),
    "precision": ("set_precision", {"precision": "fp8"}, "precision must be fp32 or bf16"),
    "one image": ("initialize", {"images": IMAGES[:1]}, "at least 2 to initialise from, got 1"),
    "batch": ("draw_noise", {"batch": 0}, "batch must be an integer of at least 1, got 0"),
}


@pytest.fixture(scope="module")
def unharmed() -> ImageFlow:
    return make("flowpp-tiny")


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input(case: str, unharmed: ImageFlow) -> None:
    method, arguments, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match="must") as error:
        getattr(unharmed, method)(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_configs_check_what_presets_do_not_reach() -> None:
    with pytest.raises(ValueError, match="split in full_stages must be one of"):
        FlowPlusPlusConfig(full_stages=(("diagonal", 1),))
    with pytest.raises(ValueError, match="steps in half_stages must be an integer"):
        FlowPlusPlusConfig(half_stages=(("channel", 0),))
    with pytest.raises(ValueError, match="pairs, got"):
        FlowPlusPlusConfig(half_stages=(("channel",),))
    with pytest.raises(ValueError, match="dequantizer must be one of flow, uniform"):
        FlowPlusPlusConfig(dequantizer="none")
    with pytest.raises(ValueError, match="shared_context must be False unless"):
        VFlowConfig(shared_context=True, posterior="normal")
