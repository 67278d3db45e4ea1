"""Bits/dim of PNG and lossless WebP on images whose information is known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vflow import codecs
from vflow.codecs import codec_bits_per_dim


def noise(count: int, channels: int = 3, size: int = 32, values: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(0, values, shape, generator=generator).byte()


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_noise_takes_all_eight_bits(channels: int) -> None:
    bits = codec_bits_per_dim(noise(24, channels))
    assert bits == pytest.approx({"png": 8.0, "webp": 8.0}, abs=0.2)


def test_a_coin_toss_in_each_pixel_takes_a_bit() -> None:
    # Grey pixels, so that PNG's Huffman code sees two symbols; no codec can do with less.
    bits = codec_bits_per_dim(255 * noise(64, channels=1, values=2))
    assert 1.0 <= bits["webp"] < 1.1
    assert 1.0 <= bits["png"] < 1.8  # its filters do not help with coins


@pytest.mark.parametrize("count", [63, 64], ids=lambda count: f"{count}-images")
def test_a_constant_takes_next_to_nothing(count: int) -> None:
    bits = codec_bits_per_dim(torch.full((count, 3, 32, 32), 90, dtype=torch.uint8))
    assert all(0 < value < 0.03 for value in bits.values())


def test_headers_hardly_count() -> None:
    image = noise(1, size=16)
    alone, many = codec_bits_per_dim(image), codec_bits_per_dim(noise(64, size=16))
    assert all(many[codec] < alone[codec] for codec in many)
    assert all(value < 8.1 for value in many.values())


def test_bits_are_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(6, values=9)
    rows = [torch.cat([images[3 * row + column] for column in range(3)], 2) for row in range(2)]
    mosaic = Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy())
    expected = {}
    for codec, options in {
        "png": {"optimize": True, "compress_level": 9},
        "webp": {"lossless": True, "quality": 100, "method": 6},
    }.items():
        file = io.BytesIO()
        mosaic.save(file, codec, **options)
        expected[codec] = 8 * len(file.getvalue()) / images.numel()
        with Image.open(file) as decoded:  # lossless indeed
            assert np.array_equal(np.asarray(decoded), np.asarray(mosaic))
    assert codec_bits_per_dim(images) == pytest.approx(expected, abs=0)

    # In mosaics of two images each: the same pixels, two more headers.
    monkeypatch.setattr(codecs, "MAX_SIDE", 64)
    images = noise(12, values=9)
    split = codec_bits_per_dim(images)
    parts = [codec_bits_per_dim(part) for part in images.split(4)]
    assert split["webp"] == pytest.approx(sum(part["webp"] for part in parts) / 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 4, 8, 8).byte(), r"C = 1 or 3 .* got \(2, 4, 8, 8\)$"),
        (torch.zeros(2, 3, 8, 8), r"^images must be uint8, got torch\.float32$"),
        (torch.zeros(0, 3, 8, 8).byte(), r"got \(0, 3, 8, 8\)$"),
        (torch.zeros(1, 1, 8193, 1).byte(), r"^images must be at most 8192 .* got 8193x1$"),
    ],
    ids=["rgba", "float", "none", "too-large"],
)
def test_refuses(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec_bits_per_dim(images)
