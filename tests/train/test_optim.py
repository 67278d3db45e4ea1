from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vflow.train import OptimConfig
from vflow.train.optim import (
    MAX_SKIPS_IN_A_ROW,
    Ema,
    SkipGuard,
    learning_rate,
)
from vflow.train.optimizers import make_optimizer

PAPER = OptimConfig()
CPU = torch.device("cpu")
GO = torch.tensor(0.0)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0012 / 2000),
        (999, 0.0006),
        (1999, 0.0012),
        (2000, 0.0012),
        (50_000, 0.0012),
        (50_001, 0.0012 * 0.99999),
        (100_000, 0.0012 * 0.99999**50_000),
        (188_628, 0.0012 * 0.99999**138_628),  # the last above the floor
        (188_629, 0.0003),
        (1_562_000, 0.0003),
    ],
)
def test_learning_rate_is_the_papers(step, expected):
    assert math.isclose(learning_rate(step, PAPER), expected, rel_tol=1e-12)


def test_learning_rate_falls_in_so_many_steps_as_told():
    config = OptimConfig(lr=0.01, warmup=5, hold=20, fall=40, min_lr=0.0001)
    assert [learning_rate(step, config) for step in (4, 5, 20)] == [0.01] * 3
    assert math.isclose(learning_rate(40, config), 0.001, rel_tol=1e-12)
    assert [learning_rate(step, config) for step in (60, 61, 1000)] == [0.0001] * 3
    factors = [learning_rate(s + 1, config) / learning_rate(s, config) for s in range(20, 60)]
    assert max(factors) - min(factors) < 1e-12


def test_learning_rate_without_warmup_starts_at_its_peak():
    assert learning_rate(0, OptimConfig(warmup=0)) == 0.0012


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def _step(net: nn.Module, optimizer, skip=GO) -> None:
    optimizer.zero_grad()
    net(torch.randn(5, 3, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step(skip)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_skipped_step_changes_nothing_even_with_nan_gradients(name):
    net = _net()
    optimizer, ema, guard = make_optimizer(name, net, PAPER), Ema(net, 0.9), SkipGuard(CPU)
    for _ in range(3):
        good = guard.judge(torch.tensor(1.0), torch.tensor(1.0))
        _step(net, optimizer, good)
        ema.update_parameters(net, good)
    before = copy.deepcopy([net.state_dict(), ema.module.state_dict(), optimizer.tensors()])
    skip = guard.judge(torch.tensor(math.nan), torch.tensor(1.0))
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.step(skip)
    ema.update_parameters(net, skip)
    after = [net.state_dict(), ema.module.state_dict(), optimizer.tensors()]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for name in old:
            assert torch.equal(old[name], new[name]), name


@pytest.mark.parametrize(
    ("bits", "norm", "skipped"),
    [(1.0, 1.0, 0), (math.nan, 1.0, 1), (math.inf, 1.0, 1), (1.0, math.nan, 1), (1.0, math.inf, 1)],
)
def test_guard_skips_what_is_not_finite(bits, norm, skipped):
    assert SkipGuard(CPU).judge(torch.tensor(bits), torch.tensor(norm)).item() == skipped


def test_guard_counts_in_a_row_and_stays_shut_after_ten():
    guard = SkipGuard(CPU)
    bad, good = torch.tensor(math.nan), torch.tensor(1.0)
    for _ in range(MAX_SKIPS_IN_A_ROW - 1):
        guard.judge(bad, good)
    assert guard.streak.item() == MAX_SKIPS_IN_A_ROW - 1
    assert guard.judge(good, good).item() == 0
    assert guard.streak.item() == 0
    for _ in range(MAX_SKIPS_IN_A_ROW):
        guard.judge(bad, good)
    assert guard.judge(good, good).item() == 1


def test_ema_follows_torchs():
    net = _net()
    ours, theirs = Ema(net, 0.9), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.n_averaged += 1  # ours begins with the parameters it is made with, as the formula says
    optimizer = make_optimizer("adam", net, PAPER)
    for _ in range(20):
        _step(net, optimizer)
        ours.update_parameters(net, torch.tensor(0.0))
        theirs.update_parameters(net)
    for mine, yours in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-6, atol=1e-7)
    assert not any(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_tensors_put_back_give_the_same_next_step(name):
    net = _net()
    optimizer = make_optimizer(name, net, PAPER)
    for _ in range(3):
        _step(net, optimizer)
    twin = copy.deepcopy(net)
    restored = make_optimizer(name, twin, PAPER)
    restored.load_tensors(copy.deepcopy(optimizer.tensors()))
    _step(net, optimizer)
    _step(twin, restored)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_adamw_decays_weights():
    decays = []
    for name in ("adam", "adamw"):
        net = _net()
        before = copy.deepcopy(net.state_dict())
        optimizer = make_optimizer(name, net, OptimConfig(lr=0.1, weight_decay=0.5))
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(GO)
        decays.append(
            [(net.state_dict()[key] / value).mean().item() for key, value in before.items()]
        )
    assert decays[1] == pytest.approx([0.95] * len(decays[1]))
    assert decays[0] != pytest.approx(decays[1])


def test_weight_decay_without_adamw_is_refused(make_config):
    with pytest.raises(
        ValueError, match=r"optim.weight_decay must be 0 unless .* got 0.1 with 'adam'"
    ):
        make_config(optim=OptimConfig(weight_decay=0.1))
    make_config(optim=OptimConfig(weight_decay=0.1), optimizer="adamw")


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_learning_rate_reaches_the_update(name):
    steps = []
    for lr in (1e-3, 2e-3):
        net = _net()
        before = net[0].weight.detach().clone()
        optimizer = make_optimizer(name, net, PAPER)
        optimizer.set_learning_rate(lr)
        _step(net, optimizer)
        steps.append(net[0].weight.detach() - before)
    torch.testing.assert_close(steps[1], 2 * steps[0], rtol=1e-4, atol=1e-7)


def test_the_state_lies_in_memory_as_its_parameter_does():
    # The fused update goes through both side by side, whatever their strides say.
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = make_optimizer("adam", net, PAPER)
    net.weight.grad = torch.randn_like(net.weight)
    net.bias.grad = torch.randn_like(net.bias)
    optimizer.step(GO)
    saved = {key: value.clone().contiguous() for key, value in optimizer.tensors().items()}
    optimizer.load_tensors(saved)
    for key, value in optimizer.tensors().items():
        assert torch.equal(value, saved[key])
        if key.endswith("weight") and not key.startswith("step"):
            assert value.stride() == net.weight.stride() != saved[key].stride()
