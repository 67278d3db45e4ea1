"""What a model says of images: likelihoods, latents, codes, and the bits of each pixel."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vflow
from vflow import scores
from vflow.flows import ActNormConv1x1
from vflow.nets import Trunk
from vflow.runtime.extras import MissingExtra

KINDS: dict[str, dict[str, Any]] = {
    "vflow-tiny": {"image_size": 8},
    "flowpp-tiny": {"image_size": 8, "in_channels": 2},
    "vflow-demo": {"filters": 8, "image_size": 8},
    "vflow-4m-c6": {"filters": 8, "blocks": 1, "image_size": 8},
    "glow-tiny": {},
    "flowpp-imagenet64": {
        **{"image_size": 16, "filters": 4, "blocks": 1, "components": 2},
        **{f"dequantizer_{part}": 1 for part in ("blocks", "steps", "context_blocks")},
    },
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> vflow.VFlow:
    model = vflow.create_model(request.param, **KINDS[request.param]).double()
    model.initialize(_images(model, 8))
    return model.eval()


def _images(model: Any, count: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *model.data_shape), generator=source, dtype=torch.uint8)


def test_the_bits_of_pixels_sum_to_the_bound(model: Any):
    images, noise = _images(model, 3), model.draw_noise(3)
    bits = scores.pixel_bits(model, images, **noise)
    assert bits.shape == (3, *model.data_shape[1:])
    with torch.no_grad():
        want = -model.elbo(images, **noise) / math.log(2)
    torch.testing.assert_close(bits.sum((1, 2)), want, rtol=1e-12, atol=0)


def test_the_bits_of_a_pixel_stand_in_its_place():
    # Couplings that ignore what they see and layers that mix no channels: a pixel's terms are its
    # own, so that none but those of a changed pixel move.
    model = vflow.create_model("vflow-demo", filters=8, image_size=8).double()
    model.mark_initialized()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Trunk):
                for parameter in layer.conv_out.parameters():
                    parameter.zero_()
            elif isinstance(layer, ActNormConv1x1):
                layer.weight.copy_(torch.eye(len(layer.weight)))
    images, noise = _images(model, 1), model.draw_noise(1)
    before = scores.pixel_bits(model.eval(), images, **noise)
    images[0, :, 2, 5] = 255 - images[0, :, 2, 5]
    changed = (scores.pixel_bits(model, images, **noise) - before).abs() > 1e-9
    assert changed.nonzero().tolist() == [[0, 2, 5]]


def test_measured_by_the_bound_of_the_same_noise(model: Any):
    images = _images(model, 5)
    whole = scores.measure(model, images, seed=3)
    parts = scores.measure(model, images, seed=3, batch_size=2)
    for name, values in vars(whole).items():
        np.testing.assert_allclose(values, getattr(parts, name), rtol=1e-9)
    np.testing.assert_allclose(
        whole.bits, model.to_bits_per_dim(torch.from_numpy(whole.log_prob)).numpy()
    )
    other = scores.measure(model, images, seed=4)
    assert (other.log_prob != whole.log_prob).all()


def test_more_samples_give_more_likelihood():
    model = vflow.create_model("vflow-tiny", image_size=8)
    images = _images(model, 4)
    model.initialize(images)
    one, many = (scores.measure(model.eval(), images, samples=s).log_prob.mean() for s in (1, 64))
    assert many > one


@pytest.mark.parametrize("codec", ["png", "webp"])
def test_codes_are_whole_files(codec: str):
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    images[1] = 7
    found = scores.code_bits(images, codec)
    assert found[0] > 8.0 > found[1]
    buffer = io.BytesIO()
    options = {"png": {"optimize": True}, "webp": {"lossless": True, "method": 6}}[codec]
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(buffer, codec, **options)
    assert found[0] <= 8 * len(buffer.getvalue()) / images[0].numel()


def test_jpeg_xl_by_imagecodecs_or_a_word_on_it():
    images = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match=r"pip install 'vflow\[codecs\]'"):
            scores.code_bits(images, "jxl")
    else:
        assert 0 < scores.code_bits(images, "jxl")[0] < 2


def test_unknown_codecs_and_odd_channels_are_named():
    with pytest.raises(ValueError, match="codec must be one of png, webp, jxl, got 'gif'"):
        scores.code_bits(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "gif")
    with pytest.raises(ValueError, match="C = 1 or 3"):
        scores.code_bits(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), "png")
