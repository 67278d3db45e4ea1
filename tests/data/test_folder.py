from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vflow.data import folder, load_images, splits

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def load(path: Path, split: str = "train", **kwargs) -> np.ndarray:
    return load_images(f"folder:{path}", split, **kwargs).images.numpy()


@pytest.fixture
def train(tmp_path) -> Path:
    (tmp_path / "train").mkdir()
    return tmp_path / "train"


def halves(left=RED, right=BLUE, width=64, height=32) -> Image.Image:
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def test_short_side_is_resized_and_the_centre_cut(tmp_path, train):
    halves(width=128, height=64).save(train / "wide.png")
    (image,) = load(tmp_path)
    assert image.shape == (3, 32, 32)
    # The edge is in the middle; a Lanczos filter rings three pixels to either side of it.
    assert image[:, 16, :13].T.tolist() == [list(RED)] * 13
    assert image[:, 16, 19:].T.tolist() == [list(BLUE)] * 13


@pytest.mark.parametrize("size", [1, 8, 40])
@pytest.mark.parametrize(("width", "height"), [(7, 7), (33, 100), (100, 33), (1, 50)])
def test_any_shape_to_any_size(tmp_path, train, size, width, height):
    Image.new("RGB", (width, height), GREEN).save(train / "any.png")
    (image,) = load(tmp_path, image_size=size)
    assert np.array_equal(
        image, np.broadcast_to(np.uint8([[[0]], [[255]], [[0]]]), (3, size, size))
    )


def test_an_image_of_the_size_stays_as_it_is(tmp_path, train):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(train / "same.png")
    assert np.array_equal(load(tmp_path)[0], pixels.transpose(2, 0, 1))


def test_every_mode_becomes_rgb(tmp_path, train):
    plain = halves()
    expected = {
        "bilevel.png": plain.convert("L").point(lambda v: 255 * (v > 50), "1"),
        "grey.png": plain.convert("L"),
        "grey_alpha.png": plain.convert("LA"),
        "palette.png": plain.quantize(4),
        "rgba.png": plain.convert("RGBA"),
    }
    for name, image in expected.items():
        image.save(train / name)
    transparent = plain.quantize(4)
    transparent.save(train / "palette_alpha.png", transparency=bytes([0, 128, 255, 255]))
    plain.convert("CMYK").save(train / "cmyk.jpg", quality=95, subsampling=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = dict(zip(sorted(os.listdir(train)), load(tmp_path), strict=True))
    colours = {name: image[:, 16, [2, 29]].T.tolist() for name, image in images.items()}
    assert colours.pop("bilevel.png") == [[255] * 3, [0] * 3]
    assert colours.pop("grey.png") == colours.pop("grey_alpha.png") == [[76] * 3, [29] * 3]
    cmyk = colours.pop("cmyk.jpg")
    assert np.abs(np.subtract(cmyk, [RED, BLUE])).max() <= 4
    assert set(colours) == {"palette.png", "palette_alpha.png", "rgba.png"}
    assert all(colour == [list(RED), list(BLUE)] for colour in colours.values())


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path, train):
    Image.fromarray(np.full((32, 32), 0x8042, np.uint16)).save(train / "deep.png")
    assert set(load(tmp_path).ravel()) == {0x80}


def test_a_large_jpeg_comes_out_as_it_would_undecimated(tmp_path, train):
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (1024, 1)), np.tile(ramp[:, None], (1, 1024))] * 2, -1)[
        ..., :3
    ]
    for name in ("a.jpg", "b.png"):
        Image.fromarray(pixels).save(train / name, **({"quality": 98} if name == "a.jpg" else {}))
    jpeg, png = load(tmp_path).astype(int)
    assert np.abs(jpeg - png).max() <= 4  # what JPEG itself costs


def test_exif_orientation(tmp_path, train):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the left becomes the top
    halves(width=64, height=64).save(train / "turned.jpg", exif=exif, quality=95, subsampling=0)
    (image,) = load(tmp_path)
    assert np.abs(image[:, 4, 16] - np.float64(RED)).max() <= 4
    assert np.abs(image[:, 27, 16] - np.float64(BLUE)).max() <= 4


