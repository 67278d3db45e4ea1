"""Muon: what it makes of a momentum, and of which parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import vflow
from vflow.io.checkpoint import list_steps, open_checkpoint
from vflow.train import OptimConfig, train
from vflow.train.muon import ADAM_LENGTH, MOST_ROWS, Muon, network_matrices, orthogonalized

GO = torch.tensor(0.0)


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16), (2, 1, 7), (1, 5, 1)])
def test_orthogonalized_keeps_directions_and_makes_them_as_long(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, sizes, v = torch.linalg.svd(matrices, full_matrices=False)
    # In the basis of its singular vectors what comes out is diagonal, and no longer than told.
    found = u.mT @ orthogonalized(matrices) @ v.mT
    lengths = found.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(lengths), rtol=0, atol=1e-10)
    assert 0.65 < lengths.min() <= lengths.max() < 1.25
    assert sizes.max() > 1.25 or min(shape[1:]) == 1


@pytest.mark.parametrize("shape", [(2, 32, 288), (2, 100, 60)])
@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-6])
def test_float32_is_as_good_whatever_the_singular_values(shape, smallest):
    torch.manual_seed(0)
    u, sizes, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    spread = torch.logspace(0, math.log10(smallest), sizes.shape[1], dtype=torch.float64)
    matrices = u * spread @ v
    exact, rounded = orthogonalized(matrices), orthogonalized(matrices.float()).double()
    assert (rounded - exact).norm() < 1e-3 * exact.norm()


def test_orthogonalized_zeros_are_zeros():
    assert torch.equal(orthogonalized(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("preset", ["vflow-tiny", "glow-tiny", "residual-tiny"])
def test_matrices_are_those_of_networks_and_no_change_of_volume(preset):
    model = vflow.create_model(preset)
    found = network_matrices(model)
    named = dict(model.named_parameters())
    assert all(named[name] is parameter for name, parameter in found.items())
    for path, module in model.named_modules():
        if type(module).__name__ in ("ActNormConv1x1", "ActNorm"):
            assert not any(name.startswith(f"{path}.") for name in found)
    of_them = sum(p.numel() for p in found.values())
    assert of_them > 0.7 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("rows", [4, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS])
def test_first_step_is_the_orthogonalized_gradient_block_by_block(rows):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, rows, 3, bias=False).to(memory_format=torch.channels_last)
    net = nn.Sequential(layer, nn.PReLU())  # whose one number is Adam's
    before = layer.weight.detach().clone()
    optimizer = Muon(net, OptimConfig(lr=0.1))
    layer.weight.grad = torch.randn(rows, 2, 3, 3)
    optimizer.step(GO)
    steps = (before - layer.weight.detach()).flatten(1)
    height = math.ceil(rows / math.ceil(rows / MOST_ROWS))
    gradient = layer.weight.grad.flatten(1)
    for start in range(0, rows, height):
        block = slice(start, start + height)
        length = 0.1 * ADAM_LENGTH * math.sqrt(max(height, 18))
        expected = length * orthogonalized(gradient[None, block])[0]
        torch.testing.assert_close(steps[block], expected, rtol=1e-3, atol=1e-5)


def test_steps_are_about_as_long_as_adams():
    torch.manual_seed(0)
    layer = nn.Linear(96, 48)
    before = layer.weight.detach().clone()
    optimizer = Muon(layer, OptimConfig(lr=0.01))
    layer.weight.grad = torch.randn(48, 96)
    optimizer.step(GO)
    size = (layer.weight.detach() - before).square().mean().sqrt() / 0.01
    assert 0.7 * ADAM_LENGTH < size < 1.2 * ADAM_LENGTH


def test_a_run_goes_on_to_the_same_bits(make_config, tmp_path, fingerprint):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(make_config(out=whole, steps=6, optimizer="muon"))
    train(make_config(out=halves, steps=3, optimizer="muon"))
    train(make_config(out=halves, steps=6, optimizer="muon"))
    state = open_checkpoint(list_steps(whole / "checkpoints")[6]).tensors("optimizer")
    assert any(name.startswith("momentum.") for name in state)
    assert fingerprint(whole)["files"] == fingerprint(halves)["files"]


@pytest.mark.parametrize("names", [("adam", "muon"), ("muon", "adamw")])
def test_a_run_cannot_change_to_it_or_from_it(make_config, tmp_path, names):
    train(make_config(out=tmp_path / "run", steps=2, optimizer=names[0]))
    changed = make_config(
        out=tmp_path / "run", steps=4, optimizer=names[1], resume_with_changes=True
    )
    expected = f"optimizer was {names[0]} and is {names[1]}; use another --out$"
    with pytest.raises(ValueError, match=expected):
        train(changed)
