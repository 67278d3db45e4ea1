from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vflow.data import folder, load_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "CACHE_FROM", 10)
    return tmp_path / "cache" / "folders"


@pytest.fixture
def images(tmp_path) -> Path:
    path = tmp_path / "images" / "train"
    path.mkdir(parents=True)
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 11, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{index:02}.png")
    return path.parent


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    names: list[str] = []
    decode = folder.decode

    def counted(path, *args):
        names.append(path.name)
        return decode(path, *args)

    monkeypatch.setattr(folder, "decode", counted)
    return names


def load(path: Path, **kwargs) -> np.ndarray:
    return load_images(f"folder:{path}", "train", **{"image_size": 8, **kwargs}).images.numpy()


def kept(cache: Path) -> list[str]:
    return sorted(path.suffix for path in cache.rglob("*") if path.is_file())


def test_the_second_time_nothing_is_decoded(images, decoded, cache, monkeypatch):
    first = load(images)
    assert len(decoded) == 20
    assert np.array_equal(load(images), first)
    assert len(decoded) == 20
    monkeypatch.setenv("VFLOW_CACHE", "off")
    assert np.array_equal(load(images), first)
    assert len(decoded) == 40
    assert kept(cache) == ["", ".json", ".npy"]


def test_the_cache_is_mapped_and_what_is_written_to_it_stays_here(images):
    loaded = load_images(f"folder:{images}", "train", image_size=8)
    assert loaded.mapped
    assert loaded.images.is_contiguous()
    before = loaded.images.clone()
    loaded.images.fill_(0)
    assert np.array_equal(load(images), before.numpy())


@pytest.mark.parametrize("change", ["content", "more", "fewer", "name", "time"])
def test_a_changed_folder_is_decoded_again_and_the_old_one_removed(images, decoded, cache, change):
    load(images)
    path = images / "train" / "03.png"
    if change == "content":
        Image.new("L", (4, 4), 7).save(path)
    elif change == "more":
        Image.new("L", (4, 4), 7).save(images / "train" / "new.png")
    elif change == "fewer":
        path.unlink()
    elif change == "name":
        path.rename(path.with_name("zz.png"))
    else:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    decoded.clear()
    again = load(images)
    assert len(decoded) == len(again) == 20 + (change == "more") - (change == "fewer")
    assert kept(cache) == ["", ".json", ".npy"]


def test_sizes_and_channels_are_kept_side_by_side(images, decoded):
    for _ in range(2):
        shapes = [load(images, **k).shape[1:] for k in ({}, {"channels": 1}, {"image_size": "4x8"})]
        assert shapes == [(3, 8, 8), (1, 8, 8), (3, 4, 8)]
    assert len(decoded) == 60


def test_unreadable_files_are_named_the_second_time_too(images, decoded):
    (images / "train" / "05.png").write_bytes(b"nonsense")
    for _ in range(2):
        with pytest.warns(folder.UnreadableImagesWarning, match=r"skipped 1 of 20 .*05\.png"):
            assert load(images).shape == (19, 3, 8, 8)
    assert len(decoded) == 20


def test_no_readable_image_at_all(images):
    for path in (images / "train").iterdir():
        path.write_bytes(b"nonsense")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must hold readable images, got 20 files and none"):
            load(images)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_is_made_again(images, decoded, cache, suffix):
    first = load(images).copy()
    (path,) = cache.rglob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert np.array_equal(load(images), first)
    assert len(decoded) == 40


def test_what_a_killed_process_left_is_removed(images, cache):
    load(images)
    (path,) = cache.rglob("*.npy")
    (path.parent / ".tmp-abc.npy").write_bytes(b"half")
    path.unlink()
    load(images)
    assert kept(cache) == ["", ".json", ".npy"]


def test_processes_at_once_decode_once(images, decoded):
    context = multiprocessing.get_context("fork")  # quick, and a decoder needs no more
    start, results = context.Barrier(3), context.Queue()

    def run():
        start.wait(60)
        total = int(load(images).sum())
        results.put((len(decoded), total))

    processes = [context.Process(target=run) for _ in range(3)]
    for process in processes:
        process.start()
    counts, totals = zip(*(results.get(timeout=60) for _ in processes), strict=True)
    for process in processes:
        process.join()
    assert sorted(counts) == [0, 0, 20]
    assert len(set(totals)) == 1


def test_a_full_disk_is_named(images, monkeypatch):
    def full(file, shape, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vflow.data.folder_cache._write", full)
    with pytest.raises(OSError, match=r"No space left.*VFLOW_CACHE=off.*\.npy") as error:
        load(images)
    assert error.value.errno == errno.ENOSPC


def test_where_nothing_can_be_written_it_is_said(images, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VFLOW_CACHE", str(tmp_path / "file"))
    with pytest.warns(folder.FolderWarning, match=r"is not writable, so that .* each time$"):
        assert len(load(images)) == 20


def test_small_folders_leave_no_trace(images, cache, monkeypatch):
    monkeypatch.setattr(folder, "CACHE_FROM", 21)
    assert len(load(images)) == 20
    assert not cache.exists()
