"""NVIDIA apex's Adam, by a stand-in that takes and keeps what apex's own does."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch
from torch import nn

from vflow.train import OptimConfig
from vflow.train.apex import ApexAdam, apex_fused_adam
from vflow.train.optimizers import make_optimizer

CONFIG = OptimConfig(lr=0.01)


class StandIn(torch.optim.Optimizer):
    """As apex's: state without a step for each parameter, skipping by way of a gradient scaler."""

    def __init__(self, params, lr, betas, adam_w_mode, capturable):
        assert (capturable, adam_w_mode) == (True, False)
        super().__init__(params, {"lr": torch.tensor(lr), "betas": betas})
        self._dummy_overflow_buf = torch.zeros(1, dtype=torch.int32)

    def zero_grad(self):
        super().zero_grad()

    @torch.no_grad()
    def step(self, grad_scaler):
        (group,) = self.param_groups
        device = group["params"][0].device
        group["step"] += (self._dummy_overflow_buf != 1).to(torch.int32)
        self._dummy_overflow_buf.copy_(grad_scaler._check_inf_per_device(self)[device])
        if self._dummy_overflow_buf.item():
            return
        assert grad_scaler._get_scale_async().item() == 1
        first, second = group["betas"]
        for parameter in group["params"]:
            state = self.state[parameter]
            for key in ("exp_avg", "exp_avg_sq"):
                state.setdefault(key, torch.zeros_like(parameter))
            state["exp_avg"].lerp_(parameter.grad, 1 - first)
            state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - second)
            mean = state["exp_avg"] / (1 - first ** group["step"])
            square = state["exp_avg_sq"] / (1 - second ** group["step"])
            parameter.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))


@pytest.fixture
def apex(monkeypatch):
    module = types.ModuleType("apex.optimizers")
    module.FusedAdam = StandIn
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", module)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def _steps(net, optimizer, count: int, skip: float = 0.0) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        net(torch.ones(5, 3)).square().mean().backward()
        optimizer.step(torch.tensor(skip))


def test_follows_torchs_adam_and_its_checkpoints_are_exchangeable(apex):
    nets = [_net(), _net()]
    theirs, ours = ApexAdam(nets[0], CONFIG), make_optimizer("adam", nets[1], CONFIG)
    for lr in (0.01, 0.02, 0.005):
        for net, optimizer in zip(nets, (theirs, ours), strict=True):
            optimizer.set_learning_rate(lr)
            _steps(net, optimizer, 2)
    torch.testing.assert_close(nets[0].weight, nets[1].weight)
    saved = [optimizer.tensors() for optimizer in (theirs, ours)]
    assert saved[0].keys() == saved[1].keys()
    for key, value in saved[0].items():
        torch.testing.assert_close(value, saved[1][key])
    restored = ApexAdam(nets[1], CONFIG)
    restored.load_tensors(copy.deepcopy(saved[1]))
    for net, optimizer in zip(nets, (theirs, restored), strict=True):
        optimizer.set_learning_rate(0.01)
        _steps(net, optimizer, 2)
    torch.testing.assert_close(nets[0].weight, nets[1].weight)


def test_a_skipped_step_changes_nothing(apex):
    net = _net()
    optimizer = ApexAdam(net, CONFIG)
    _steps(net, optimizer, 1)
    before = copy.deepcopy([net.state_dict(), optimizer.tensors()])
    _steps(net, optimizer, 1, skip=1.0)
    for old, new in zip(before, [net.state_dict(), optimizer.tensors()], strict=True):
        for key in old:
            assert torch.equal(old[key], new[key]), key


@pytest.mark.parametrize("other_package", [True, False])
def test_what_is_not_nvidias_is_refused(monkeypatch, other_package):
    # The package of that name on PyPI has no optimizers.
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex") if other_package else None)
    monkeypatch.delitem(sys.modules, "apex.optimizers", raising=False)
    with pytest.raises(
        ValueError, match=r"optimizer must be adam, adamw or muon where .*NVIDIA/apex"
    ):
        apex_fused_adam()


def test_it_needs_a_gpu(apex):
    expected = "optimizer must be adam, adamw or muon on cpu, got 'apex'"
    with pytest.raises(ValueError, match=expected):
        make_optimizer("apex", _net(), CONFIG)
