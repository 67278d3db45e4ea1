"""Data-dependent initialisation: alike in all processes, and never over trained parameters."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vflow
from tests.forks import run_ranks
from vflow.models import Glow, GlowConfig, ImageFlow


def batch(seed: int = 0) -> Tensor:
    coarse = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) * 255).to(torch.uint8)


def fresh() -> ImageFlow:
    torch.manual_seed(0)
    return vflow.create_model("vflow-tiny", filters=4, components=2, heads=1)


def train(model: ImageFlow, after_step: Callable[[], object] = lambda: None) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (-model.elbo(batch()).mean()).backward()
        optimizer.step()
        after_step()


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, object]]:
    """What two processes found."""
    both = run_ranks("from tests.models.initialization_ranks import main; main()")
    assert [each.returncode for each in both] == [0, 0], both[0].stderr + both[1].stderr
    return [json.loads(each.stdout.splitlines()[-1]) for each in both]


FEW = "images must be at least 2 to initialise from, got 1: call initialize(images) with more"
FIRST_FAILED = "the model must be initialised by the process of rank 0, which failed"
SHARDED = "a model must be initialised before it is wrapped, with initialize(images)"
EXPECTED: dict[str, tuple[object, object]] = {
    "data_parallel": (True, True),
    "bare": (True, True),
    "by_hand": (True, True),
    "as_one_alone": (True, True),
    "alone": (False, False),
    "one_image_second": (True, True),
    "one_image_first": (FEW, FIRST_FAILED),
    "sharded": (SHARDED, SHARDED),
    "sharded_afterwards": (True, True),
    "loaded_by_the_first": (True, True),
    "vectors": (True, True),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_two_processes(ranks: list[dict[str, object]], case: str) -> None:
    for expected, found in zip(EXPECTED[case], ranks, strict=True):
        if isinstance(expected, str):
            assert str(found[case]).startswith(expected)
        else:
            assert found[case] is expected
    assert ranks[0].keys() == EXPECTED.keys()


def average_by_hand(model: ImageFlow, path: Path) -> ImageFlow:
    average = copy.deepcopy(model).requires_grad_(False)

    def follow() -> None:
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, 0.3)

    train(model, follow)
    return average


def averaged_model(model: ImageFlow, path: Path) -> ImageFlow:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    train(model, lambda: average.update_parameters(model))
    assert isinstance(average.module, ImageFlow)
    return average.module


def saved_average(model: ImageFlow, path: Path) -> ImageFlow:
    average_by_hand(model, path).save_pretrained(path / "average")
    loaded = vflow.load_model(path / "average")
    assert isinstance(loaded, ImageFlow)
    return loaded


def steps_before_the_first_batch(model: ImageFlow, path: Path) -> ImageFlow:
    train(model.eval())
    return model


def parameters_alone(model: ImageFlow, path: Path) -> ImageFlow:
    train(model)
    other = fresh()
    other.load_state_dict(dict(model.named_parameters()), strict=False)
    return other


def one_vector(model: ImageFlow, path: Path) -> ImageFlow:
    train(model)
    other = fresh()
    values = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    nn.utils.vector_to_parameters(values, other.parameters())
    return other


def every_parameter_in_place(model: ImageFlow, path: Path) -> ImageFlow:
    train(model)
    other = fresh()
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        ours.data = theirs.data.clone()
    return other


def half_precision(model: ImageFlow, path: Path) -> ImageFlow:
    return average_by_hand(model, path).bfloat16().float()


def pickled(model: ImageFlow, path: Path) -> ImageFlow:
    torch.save(average_by_hand(model, path), path / "model.pt")
    loaded = torch.load(path / "model.pt", weights_only=False)
    assert isinstance(loaded, ImageFlow)
    return loaded


WAYS = [
    average_by_hand,
    averaged_model,
    saved_average,
    steps_before_the_first_batch,
    parameters_alone,
    one_vector,
    every_parameter_in_place,
    half_precision,
    pickled,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_trained_parameters_are_never_initialised_again(way, tmp_path: Path) -> None:
    trained = way(fresh(), tmp_path)
    before = [p.detach().clone() for p in trained.parameters()]
    assert trained.initialized
    trained.train().elbo(batch(1))
    for ours, theirs in zip(trained.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_a_copy_that_nobody_has_trained_is_initialised_like_its_original() -> None:
    model = fresh()
    others = [copy.deepcopy(model), fresh()]
    others[1].load_state_dict(model.state_dict())
    for other in others:
        assert not other.initialized
        other.train().elbo(batch())
        assert other.initialized
        assert not torch.equal(next(other.parameters()), next(model.parameters()))


def test_a_new_start_by_load_state_dict_is_initialised_again() -> None:
    model = fresh()
    start = copy.deepcopy(model.state_dict())
    model.elbo(batch())
    model.load_state_dict(start)
    assert not model.initialized


def test_what_is_marked_keeps_its_values(tmp_path: Path) -> None:
    model = fresh()
    model.mark_initialized()
    model.save_pretrained(tmp_path / "marked")
    loaded = vflow.load_model(tmp_path / "marked").train()
    loaded(batch())
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_half_of_a_model_is_not_taken_for_a_new_one_in_silence() -> None:
    trained, model = fresh(), fresh()
    train(trained)
    model.posterior.load_state_dict(trained.posterior.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.warns(UserWarning, match="layers hold the values that they were made with"):
        model.train().elbo(batch())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_initialisation_asked_for_again_says_what_it_does() -> None:
    model = fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.initialize(batch())
    with pytest.warns(UserWarning, match="initialize overwrites parameters"):
        model.initialize(batch(1))
    wide = vflow.VFlow.from_flow(Glow(GlowConfig(hidden=4)), 1)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.add_(0.1)
    with pytest.warns(UserWarning, match="initialize overwrites parameters"):
        wide.initialize(torch.randn(8, 2))


def test_the_device_is_asked_once_only(monkeypatch) -> None:
    """A training step after the first batch reads no value of the model."""
    model = fresh()
    model.elbo(batch())
    monkeypatch.setattr(
        "vflow.models.image_flow.initialized.as_made", lambda model: pytest.fail("asked")
    )
    monkeypatch.setattr(Tensor, "__bool__", lambda tensor: pytest.fail("asked"))
    model.elbo(batch())
