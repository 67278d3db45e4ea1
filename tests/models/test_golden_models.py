"""Whole models with the authors' variables against the authors' numbers, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import golden
from vflow.interop import load_tf_variables, model_variables
from vflow.models import FlowPlusPlus, ImageFlow, VFlow, create_model

BATCH = 2
PRESETS = {"vflow_seeded": "vflow-cifar10", "flowpp_seeded": "flowpp-cifar10"}


@pytest.fixture(scope="module", params=PRESETS)
def case(request: pytest.FixtureRequest) -> tuple[ImageFlow, dict[str, np.ndarray]]:
    arrays = golden.load(request.param)
    config = dict(part.split("=") for part in str(arrays["config"]).split())
    overrides = {k: int(config[k]) for k in ("filters", "blocks", "components")}
    preset = PRESETS[request.param]
    if preset.startswith("vflow"):
        overrides["extra_dims"] = int(config["extra_dims"])
        overrides["posterior_blocks"] = int(config["posterior_blocks"])
    model = create_model(preset, dropout=0.0, **overrides).double()
    mapping = {}
    for line in arrays["variables"]:
        name, shape = str(line).split(" ", 1)
        dims = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
        mapping[name] = golden.seeded_variable(name, dims)
    load_tf_variables(model, mapping)
    return model, arrays


def noise(model: ImageFlow) -> dict[str, torch.Tensor]:
    given = {"eps_u": golden.seeded_noise("eps_u", BATCH, 3)}
    if isinstance(model, VFlow):
        given["eps_z"] = golden.seeded_noise("eps_z", BATCH, model.config.extra_dims)
    return given


def test_every_variable_is_used_once(case: tuple[ImageFlow, dict[str, np.ndarray]]) -> None:
    model, arrays = case
    ours = [v.name for v in model_variables(model)]
    assert sorted(ours) == sorted(str(line).split(" ", 1)[0] for line in arrays["variables"])
    assert len({id(v.parameter) for v in model_variables(model)}) == len(list(model.parameters()))
    assert model.initialized


def test_dequantization(case: tuple[ImageFlow, dict[str, np.ndarray]]) -> None:
    model, arrays = case
    pixels = golden.seeded_images(BATCH).permute(0, 2, 3, 1).double()
    u, log_r = model.dequantizer(pixels, noise(model)["eps_u"].permute(0, 2, 3, 1))
    x, logdet = pixels + u, -log_r
    if isinstance(model, VFlow):  # the authors' Flow++ preprocesses within its flow
        x, preprocess_logdet = model.preprocess(x)
        logdet = logdet + preprocess_logdet
    golden.assert_close(x[:1], arrays["out/x_dequant"], "x_dequant")
    golden.assert_close(logdet, arrays["out/dequant_logd"], "dequant_logd")


def test_posterior(case: tuple[ImageFlow, dict[str, np.ndarray]]) -> None:
    model, arrays = case
    if not isinstance(model, VFlow):
        assert "out/z" not in arrays
        return
    given = {name: value.permute(0, 2, 3, 1) for name, value in noise(model).items()}
    pixels = golden.seeded_images(BATCH).permute(0, 2, 3, 1).double()
    u, _ = model.dequantizer(pixels, given["eps_u"])
    x, _ = model.preprocess(pixels + u)
    z, log_q = model.posterior(x, given["eps_z"])
    golden.assert_close(z, arrays["out/z"][0], "z")
    golden.assert_close(log_q, arrays["out/logq_z"], "logq_z")
    _, log_p = model.density.density.encode(x, eps_z=given["eps_z"])
    golden.assert_close(log_p + log_q, arrays["out/logp_xz"], "logp_xz")


def test_likelihood(case: tuple[ImageFlow, dict[str, np.ndarray]]) -> None:
    model, arrays = case
    images, given = golden.seeded_images(BATCH), noise(model)
    elbo = model.elbo(images, **given)
    golden.assert_close(elbo, arrays["out/logp_x"], "logp_x")
    golden.assert_close(model.to_bits_per_dim(elbo), arrays["out/bpd"], "bpd")
    latent = model.encode(images, **given).permute(0, 2, 3, 1)
    golden.assert_close(latent[:1], arrays["out/y"], "latent")


def test_gradients(case: tuple[ImageFlow, dict[str, np.ndarray]]) -> None:
    model, arrays = case
    model.zero_grad()
    (-model.elbo(golden.seeded_images(BATCH), **noise(model)).mean()).backward()
    ours = {v.name: v for v in model_variables(model)}
    listed = [k for k in arrays if k.startswith("grad/")]
    assert len(listed) >= 20
    for key in listed:
        variable = ours[key.removeprefix("grad/")]
        assert variable.parameter.grad is not None
        gradient = variable.to_tf(variable.parameter.grad).reshape(arrays[key].shape)
        golden.assert_close(gradient, arrays[key], key)


def test_inverse(case: tuple[ImageFlow, dict[str, np.ndarray]]) -> None:
    model, arrays = case
    height, width = model.config.image_size
    # The authors reshape VFlow's latent row by row: a plain reshape, not space to depth.
    latent = golden.tensor(arrays["inverse/latent"]).reshape(1, height // 2, width // 2, -1)
    x = model.density.density.decode(latent)
    pixels, _ = model.preprocess.inverse(x)
    golden.assert_close(pixels, arrays["inverse/x"], "x")
    if isinstance(model, VFlow):
        _, z = model.density.density.decode_both(latent)
        golden.assert_close(z, arrays["inverse/z"], "z")
    else:
        assert isinstance(model, FlowPlusPlus)
    decoded = model.decode(latent.permute(0, 3, 1, 2))
    golden.assert_close(decoded.permute(0, 2, 3, 1), arrays["inverse/x"], "decode")
