"""encode and decode: every kind of model, and the length that the bound promises."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn

import vflow
from tests.compression.conftest import make_model, smooth_images
from vflow import compression
from vflow.compression.chunk import batch_sizes, chunk_info, decode_chunk, encode_chunk
from vflow.compression.identity import arithmetic, model_digest
from vflow.compression.walk import decode_batch, encode_batch
from vflow.ops.coder import Coder

IMAGENET = {
    **{"image_size": 8, "filters": 4, "blocks": 1, "components": 2},
    **{f"{part}_blocks": 1 for part in ("posterior", "dequantizer")},
    **{f"{part}_context_blocks": 1 for part in ("posterior", "dequantizer")},
    **{f"{part}_steps": 1 for part in ("posterior", "dequantizer")},
    "scales": ((("checkerboard", 1),), (("channel", 1),)),
}
MODELS = {
    "vflow": lambda: make_model("vflow-tiny"),
    "flow++": lambda: make_model("flowpp-tiny"),
    "r uniform, q normal": lambda: make_model("vflow-demo"),
    "shared context": lambda: make_model("vflow-photos"),
    "affine layer": lambda: make_model("vflow-4m-c4", blocks=1, posterior_blocks=1, heads=2),
    "grey": lambda: make_model("vflow-tiny", in_channels=1),
    "two channels, odd": lambda: make_model("flowpp-tiny", in_channels=2),
    "five extra": lambda: make_model("vflow-tiny", extra_dims=5),
    "weight norm": lambda: make_model("vflow-imagenet32", **IMAGENET),
    "without 1x1 convolutions": lambda: make_model("flowpp-tiny", conv1x1=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_images_come_back(name):
    model = MODELS[name]()
    images = smooth_images(9, model.data_shape[0])
    data = compression.encode(model, images, batch=4)
    assert torch.equal(compression.decode(model, data), images)


def test_squashes_the_other_way_round():
    for name, squash in (("vflow-tiny", False), ("flowpp-tiny", True)):
        model = make_model(name, squash=squash)
        images = smooth_images(5)
        assert torch.equal(compression.decode(model, compression.encode(model, images)), images)


@pytest.mark.parametrize("name", ["vflow", "r uniform, q normal", "affine layer"])
@torch.no_grad()
def test_the_length_is_the_bound_of_the_same_noise(name):
    """Within what untrained couplings' curvature and 100 images allow; measured on trained ones."""
    model, images, coder = MODELS[name](), smooth_images(100), Coder(lend=True)
    before = coder.bits
    with arithmetic(model, "exact"):
        noise = encode_batch(model, images, coder)
    extra = {} if noise.eps_z is None else {"eps_z": noise.eps_z}
    bound = model.double().elbo(images, eps_u=noise.eps_u, **extra).sum().item()
    excess = (coder.bits - before + bound / math.log(2)) / images.numel()
    assert abs(excess) < 0.01


@torch.no_grad()
def test_the_bits_come_back_whatever_the_batch(model):
    images, coder = smooth_images(6), Coder(lend=True)
    with arithmetic(model, "exact"):
        for batch in images.split(2):
            encode_batch(model, batch, coder)
        back = Coder(coder.lanes, lend=False)
        found = [decode_batch(model, 2, back) for _ in range(3)][::-1]
    assert torch.equal(torch.cat(found), images)
    lent = coder.lent_words
    assert [len(lane.words) for lane in back.lanes] == lent.tolist()


def test_the_same_archive_from_any_number_of_threads(model):
    images = smooth_images(20)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(compression.encode(model, images, batch=3))
    assert found[0] == found[1] == found[2]
    torch.set_num_threads(1)
    assert torch.equal(compression.decode(model, found[2]), images)


def test_native_arithmetic_knows_its_machine(model, monkeypatch):
    images = smooth_images(20)
    data = compression.encode(model, images, arithmetic="native", batch=3)
    assert torch.equal(compression.decode(model, data), images)
    # On another machine a network gives other bits.
    other_forward = vflow.nets.Conv3x3.forward
    monkeypatch.setattr(
        vflow.nets.Conv3x3, "forward", lambda self, x: other_forward(self, x) * (1 + 2**-22)
    )
    with pytest.raises(ValueError, match="native arithmetic of another machine"):
        compression.decode(model, data)


def test_dropout_is_off_and_the_mode_stays(model):
    training = make_model("vflow-tiny", dropout=0.5).train()
    images = smooth_images(4)
    data = compression.encode(training, images)
    assert training.training
    assert torch.equal(compression.decode(training, data), images)
    assert training.training


