"""Glow, plain and widened, with every coupling: images come back, at the length of the bound."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from PIL import Image
from torch import nn

import vflow
from tests.compression.conftest import smooth_images
from vflow import compression
from vflow.cli import main
from vflow.compression.identity import arithmetic, probe
from vflow.compression.walk import decode_batch, encode_batch
from vflow.flows import COUPLINGS, Flow
from vflow.ops.coder import Coder

WIDE = {"normal": 2, "gaussian": 1}


def trained(model: vflow.models.ImageFlow, steps: int = 40) -> vflow.models.ImageFlow:
    """A few steps, after which nothing that could be is zero or far from the images."""
    images = smooth_images(256, model.data_shape[0])
    optimizer = torch.optim.Adam(model.train().parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.elbo(images, generator=generator).mean() / model.dims).backward()
        optimizer.step()
    return model.eval()


def make(coupling: str = "sigmoid-affine", **changes) -> vflow.models.ImageFlow:
    torch.manual_seed(0)
    changes = {"image_size": 8, **changes}
    return vflow.create_model("glow-tiny", coupling=coupling, **changes)


@pytest.fixture(scope="module", params=["plain", *WIDE])
def glow(request):
    torch.set_num_threads(1)
    model = trained(make())
    if request.param == "plain":
        return model
    return trained(model.widen(WIDE[request.param], request.param), 20)


@pytest.mark.parametrize("kind", ["exact", "native"])
def test_images_come_back(glow, kind):
    images = smooth_images(40)
    data = compression.encode(glow, images, arithmetic=kind, batch=4)
    assert torch.equal(compression.decode(glow, data), images)


@torch.no_grad()
def test_the_length_is_the_bound_of_the_same_noise(glow):
    images, coder = smooth_images(256), Coder(lend=True)
    before = coder.bits
    with arithmetic(glow, "exact"):
        noise = encode_batch(glow, images, coder)
    extra = {} if noise.eps_z is None else {"eps_z": noise.eps_z}
    bound = copy.deepcopy(glow).double().elbo(images, eps_u=noise.eps_u, **extra).sum().item()
    excess = (coder.bits - before + bound / math.log(2)) / images.numel()
    assert abs(excess) < 1e-3


@torch.no_grad()
def test_networks_give_the_same_bits_in_any_batch_and_number_of_threads(glow):
    h = torch.randn(7, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    for network in (glow.flow.flows[3].net, glow.flow.flows[-1].prior):
        kept = h[..., : next(network.parameters()).shape[1]]
        found = []
        for batch, threads in ((1, 1), (7, 2), (3, 3)):
            torch.set_num_threads(threads)
            with arithmetic(glow, "exact"):
                found.append(torch.cat([network(part) for part in kept.split(batch)]))
        torch.set_num_threads(1)
        torch.testing.assert_close(found[0], network(kept), rtol=1e-4, atol=1e-5)
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@torch.no_grad()
def test_the_same_stacks_from_any_number_of_threads(glow):
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(compression.encode(glow, smooth_images(9), batch=4))
    torch.set_num_threads(1)
    assert found[0] == found[1]


@torch.no_grad()
def test_the_bits_come_back(glow):
    images, coder = smooth_images(6), Coder(lend=True)
    with arithmetic(glow, "exact"):
        for part in images.split(2):
            encode_batch(glow, part, coder)
        back = Coder(coder.lanes, lend=False)
        found = [decode_batch(glow, 2, back) for _ in range(3)][::-1]
    assert torch.equal(torch.cat(found), images)
    assert [len(lane.words) for lane in back.lanes] == coder.lent_words.tolist()


@pytest.mark.parametrize("coupling", COUPLINGS.names)
def test_every_coupling(coupling):
    model, images = trained(make(coupling), 10), smooth_images(9)
    data = compression.encode(model, images, batch=4)
    assert torch.equal(compression.decode(model, data), images)
    native = compression.encode(model.double(), images, arithmetic="native", batch=4)
    assert torch.equal(compression.decode(model, native), images)


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 1},
        {"scales": (1,), "learned_top": False},
        {"scales": (1, 1, 1)},
        {"dequantizer": "flow", "dequantizer_preprocess": "centre", "dequantizer_blocks": 1},
        {"width": 512, "scales": (1, 1)},
    ],
    ids=str,
)
def test_glow_of_other_shapes(changes):
    model = trained(make(**changes), 2)
    images = smooth_images(5, model.data_shape[0])
    assert torch.equal(compression.decode(model, compression.encode(model, images)), images)


def test_on_the_command_line(tmp_path, capsys):
    trained(make(), 2).save_pretrained(tmp_path / "model")
    pixels = smooth_images(1, size=24)[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    main(
        ["compress", str(tmp_path / "model"), str(tmp_path / "a.png"), "-o", f"{tmp_path}/a.vflow"]
    )
    main(["decompress", f"{tmp_path}/a.vflow", "-o", f"{tmp_path}/out"])
    with Image.open(tmp_path / "out" / "a.png") as found:
        assert (pixels == found).all()
    assert "1 images" in capsys.readouterr().out


class Foreign(nn.Module):
    """A network of a user's own."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, context=None):
        return self.net(x, context)


class Ruleless(Flow):
    """A layer without a coding rule."""

    def forward(self, x, context=None):
        return x, x.new_zeros(len(x))


def test_what_has_no_exact_operations_is_refused_by_name_and_native_takes_it():
    model, images = trained(make(), 2), smooth_images(3)
    coupling = model.flow.flows[3]
    coupling.net = Foreign(coupling.net)
    expected = r"^exact arithmetic cannot run Foreign \(density\..*\.net\).* native takes others"
    with pytest.raises(ValueError, match=expected):
        compression.encode(model, images)
    data = compression.encode(model, images, arithmetic="native")
    assert torch.equal(compression.decode(model, data), images)


@pytest.mark.parametrize("kind", ["exact", "native"])
def test_what_is_beyond_the_coder_is_refused_and_leaves_nothing(kind, tmp_path, capsys):
    model = trained(make(), 2)
    with torch.no_grad():
        model.flow.flows[3].net.conv3.bias[1::2] = -60  # scales below 2^-42
    with pytest.raises(
        ValueError, match=r"^the model cannot code a tile, too far.* a scale must be"
    ):
        compression.encode(model, smooth_images(9), arithmetic=kind, batch=4)
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(smooth_images(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    out = ["-o", str(tmp_path / "a.vflow"), "--arithmetic", kind]
    with pytest.raises(SystemExit):
        main(["compress", str(tmp_path / "model"), str(tmp_path / "a.png"), *out])
    assert "error: the model cannot code a tile" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "model"]


def test_a_probe_that_is_beyond_the_coder_is_still_this_machines():
    """Its images are not the archive's: a model that cannot code them may code those."""
    model = trained(make(), 2)
    with arithmetic(model, "native"):
        good = probe(model, {1, 2})
        with torch.no_grad():
            model.flow.flows[-1].prior.bias.fill_(-60)
        cut, again = probe(model, {1, 2}), probe(model, {1, 2})
    assert good != cut
    assert cut == again


def test_a_layer_without_a_rule_is_refused_before_anything_is_written(tmp_path):
    model = make().eval()
    model.flow.flows.insert(1, Ruleless())
    with (tmp_path / "a.vflow").open("wb") as file:
        for kind in ("exact", "native"):
            with pytest.raises(ValueError, match=r"^Ruleless \(.*\) has no coding rule"):
                compression.ArchiveWriter(file, model, arithmetic=kind)
    assert (tmp_path / "a.vflow").stat().st_size == 0