def test_recursive_sorted_and_only_images(tmp_path, train):
    for value, name in enumerate(["a/x.png", "a/y/z.JPG", "b.webp", "c.bmp", "d.tiff", "e.gif"]):
        path = train / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("L", (32, 32), 40 * value).save(path)
    for name in ("notes.txt", ".hidden.png", "a/model.pkl"):
        (train / name).write_text("no image")
    assert load(tmp_path)[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]


@pytest.fixture
def damaged(train) -> Path:
    Image.new("RGB", (32, 32), RED).save(train / "good.png")
    (train / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 20)
    (train / "empty.jpg").touch()
    (train / "text.gif").write_text("hello")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("truncated.jpg", "truncated.png", "truncated.webp"):
        path = train / name
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (train / "bomb.png").write_bytes(png_header(20_000, 20_000))
    (train / "large.png").write_bytes(png_header(10_000, 10_000))
    (train / "postscript.png").write_bytes(POSTSCRIPT)
    Image.fromarray(np.zeros((9, 9), np.float32)).save(train / "float.tif")
    return train


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims to be large and ends where its pixels should begin."""
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_unreadable_files_are_named_counted_and_skipped(tmp_path, damaged):
    with pytest.warns(folder.UnreadableImagesWarning) as caught:
        images = load(tmp_path)
    assert images.shape == (1, 3, 32, 32)
    assert images[0, :, 0, 0].tolist() == list(RED)
    (warning,) = caught
    message = str(warning.message)
    bad = sorted(set(os.listdir(damaged)) - {"good.png"})
    assert message.startswith(f"skipped {len(bad)} of {len(bad) + 1} images of {tmp_path}")
    assert "\n" not in message
    assert all(f"{damaged / name} (" in message for name in bad)
    assert "bomb.png (DecompressionBombError" in message
    assert "large.png (DecompressionBombWarning" in message
    assert "postscript.png (UnidentifiedImageError" in message  # and no interpreter was asked
    assert Path(warning.filename).name == "test_folder.py"


def test_a_long_list_of_unreadable_files_is_cut(tmp_path, train):
    Image.new("L", (4, 4)).save(train / "good.png")
    for index in range(13):
        (train / f"bad{index:02}.png").touch()
    with pytest.warns(folder.UnreadableImagesWarning, match=r"skipped 13 .*bad09.*; and 3 more$"):
        load(tmp_path)


def test_none_readable(tmp_path, train):
    (train / "bad.png").touch()
    message = r"must hold readable images, got 1 files and none is: .*bad\.png \("
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore::vflow.data.folder.FolderWarning")
def test_subfolders_are_the_splits(tmp_path, train):
    (tmp_path / "test").mkdir()
    Image.new("L", (32, 32), 1).save(train / "x.png")
    Image.new("L", (32, 32), 2).save(tmp_path / "test" / "x.png")
    Image.new("L", (32, 32), 3).save(tmp_path / "stray.png")
    assert set(load(tmp_path, "train").ravel()) == {1}
    assert set(load(tmp_path, "test").ravel()) == {2}


def test_one_subfolder_without_the_other(tmp_path, train):
    Image.new("L", (4, 4)).save(train / "x.png")
    for split in ("test", "val"):
        message = rf"^folder:.* has no {split} images, only those of train$"
        with pytest.raises(FileNotFoundError, match=message):
            load(tmp_path, split)
    assert splits(f"folder:{tmp_path}") == ("train",)


def test_an_empty_subfolder_is_no_split(tmp_path, train):
    (tmp_path / "test").mkdir()
    for index in range(50):
        Image.new("L", (4, 4)).save(train / f"{index}.png")
    assert len(load(tmp_path, "train")) == 50
    with pytest.raises(FileNotFoundError, match=r"has no test images, only those of train$"):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("names", "there"),
    [
        ({"Train": 45, "Test": 41}, {"train": "Train", "test": "Test"}),
        ({"TRAIN": 3, "VALID": 2}, {"train": "TRAIN", "val": "VALID"}),
        (
            {"training": 3, "validation": 2, "testing": 4},
            {"train": "training", "val": "validation", "test": "testing"},
        ),
    ],
)
def test_no_image_of_a_split_is_in_another(tmp_path, names, there):
    for value, (name, count) in enumerate(names.items()):
        (tmp_path / name / "cat").mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4, 4), 50 * value).save(tmp_path / name / "cat" / f"{index}.png")
    assert splits(f"folder:{tmp_path}") == tuple(there)
    for split, name in there.items():
        images = load(tmp_path, split)
        assert np.unique(images).tolist() == [50 * list(names).index(name)]
        assert len(images) == names[name]


def test_two_folders_for_a_split_are_refused(tmp_path):
    for name in ("train", "training", "test"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "x.png")
    with pytest.raises(ValueError, match=r"must have one folder for train, got train and training"):
        load(tmp_path, "train")
    assert len(load(tmp_path, "test")) == 1


def test_images_outside_of_the_splits_are_named(tmp_path, train):
    Image.new("L", (4, 4)).save(train / "x.png")
    for name in ("a.png", "b.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    message = r"left out 2 images outside of the splits' folders: a\.png; b\.png$"
    with pytest.warns(folder.FolderWarning, match=message):
        load(tmp_path, "train")


@pytest.mark.parametrize(("channels", "expected"), [(1, [76]), (2, [76, 9]), (4, [255, 0, 0, 9])])
def test_channels(tmp_path, train, channels, expected):
    Image.new("RGBA", (32, 32), (*RED, 9)).save(train / "x.png")
    assert load(tmp_path, channels=channels)[0, :, 0, 0].tolist() == expected


def test_a_size_that_is_not_square(tmp_path, train):
    halves(width=64, height=32).save(train / "x.png")
    (image,) = load(tmp_path, image_size="16x64")
    assert image.shape == (3, 16, 64)
    assert image[:, 8, :24].T.tolist() == [list(RED)] * 24
    assert image[:, 8, -24:].T.tolist() == [list(BLUE)] * 24


def test_split_by_name_is_disjoint_complete_and_stable(tmp_path):
    for value in range(200):
        Image.new("L", (4, 4), value).save(tmp_path / f"{value:03}.png")
    parts = [
        load(tmp_path, split, image_size=4)[:, 0, 0, 0].tolist() for split in ("train", "test")
    ]
    assert sorted(parts[0] + parts[1]) == list(range(200))
    assert 8 <= len(parts[1]) <= 35
    for value in range(0, 200, 2):  # which split a file is in does not hang on the others
        (tmp_path / f"{value:03}.png").unlink()
    assert load(tmp_path, "test", image_size=4)[:, 0, 0, 0].tolist() == [
        value for value in parts[1] if value % 2
    ]


def test_too_few_for_a_test_split(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (there,) = splits(f"folder:{tmp_path}")
    (missing,) = {"train", "test"} - {there}
    with pytest.raises(ValueError, match=r"too few images for a \w+ split of its own, got 1: "):
        load(tmp_path, missing)


def test_empty_and_missing(tmp_path):
    with pytest.raises(ValueError, match=r"must hold images \(\.apng .*\), found no such file$"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must name a folder, found none at"):
        load(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"must name a folder, found none at"):
        load(tmp_path / "file")


def test_closed_subfolder_is_an_error_not_an_omission(tmp_path, train, monkeypatch):
    (train / "closed").mkdir()
    Image.new("L", (4, 4)).save(train / "open.png")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):  # by hand: to root no folder is closed
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        load(tmp_path)


def test_home_is_expanded(tmp_path, train, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("L", (32, 32)).save(train / "x.png")
    assert len(load_images("folder:~", "train")) == 1
