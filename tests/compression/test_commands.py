"""vflow compress, decompress and list: pictures of every kind, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.compression.conftest import make_model, smooth_images
from vflow.cli import main
from vflow.compression import codec, pictures
from vflow.compression.compare import measure_codecs


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [(128 + 5 * np.sin(x / (3 + c)) + 2 * y + c) % 256 for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    (image.convert(mode) if mode else image).save(path, **options)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of odd pictures."""
    folder = tmp_path / "odd"
    save(folder / "one.png", smooth(1, 1, 3))
    save(folder / "31x47.png", smooth(47, 31, 3))
    save(folder / "grey.png", smooth(17, 20, 1))
    save(folder / "deep" / "er" / "alpha.png", smooth(9, 16, 4))
    save(folder / "grey-alpha.png", smooth(9, 16, 2))
    save(folder / "Größe 写真 🌊.webp", smooth(8, 8, 3), lossless=True)
    save(folder / "palette.gif", smooth(16, 16, 3), "P")
    save(folder / "two-colours.bmp", smooth(16, 24, 1), "1")
    save(folder / "photo.jpg", smooth(24, 16, 3))
    save(folder / "thin.ppm", smooth(3, 40, 3))
    return folder


def run(*args: object) -> None:
    main([str(arg) for arg in args])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*args)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("vflow: error: ")
    assert error.count("\n") == 1
    return error


def test_a_folder_of_odd_pictures(odd, folder, tmp_path, capsys):
    archive, out = tmp_path / "a.vflow", tmp_path / "out"
    run("compress", folder, odd, "-o", archive, "--compare")
    text = capsys.readouterr().out
    assert "10 images" in text
    assert "PNG: " in text
    assert "WebP: " in text
    run("decompress", archive, "-o", out)
    assert "10 images written" in capsys.readouterr().out
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    sources = {
        path.relative_to(odd).with_suffix(".png").as_posix(): path for path in odd.rglob("*.*")
    }
    assert found == sorted(sources)
    for name, source in sources.items():
        with Image.open(source) as before, Image.open(out / name) as after:
            assert after.mode in ("L", "LA", "RGB", "RGBA")
            assert np.array_equal(np.asarray(before.convert(after.mode)), np.asarray(after)), name
    with Image.open(out / "grey.png") as grey:
        assert grey.mode == "L"
    run("list", archive)
    text = capsys.readouterr().out
    assert "VFlow of 3x8x8" in text
    assert "arithmetic: exact 2" in text
    assert "bytes borrowed to begin with and returned by decoding" in text
    assert "deep/er/alpha.png: 16x9 RGBA" in text
    assert "Größe 写真 🌊.webp: 8x8 RGB" in text


def test_a_data_set(folder, tmp_path, capsys):
    images = smooth_images(40).permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "test.npy", images)
    data = f"npy:{tmp_path}/{{split}}.npy"
    archive = tmp_path / "set.vflow"
    run("compress", folder, "--data", data, "--count", 30, "-o", archive, "--batch-size", 4)
    run("decompress", archive, "-o", tmp_path / "back.npy", "--model", folder)
    assert np.array_equal(np.load(tmp_path / "back.npy"), images[:30])
    run("decompress", archive, "-o", tmp_path / "back")
    for number in (0, 29):
        with Image.open(tmp_path / "back" / f"{number:02}.png") as image:
            assert np.array_equal(np.asarray(image), images[number])
    capsys.readouterr()
    run("list", archive)
    assert "30 images of npy:" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["grey", "rgb", "tiff", "cmyk", "frames", "float", "text"])