def test_first_tiles_spare_being_lent_bits(model):
    images = smooth_images(300).permute(0, 2, 3, 1).numpy()
    with arithmetic(model, "exact"):
        data = encode_chunk(model, images, 2)
    info = chunk_info(data)
    assert 0 < info.first_tiles < 100
    assert info.lent_bytes < 64
    assert info.bytes == len(data)
    with arithmetic(model, "exact"):
        assert (decode_chunk(model, data, 300) == images).all()


def test_one_image_and_few(model):
    for count in (1, 2, 3):
        images = smooth_images(count)
        assert torch.equal(compression.decode(model, compression.encode(model, images)), images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "images must be a uint8 tensor, got torch.float32"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"images must have shape \[B, 3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "B at least 1"),
    ],
)
def test_bad_images(model, images, message):
    with pytest.raises(ValueError, match=message):
        compression.encode(model, images)


def test_bad_models_and_arguments(model):
    images = smooth_images(2)
    with pytest.raises(ValueError, match="model must be one of images, got Linear"):
        compression.encode(nn.Linear(1, 1), images)
    with pytest.raises(ValueError, match=r"exact arithmetic needs a model of float32"):
        compression.encode(make_model("vflow-tiny").double(), images)
    with pytest.raises(ValueError, match="arithmetic must be one of exact, native, got 'fast'"):
        compression.encode(model, images, arithmetic="fast")
    with pytest.raises(ValueError, match="batch must be from 1 to 256, got 0"):
        compression.encode(model, images, batch=0)


def test_a_float64_model_in_native_arithmetic():
    model, images = make_model("vflow-tiny").double(), smooth_images(3)
    data = compression.encode(model, images, arithmetic="native")
    assert torch.equal(compression.decode(model, data), images)


def test_another_model_is_refused_by_its_digest(model):
    data = compression.encode(model, smooth_images(2))
    wanted, stranger = model_digest(model), make_model("vflow-tiny", seed=1)
    with pytest.raises(ValueError, match=f"needs the VFlow of digest {wanted[:16]}, got one of"):
        compression.decode(stranger, data)


def test_streams_of_several_sets(model):
    """Sets larger than a chunk, one after another; what was added is what comes."""
    file = io.BytesIO()
    writer = compression.ArchiveWriter(file, model, chunk_tiles=16)
    sets = [smooth_images(n).permute(0, 2, 3, 1).numpy() for n in (5, 30)]
    for i, images in enumerate(sets):
        writer.add_images(images, f"set {i}")
    assert writer.close() == len(file.getvalue())
    reader = compression.ArchiveReader(file, model)
    assert [info.tiles for _, info in reader.infos()] == [16, 16, 3]
    found = list(reader.pictures())
    expected = [image for images in sets for image in images]
    assert all((a.pixels == b).all() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("tiles", "most", "growth", "expected"),
    [
        (0, 8, 1, []),
        (1, 8, 1, [1]),
        (5, 1, 1, [1] * 5),
        (16, 8, 1, [1, 2, 4, 8, 1]),
        (16, 6, 1, [1, 2, 4, 4, 4, 1]),
        (10, 8, 3, [1, 1, 1, 2, 2, 2, 1]),
        (4, 256, 1 << 16, [1] * 4),
    ],
)
def test_batches_grow_with_what_is_on_the_stacks(tiles, most, growth, expected):
    assert batch_sizes(tiles, most, growth) == expected


def test_larger_batches_cost_no_more_first_bits(model):
    tiles = smooth_images(96).permute(0, 2, 3, 1).numpy()
    with arithmetic(model, "exact"):
        one, many = (encode_chunk(model, tiles, most) for most in (1, 32))
    infos = chunk_info(one), chunk_info(many)
    assert infos[0].first_bytes == infos[1].first_bytes
    assert max(batch_sizes(96 - infos[1].first_tiles, 32, infos[1].growth)) >= 4
    assert infos[1].lent_bytes <= infos[0].lent_bytes + 64
    assert abs(len(many) - len(one)) < 0.01 * len(one)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cifar10-mini", "773e0cc4ee9d2fc237e593b95842b68ec609820bdb6e48fd8f3862cf2df841e5"),
        ("photos-mini", "e075421bdbda651337bf9de1e76908292678d68036794165fb57c9f7621bc0f8"),
    ],
)
def test_archives_keep_their_models_name_whatever_fields_configs_get(name, digest):
    assert model_digest(vflow.load_model(name)) == digest
