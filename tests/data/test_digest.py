from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from vflow.data import digest as digest_module
from vflow.data import images_digest


@pytest.fixture
def images():
    return torch.randint(0, 256, (50, 3, 4, 6), dtype=torch.uint8)


def test_digest_is_sha256_of_shape_and_pixels(images):
    content = b"(50, 3, 4, 6)" + images.numpy().tobytes()
    assert images_digest(images) == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_layout_and_memory_maps_make_no_difference(images, tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, images.permute(0, 2, 3, 1).numpy())
    mapped = torch.from_numpy(np.load(path, mmap_mode="c")).permute(0, 3, 1, 2)
    assert not mapped.is_contiguous()
    assert images_digest(mapped) == images_digest(images)


def test_chunks_make_no_difference(images, monkeypatch):
    whole = images_digest(images)
    monkeypatch.setattr(digest_module, "_CHUNK_BYTES", 3 * 72)
    assert images_digest(images) == whole


@pytest.mark.parametrize("sampled", [False, True])
def test_pixels_order_and_shape_count(images, monkeypatch, sampled):
    if sampled:
        monkeypatch.setattr(digest_module, "WHOLE_BYTES", 5 * 72)
    changed = images.clone()
    changed[-1, -1, -1, -1] ^= 1
    others = [changed, images.flip(0), images[:-1], images.reshape(50, 3, 6, 4)]
    digests = {images_digest(each) for each in [images, *others]}
    assert len(digests) == 5
    assert all(each.startswith("sha256-of-5:" if sampled else "sha256:") for each in digests)


def test_large_sets_are_sampled_from_end_to_end(images, monkeypatch):
    monkeypatch.setattr(digest_module, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(digest_module, "SAMPLED_IMAGES", 8)
    read = [0, 7, 14, 21, 28, 35, 42, 49]
    content = b"(50, 3, 4, 6)" + images[read].numpy().tobytes()
    assert images_digest(images) == f"sha256-of-8:{hashlib.sha256(content).hexdigest()}"


def test_other_tensors_are_refused(images):
    with pytest.raises(ValueError, match=r"uint8 \[N, C, H, W\], got torch.float32"):
        images_digest(images.float())
    with pytest.raises(ValueError, match=r"got torch.uint8 \(3, 4, 6\)"):
        images_digest(images[0])