def test_what_would_lose_bits_is_refused_before_anything_is_written(kind, folder, tmp_path, capsys):
    source = tmp_path / "in"
    save(source / "good.png", smooth(8, 8, 3))
    bad = source / "bad.png"
    if kind == "grey":
        Image.fromarray(smooth(8, 8, 1)[..., 0].astype(np.uint16) * 257).save(bad)
    elif kind == "rgb":
        bad.write_bytes(png_of_16_bits())
    elif kind == "tiff":
        bad = bad.with_suffix(".tiff")
        Image.fromarray(smooth(8, 8, 1)[..., 0].astype(np.uint16)).save(bad)
    elif kind == "float":
        bad = bad.with_suffix(".tiff")
        Image.fromarray(smooth(8, 8, 1)[..., 0].astype(np.float32)).save(bad)
    elif kind == "cmyk":
        bad = bad.with_suffix(".jpg")
        save(bad, smooth(8, 8, 3), "CMYK")
    elif kind == "frames":
        bad = bad.with_suffix(".gif")
        first, second = (Image.fromarray(smooth(8, 8 + i, 3)[:, :8]) for i in (0, 1))
        first.save(bad, save_all=True, append_images=[second.rotate(90)])
    else:
        bad.write_text("no picture")
    error = refused(capsys, "compress", folder, source, "-o", tmp_path / "a.vflow")
    assert f"{bad} cannot be compressed: " in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def png_of_16_bits() -> bytes:
    """An RGB PNG of 16 bits a sample, which Pillow does not write."""
    import struct
    import zlib

    def block(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = b"".join(b"\0" + bytes(range(6 * 4)) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    body = block(b"IHDR", head) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_bad_arguments(odd, folder, tmp_path, capsys):
    archive = tmp_path / "a.vflow"
    cases = [
        (("compress", folder, "-o", archive), "needs pictures, or a data set by --data"),
        (("compress", folder, odd, "--data", "photos", "-o", archive), "got both"),
        (("compress", folder, tmp_path / "none.png", "-o", archive), "none.png"),
        (("compress", folder, tmp_path / "model", "-o", archive), "there is no picture or folder"),
        (("compress", folder, odd, "-o", tmp_path / "a.zip"), "out must end in .vflow"),
        (("compress", folder, odd, "-o", archive, "--batch-size", 0), "batch_size must be an int"),
        (
            ("compress", folder, odd, "-o", archive, "--batch-size", 300),
            "batch_size must be at most 256, got 300",
        ),
        (("compress", folder, odd, "-o", archive, "--chunk", 0), "chunk must be an integer"),
        (("compress", tmp_path / "nothing", odd, "-o", archive), "nothing"),
        (("decompress", tmp_path / "none.vflow", "-o", tmp_path / "out"), "none.vflow"),
        (("list", odd / "one.png"), "it is no vflow archive"),
    ]
    for arguments, message in cases:
        assert message in refused(capsys, *arguments), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd"]


def test_two_pictures_of_one_name(folder, tmp_path, capsys):
    for name in ("x.png", "x.webp"):
        save(tmp_path / "in" / name, smooth(8, 8, 3))
    error = refused(capsys, "compress", folder, tmp_path / "in", "-o", tmp_path / "a.vflow")
    assert "would both become x.png" in error


def test_a_grey_model_takes_grey(tmp_path, capsys):
    make_model("vflow-tiny", in_channels=1).save_pretrained(tmp_path / "grey")
    save(tmp_path / "g.png", smooth(20, 9, 1))
    save(tmp_path / "c.png", smooth(20, 9, 3))
    run("compress", tmp_path / "grey", tmp_path / "g.png", "-o", tmp_path / "g.vflow")
    run("decompress", tmp_path / "g.vflow", "-o", tmp_path / "out")
    with Image.open(tmp_path / "out" / "g.png") as image:
        assert np.array_equal(np.asarray(image), smooth(20, 9, 1)[..., 0])
    capsys.readouterr()
    colour = ("compress", tmp_path / "grey", tmp_path / "c.png", "-o", tmp_path / "c.vflow")
    assert "c.png cannot be compressed: the model is of images of 1 channel, got 3" in refused(
        capsys, *colour
    )


def test_the_archive_says_which_model_it_wants(odd, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    archive = tmp_path / "a.vflow"
    run("compress", "model", odd / "31x47.png", "-o", archive)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "decompress", archive, "-o", tmp_path / "out")
    assert "it needs the VFlow of digest " in error
    assert "'model' when it was written: name its folder or repository by --model" in error
    make_model("vflow-tiny", seed=5).save_pretrained(tmp_path / "stranger")
    error = refused(
        capsys, "decompress", archive, "-o", tmp_path / "out", "--model", tmp_path / "stranger"
    )
    assert "needs the VFlow of digest" in error
    assert not (tmp_path / "out").exists()


def test_kill_9_while_writing_leaves_no_half_archive(folder, tmp_path):
    np.save(tmp_path / "test.npy", smooth_images(4000).permute(0, 2, 3, 1).numpy())
    archive = tmp_path / "a.vflow"
    archive.write_bytes(b"what was there")
    command = [sys.executable, "-m", "vflow", "compress", str(folder), "-o", str(archive)]
    command += ["--data", f"npy:{tmp_path}/{{split}}.npy", "--chunk", "64"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 5000 for path in tmp_path.glob(".tmp-*.vflow")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert archive.read_bytes() == b"what was there"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_codecs_give_pictures_back(channels):
    pixels = smooth(7, 11, channels)
    assert (codec.decode_picture(codec.encode_picture(pixels), pixels.shape) == pixels).all()
    tiles = np.stack([smooth(4, 6, channels) + i for i in range(7)])
    assert (codec.decode_tiles(codec.encode_tiles(tiles), tiles.shape) == tiles).all()
    with pytest.raises(ValueError, match="by an ordinary codec is damaged"):
        codec.decode_picture(codec.encode_picture(pixels), (8, 11, channels))
    with pytest.raises(ValueError, match="by an ordinary codec is damaged"):
        codec.decode_picture(codec.encode_picture(pixels)[:20], pixels.shape)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 8), (31, 47)])
def test_tiles_make_the_picture(size):
    pixels = smooth(*size, 3)
    tiles = pictures.to_tiles(pixels, 8, 8)
    assert (pictures.from_tiles(tiles, *size) == pixels).all()


def test_the_comparison_counts_whole_files():
    images = list(smooth_images(3).permute(0, 2, 3, 1).numpy())
    found = measure_codecs(images)
    assert found["PNG"].bytes > found["WebP"].bytes > 0
    assert all(measured.seconds > 0 for measured in found.values())
    assert measure_codecs(images[:1])["PNG"].bytes < found["PNG"].bytes
