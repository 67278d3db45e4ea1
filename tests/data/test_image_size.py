from __future__ import annotations

import numpy as np
import pytest

from vflow.data import load_images, parse_size, size_text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (32, (32, 32)),
        (np.int64(8), (8, 8)),
        ("32", (32, 32)),
        ("32x48", (32, 48)),
        ("32X48", (32, 48)),
        ((32, 48), (32, 48)),
        ([4, 8], (4, 8)),
    ],
)
def test_ways_to_write_a_size(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value",
    [0, -1, 1.5, True, None, "", "x", "32x", "32x48x3", "-4", "0x4", (1, 2, 3), (4, 0), "\u0663"],
)
def test_what_is_no_size(value):
    with pytest.raises(ValueError, match=r"^side must be a positive integer or HEIGHTxWIDTH, got"):
        parse_size(value, "side")


def test_text():
    assert (size_text((32, 32)), size_text((32, 48))) == ("32", "32x48")


def test_crops_of_photographs_need_not_be_square():
    tall = load_images("photos", "test", image_size="48x24").images
    assert tall.shape[1:] == (3, 48, 24)
    square = load_images("photos", "test", image_size=48).images
    corners = {bytes(image[:, :, :24].numpy().tobytes()) for image in square}
    assert corners <= {image.numpy().tobytes() for image in tall}


def test_photographs_in_grey_are_the_luma_of_those_in_colour():
    colour = load_images("photos", "test").images.double()
    grey = load_images("photos", "test", channels=1).images
    luma = (colour * colour.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert grey.shape == (460, 1, 32, 32)
    assert (grey.double() - luma).abs().max() <= 0.51


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        ("photos", 2, r"^channels must be 3 or 1 for photos, got 2$"),
        ("cifar10", 1, r"^channels must be 3 for cifar10, got 1$"),
        ("fashion-mnist", 3, r"^channels must be 1 for fashion-mnist, got 3$"),
        ("folder:.", 5, r"^channels must be 3 or 1 or 2 or 4 for folder:\., got 5$"),
        ("photos", 0, r"^channels must be a positive integer, got 0$"),
        ("photos", "1", r"^channels must be a positive integer, got '1'$"),
        ("photos", True, r"^channels must be a positive integer, got True$"),
    ],
)
def test_channels_that_cannot_be_had(spec, channels, message):
    with pytest.raises(ValueError, match=message):
        load_images(spec, "train", channels=channels)
