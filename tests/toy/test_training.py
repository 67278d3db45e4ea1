"""A run of the toy study: seeded, resumable to the bit, and honest about what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch

import vflow
from vflow.cli import main
from vflow.runtime.console import RunStopped
from vflow.toy import DENSITIES, Experiment, ToyConfig
from vflow.toy import training as module
from vflow.toy.plots import density_on_grid
from vflow.toy.stacked import Stack
from vflow.toy.training import load_models, new_models, run

SMALL = Experiment(dims=3, steps=2, iterations=30, seeds=2, hidden=6, points=50, samples=5)


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 10)


def parameters(folder: Path) -> list[torch.Tensor]:
    return [p for model in load_models(folder, SMALL.seeds) for p in model.parameters()]


def test_training_learns_and_leaves_models_of_the_library(tmp_path: Path) -> None:
    experiment = dataclasses.replace(SMALL, dims=2, iterations=200, lr=0.01)
    untrained = module.measure(experiment, Stack(new_models(experiment)))
    results = run(experiment, tmp_path)
    assert all(a > b + 0.5 for a, b in zip(results["log_likelihood"], untrained, strict=True))
    assert len(set(results["log_likelihood"])) == 2, "seeds differ"
    assert results["mean"] == pytest.approx(sum(results["log_likelihood"]) / 2)
    model = vflow.load_model(tmp_path / "models" / "seed-1")
    assert isinstance(model, vflow.Glow)
    again = module.measure(experiment, Stack(load_models(tmp_path, 2)))
    assert again == results["log_likelihood"]
    assert run(experiment, tmp_path) == results, "a finished run is read"
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_resumed_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(SMALL, tmp_path / "whole")
    chunk, seen = module._chunk, []

    def killed_in_the_second(experiment: Experiment, number: int) -> object:
        seen.append(number)
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return chunk(experiment, number)

    monkeypatch.setattr(module, "_chunk", killed_in_the_second)
    with pytest.raises(RunStopped, match="stopped by SIGTERM at iteration 20"):
        run(SMALL, tmp_path / "cut")
    monkeypatch.setattr(module, "_chunk", lambda e, n: seen.append(n) or chunk(e, n))
    run(SMALL, tmp_path / "cut")
    assert seen == [0, 1, 2]
    pairs = zip(parameters(tmp_path / "whole"), parameters(tmp_path / "cut"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not (tmp_path / "cut" / "state.safetensors").exists()


def test_data_of_training_and_of_testing_differ() -> None:
    x, eps = module._chunk(SMALL, 0)
    assert x.shape == (10, 2, 64, 2)
    assert eps is not None
    assert eps.shape == (10, 2, 4, 64, 1)
    assert len(eps.unique()) > 0.99 * eps.numel()  # some absolute values of float32 meet
    flat = x.flatten(0, 2)
    assert len(flat.unique(dim=0)) == len(flat), "no point twice, in no seed"
    assert not torch.equal(x[0], module._chunk(SMALL, 1)[0][0])
    assert torch.equal(x, module._chunk(SMALL, 0)[0])


def test_each_draw_comes_with_its_mirror_image() -> None:
    models = new_models(SMALL)
    stack = Stack(models)
    x, eps = module._chunk(SMALL, 0)
    module._backward(stack, x[0], eps[0])
    for index, model in enumerate(models):
        terms = [model.elbo(x[0, index], sign * e) for e in eps[0, index] for sign in (1, -1)]
        (-torch.stack(terms).logsumexp(0).mean()).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(stack.gradient[index], gradient, atol=1e-5, rtol=1e-4)


def test_draws_are_orthogonal_and_as_normal_as_before() -> None:
    before = torch.randn(20_000, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    after = module._at_right_angles(before)
    assert after.shape == before.shape
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
    draws = after.transpose(1, 2)  # [..., draws, dimensions]
    for block in (draws[..., :3, :], draws[..., 3:, :]):
        products = block @ block.mT
        angles = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
        assert angles.abs().max() < 1e-4
    for draw in range(5):  # each alone, with its mirror image
        x = after[:, draw].flatten(0, 1).double()
        x = torch.cat([x, -x])
        assert torch.allclose(x.mT @ x / len(x), torch.eye(3, dtype=x.dtype), atol=0.03)
        assert torch.allclose(x.pow(4).mean(0), torch.full((3,), 3.0, dtype=x.dtype), atol=0.15)


def test_only_long_gradients_are_clipped_each_models_for_itself() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    module._clip(gradient, 1.0)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_clipping_changes_training(tmp_path: Path) -> None:
    run(SMALL, tmp_path / "free")
    run(dataclasses.replace(SMALL, clip=1e-9), tmp_path / "clipped")
    pairs = zip(parameters(tmp_path / "free"), parameters(tmp_path / "clipped"), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_a_trained_density_integrates_to_one(tmp_path: Path) -> None:
    experiment = dataclasses.replace(SMALL, iterations=100)
    run(experiment, tmp_path)
    stack = Stack(load_models(tmp_path, 2))
    grid = density_on_grid(stack, 12.0, 120, samples=30, seed=0)
    assert grid.shape == (2, 120, 120)
    mass = grid.double().sum((1, 2)) * (24 / 119) ** 2
    torch.testing.assert_close(mass, torch.ones(2).double(), atol=0.03, rtol=0)


def test_divergence_and_damage_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="training diverged before iteration"):
        run(dataclasses.replace(SMALL, lr=1e30), tmp_path / "a")
    run(SMALL, tmp_path / "b")
    with pytest.raises(ValueError, match="lr must be 0"):
        run(dataclasses.replace(SMALL, lr=0.1), tmp_path / "b")
    (tmp_path / "b" / "results.json").unlink()
    (tmp_path / "b" / "state.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="must be the state of an interrupted run"):
        run(SMALL, tmp_path / "b")


FLAGS = ["--iterations", "20", "--seeds", "2", "--hidden", "4", "--points", "20", "--samples", "3"]


@pytest.mark.parametrize("dims", ["2", "3"])
def test_command_draws(dims: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["toy", "--dims", dims, "--steps", "2", "--out", str(tmp_path), *FLAGS])
    printed = capsys.readouterr().out
    assert "log-likelihood  -" in printed
    assert f"in the paper    {'-3.80' if dims == '2' else '-3.69'}" in printed
    assert "the data's own  -3.466" in printed
    folder = tmp_path / f"checkerboard-{dims}d-2steps-20"
    for name in ("density.png", "paths.png"):
        assert (folder / name).stat().st_size > 5000


def test_study_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--study", "--study-dims", "2", "3", "--study-steps", "2", "3", *FLAGS]
    command = ["toy", "--density", "rings", "--out", str(tmp_path), *flags]
    main(command)
    table = capsys.readouterr().out
    assert "| steps | D = 2 (Glow) | D = 3 |" in table
    assert table.count("±") == 5
    assert (tmp_path / "study-rings-20.png").exists()
    assert len(json.loads((tmp_path / "study-rings-20.json").read_text())) == 4
    monkeypatch.setattr(module, "_train", None)  # nothing is trained again
    main(command)
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dims", "1"], "dims must be an integer of at least 2, got 1"),
        (["--steps", "1"], "steps must be an integer of at least 2, got 1"),
        (["--density", "moon"], "density must be one of checkerboard, two-spirals"),
        (["--draws", "3"], "draws must be an even number, got 3"),
        (["--clip", "-1"], "clip must be a number of at least 0, got -1"),
        (["--lr", "0"], "lr must be a number above 0, got 0"),
        (["--study-dims", "1"], "each of study_dims must be an integer of at least 2, got 1"),
        (["--seeds", "many"], "seeds"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_flags(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["toy", "--out", str(tmp_path / "never"), *flags])
    errors = capsys.readouterr().err
    assert errors.startswith("vflow: error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert not (tmp_path / "never").exists()


def test_models_are_as_large_as_they_say() -> None:
    assert ToyConfig(dims=2).experiment().title == "3-step Glow"
    assert Experiment(dims=10, steps=3).title == "3-step, 10-dimensional VFlow"
    config = Experiment(dims=10, steps=3).model_config()
    assert (config.steps, config.extra_dims, config.posterior_steps) == (2, 8, 1)
    # One extra dimension: q is a Gaussian layer, which is none of the steps.
    config = Experiment(dims=3, steps=2).model_config()
    assert (config.steps, config.extra_dims, config.posterior_steps) == (2, 1, 1)
    assert len(ToyConfig().grid()) == 35
    assert set(DENSITIES) == {
        *("checkerboard", "two-spirals", "eight-gaussians", "two-moons", "rings", "pinwheel")
    }
