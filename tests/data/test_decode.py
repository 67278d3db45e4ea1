"""Every kind of pixel that Pillow knows: its right value, or the reason why not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from vflow.data import folder, load_images
from vflow.data.decode import MODES, decode

COLOUR = (200, 100, 50)
LUMA = 124


def colour_as(mode: str) -> Image.Image:
    base = Image.new("RGB", (8, 8), COLOUR)
    if mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        return ImageCms.applyTransform(base, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    if mode in ("P", "PA"):
        return base.quantize(4).convert(mode)
    return base.convert(mode)


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[(mode, "tif") for mode in ("RGB", "RGBA", "RGBX", "CMYK", "P", "PA", "YCbCr", "LAB")],
        *[("RGB", suffix) for suffix in ("png", "webp", "avif", "bmp", "gif", "ppm", "jpg")],
        *[("P", suffix) for suffix in ("png", "bmp", "gif")],
        ("RGBA", "png"),
        ("CMYK", "jpg"),
    ],
)
def test_colour(tmp_path, mode, suffix, channels):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    path = tmp_path / f"x.{suffix}"
    colour_as(mode).save(path)
    image, more_frames = decode(path, (4, 4), channels)
    expected = {1: [LUMA], 2: [LUMA, 255], 3: COLOUR, 4: [*COLOUR, 255]}[channels]
    assert image.shape == (channels, 4, 4)
    assert not more_frames
    near = 2 if (mode, suffix) != ("RGB", "jpg") else 3
    assert np.abs(image[:, 0, 0].astype(int) - expected).max() <= near


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey(tmp_path, mode, suffix, channels):
    path = tmp_path / f"x.{suffix}"
    Image.new("L", (8, 8), 77).convert(mode).save(path)
    image, _ = decode(path, (8, 8), channels)
    expected = {1: [77], 2: [77, 255], 3: [77] * 3, 4: [77] * 3 + [255]}[channels]
    assert image[:, 3, 3].tolist() == expected


@pytest.mark.parametrize("channels", MODES)
def test_bilevel(tmp_path, channels):
    pixels = np.eye(8, dtype=bool)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image, _ = decode(tmp_path / "x.png", (8, 8), channels)
    assert np.array_equal(image[0], 255 * pixels)


def test_alpha_is_kept_where_it_is_asked_for(tmp_path):
    Image.new("RGBA", (8, 8), (*COLOUR, 40)).save(tmp_path / "x.png")
    found = {n: decode(tmp_path / "x.png", (8, 8), n)[0][:, 0, 0].tolist() for n in MODES}
    assert found == {1: [LUMA], 2: [LUMA, 40], 3: [*COLOUR], 4: [*COLOUR, 40]}


GREY16 = np.full((8, 8), 0x8042, np.uint16)


@pytest.mark.parametrize(
    ("suffix", "mode", "order"),
    [
        ("png", "I;16", "<"),
        ("png", "I;16B", ">"),
        ("tif", "I;16", "<"),
        ("tif", "I;16L", "<"),
        ("tif", "I;16B", ">"),
        ("pgm", "I;16", "<"),
    ],
)
def test_grey_of_sixteen_bits_keeps_its_high_byte(tmp_path, suffix, mode, order):
    path = tmp_path / f"x.{suffix}"
    Image.frombytes(mode, (8, 8), GREY16.astype(f"{order}u2").tobytes()).save(path)
    assert np.unique(decode(path, (4, 4), 3)[0]).tolist() == [0x80]


def test_grey_of_sixteen_bits_where_white_is_zero(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(GREY16).save(path, tiffinfo={262: 0})
    with Image.open(path) as opened:
        assert opened.tag_v2[262] == 0
        assert opened.mode == "I;16"
    assert np.unique(decode(path, (4, 4), 1)[0]).tolist() == [0x7F]


@pytest.mark.parametrize("value", [0, 1, 200, 255])
@pytest.mark.parametrize("channels", MODES)
def test_grey_of_thirty_two_bits_within_bytes(tmp_path, value, channels):
    Image.fromarray(np.full((8, 8), value, np.int32)).save(tmp_path / "x.tif")
    assert np.unique(decode(tmp_path / "x.tif", (4, 4), channels)[0][0]).tolist() == [value]


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("x.tif", np.int32([[0, 256]]), r"^grey of 32 bits must be 0 to 255, got 0 to 256: "),
        ("x.tif", np.int32([[-1, 9]]), r"^grey of 32 bits must be 0 to 255, got -1 to 9: "),
        ("x.tif", np.uint16([[0, 255]]), r"^grey of 16 bits and at most 255 would be black: "),
        ("x.png", np.uint16([[1, 1]]), r"^grey of 16 bits and at most 1 would be black: "),
        ("x.tif", np.float32([[0, 0.5]]), r"^floating-point pixels have no known range: "),
    ],
)
def test_pixels_of_no_known_range_are_refused(tmp_path, name, pixels, message):
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        decode(tmp_path / name, (1, 1), 3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames_is_taken_and_said(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (COLOUR, (0, 0, 0), (9, 9, 9))]
    (tmp_path / "train").mkdir()
    path = tmp_path / "train" / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    frames[0].save(tmp_path / "train" / "one.png")
    with pytest.warns(folder.FolderWarning, match="took the first frame alone of 1 images") as seen:
        images = load_images(f"folder:{tmp_path}", "train", image_size=8).images
    assert str(seen[0].message).endswith(f": train/x.{suffix}")
    assert [image[:, 0, 0].tolist() for image in images] == [[*COLOUR]] * 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation(tmp_path, orientation, suffix):
    upright = np.zeros((8, 16), np.uint8)
    upright[:4, :8] = 255  # no symmetry
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(turn[orientation])).save(path, exif=exif, **options)
    image, _ = decode(path, (8, 16), 1)
    assert np.abs(image[0].astype(int) - upright).max() <= 2


@pytest.mark.parametrize("size", [(4, 4), (8, 16), (16, 8), (5, 3), (1, 9)])
@pytest.mark.parametrize("full", [(32, 32), (64, 20), (20, 64), (3, 3)])
def test_the_centre_is_cut_to_cover_any_size(tmp_path, size, full):
    height, width = full
    pixels = np.tile(np.linspace(0, 255, width), (height, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image, _ = decode(tmp_path / "x.png", size, 1)
    assert image.shape == (1, *size)
    mirrored = image[0, :, ::-1].astype(int)
    a_pixel = 255 / (width * max(size[0] / height, size[1] / width))
    # The ramp's centre is in the middle, to half a pixel.
    assert np.abs(image[0] + mirrored - 255).max() <= a_pixel + 4
