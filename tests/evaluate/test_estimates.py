"""Estimates of the bound of a Residual Flow: what they are, how they are told, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vflow
from tests.evaluate.small import IMAGES, held_out_images
from vflow.cli import main
from vflow.evaluate import EvaluateConfig, estimate_bound, evaluate, importance_sample, summary

DRAWS = 6


@pytest.fixture(scope="module")
def residual(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Residual Flow whose estimates differ from draw to draw."""
    torch.manual_seed(0)
    model = vflow.create_model("residual-tiny", image_size=8, width=4, dense_width=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.mark_initialized()
    out = tmp_path_factory.mktemp("residual") / "model"
    model.save_pretrained(out)
    return str(out)


def bits(nats: torch.Tensor) -> torch.Tensor:
    return -nats / (192 * math.log(2))


def test_it_is_unbiased_and_its_error_is_what_it_says(residual: str, folder: Path) -> None:
    model, images = vflow.load_model(residual).double(), held_out_images(folder)[:2]
    estimate, stderr = estimate_bound(model, images, [4, 9], 1000, max_rows=2000)
    exact, _ = importance_sample(model, images, [4, 9], 100)
    assert (stderr > 0.01).all()
    # Over the noise of r(u|x) the exact bounds have an error too.
    spread = importance_sample(model, images[:1].expand(40, -1, -1, -1), range(40), 1)[0].std()
    error = (stderr.square() + spread.square() / 100).sqrt()
    assert ((estimate - exact).abs() < 4 * error).all()
    seeds = [estimate_bound(model, images, [4, 9], 16, seed=seed) for seed in range(40)]
    means, told = (torch.stack(values) for values in zip(*seeds, strict=True))
    assert (means.std(0) / told.square().mean(0).sqrt()).tolist() == pytest.approx([1, 1], abs=0.4)


def test_rows_at_once_change_nothing(residual: str, folder: Path) -> None:
    model, images = vflow.load_model(residual).double(), held_out_images(folder)[:3]
    expected = estimate_bound(model, images, [4, 9, 2], 5)
    for rows in (1, 7):
        found = estimate_bound(model, images, [4, 9, 2], 5, max_rows=rows)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    alone = estimate_bound(model, images[1:2], [9], 5)
    torch.testing.assert_close(alone[0], expected[0][1:2], rtol=1e-12, atol=0)


def test_the_results_say_so(
    residual: str, make_config: Callable[..., EvaluateConfig], folder: Path
) -> None:
    config = make_config(model=residual, samples=1, estimate=DRAWS)
    results = evaluate(config)
    assert results == json.loads(config.results_path().read_text())
    estimate, stderr = estimate_bound(
        vflow.load_model(residual), held_out_images(folder), range(IMAGES), DRAWS
    )
    values = bits(estimate)
    mean = {"mean": values.mean().item(), "stderr": values.std().item() / math.sqrt(IMAGES)}
    assert results["elbo_bits_per_dim"] == pytest.approx(mean, rel=1e-6)
    of_draws = bits(stderr.square().sum().sqrt() / IMAGES).abs().item()
    assert results["estimate"] == {"draws": DRAWS, "stderr": pytest.approx(of_draws, rel=1e-6)}
    assert "estimated" in summary(results)
    assert f"{DRAWS} draws" in summary(results)
    again = evaluate(config)  # from the file of the images
    for key in ("estimate", "elbo_bits_per_dim", "seconds"):
        assert again[key] == results[key]


def test_an_interrupted_one_goes_on(
    residual: str, make_config: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    whole = evaluate(make_config(model=residual, samples=1, estimate=DRAWS))
    part = {"model": residual, "samples": 1, "estimate": DRAWS, "out": tmp_path / "part.json"}
    evaluate(make_config(**part, images=3))
    lines = (tmp_path / "part.images.jsonl").read_text().splitlines()
    assert [json.loads(line)["stderr"] > 0 for line in lines[1:]] == [True] * 3
    results = evaluate(make_config(**part))
    assert results["estimate"] == pytest.approx(whole["estimate"], rel=1e-6)
    assert results["elbo_bits_per_dim"] == pytest.approx(whole["elbo_bits_per_dim"], rel=1e-6)
    exact = make_config(**{**part, "estimate": None})
    with pytest.raises(ValueError, match=r"is of estimate 6, got estimate None; --restart"):
        evaluate(exact)


def test_on_the_command_line(
    residual: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", residual, "--data", f"npy:{folder / 'data'}", "--images", "2"]
    main([*command, "--estimate", "4"])
    told = capsys.readouterr()
    assert told.out.startswith("bound, estimated  ")
    assert "4 draws an image of an unbiased estimate" in told.out
    assert "--estimate" not in told.err
    (written,) = Path(residual).glob("evaluation-*-test-estimate-4.json")
    assert json.loads(written.read_text())["estimate"]["draws"] == 4
    main([*command, "--out", str(tmp_path / "exact.json")])
    told = capsys.readouterr()
    assert told.out.startswith("one-sample bound  ")
    assert "--estimate 8 estimates them" in told.err
    exact = json.loads((tmp_path / "exact.json").read_text())
    assert exact["estimate"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimate": 1, "samples": 1}, r"^estimate must be an integer of at least 2, got 1$"),
        ({"estimate": 4}, r"^samples must be 1 with estimate, whose exponentials are .*, got 5$"),
        (
            {"estimate": 4, "samples": 1},
            r"^estimate must be left out for a VFlow without residual blocks, whose bound is exact",
        ),
    ],
)
def test_what_is_refused(
    make_config: Callable[..., EvaluateConfig],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(make_config(**changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("results*"))
