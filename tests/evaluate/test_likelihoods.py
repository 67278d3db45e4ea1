"""Evaluation's numbers: of a known likelihood, of a model, and their errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from tests.evaluate.small import IMAGES, SAMPLES, held_out_images, numbers
from vflow.evaluate import EvaluateConfig, evaluate, importance_sample, summary
from vflow.runtime.randomness import Stream, mix


@pytest.mark.parametrize("max_rows", [1, 3, 1000], ids=lambda rows: f"{rows}-rows")
def test_streaming_equals_the_direct_sum(folder: Path, max_rows: int) -> None:
    model = vflow.load_model(folder / "model").double()
    images, indices = held_out_images(folder)[:3], [4, 9, 2]
    elbo, log_prob = importance_sample(model, images, indices, 6, max_rows, seed=3)
    for row, index in enumerate(indices):
        sources = [
            torch.Generator().manual_seed(mix(3, Stream.EVALUATION, index, sample))
            for sample in range(6)
        ]
        with torch.no_grad():
            terms = torch.cat(
                [model.elbo(images[row : row + 1], generator=source) for source in sources]
            )
        assert terms.std() > 0.1
        torch.testing.assert_close(elbo[row], terms.mean(), rtol=1e-12, atol=0)
        expected = terms.logsumexp(0) - math.log(6)
        torch.testing.assert_close(log_prob[row], expected, rtol=1e-12, atol=0)


def test_estimates_a_known_likelihood() -> None:
    """Terms whose exponentials average to exp(-50), and which themselves average to -50.5."""

    class Known:
        device = torch.device("cpu")

        def draw_noise(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"eps_u": torch.randn(batch, generator=generator)}

        def features(self, images: torch.Tensor) -> None:
            return None

        def elbo(
            self, images: torch.Tensor, eps_u: torch.Tensor, generator: None, features: None
        ) -> torch.Tensor:
            assert len(images) <= 100
            return eps_u - 50.5

    elbo, log_prob = importance_sample(Known(), torch.zeros(2), [0, 1], 20_000, 100)  # type: ignore[arg-type]
    assert elbo.tolist() == pytest.approx([-50.5, -50.5], abs=0.03)
    assert log_prob.tolist() == pytest.approx([-50, -50], abs=0.05)
    assert elbo[0] != elbo[1]


def test_results_are_means_and_standard_errors(
    folder: Path, whole: dict[str, Any], make_config: Callable[..., EvaluateConfig]
) -> None:
    config = make_config()
    assert evaluate(config) == {**json.loads(config.results_path().read_text())}
    model = vflow.load_model(folder / "model")
    elbo, log_prob = importance_sample(model, held_out_images(folder), range(IMAGES), SAMPLES)
    for values, kind in ((elbo, "elbo_bits_per_dim"), (log_prob, "bits_per_dim")):
        bits = -values.numpy() / (192 * math.log(2))
        stderr = bits.std(ddof=1) / math.sqrt(IMAGES)
        assert whole[kind] == pytest.approx({"mean": bits.mean(), "stderr": stderr}, rel=1e-6)
    assert whole["bits_per_dim"]["mean"] < whole["elbo_bits_per_dim"]["mean"]
    assert whole["class"] == "VFlow"
    assert whole["images"] == IMAGES
    assert whole["versions"]["torch"] == torch.__version__
    assert "±" in summary(whole)


def test_agrees_with_the_models_own_estimate(folder: Path, whole: dict[str, Any]) -> None:
    model = vflow.load_model(folder / "model")
    source = torch.Generator().manual_seed(1)
    own = (
        model.bits_per_dim(held_out_images(folder), samples=SAMPLES, generator=source).mean().item()
    )
    assert own == pytest.approx(whole["bits_per_dim"]["mean"], abs=0.1)


def test_one_image_has_no_standard_error(make_config: Callable[..., EvaluateConfig]) -> None:
    results = evaluate(make_config(images=1, samples=1))
    assert results["bits_per_dim"] == results["elbo_bits_per_dim"]
    assert results["bits_per_dim"]["stderr"] is None
    assert "±" not in summary(results)


def test_seeds_differ(make_config: Callable[..., EvaluateConfig], whole: dict[str, Any]) -> None:
    other = evaluate(make_config(seed=1))
    assert numbers(other) != numbers(whole)
    assert numbers(other) == pytest.approx(numbers(whole), abs=0.1)


def test_numbers_of_numpy_and_torch(folder: Path) -> None:
    model, images = vflow.load_model(folder / "model"), held_out_images(folder)[:2]
    expected = importance_sample(model, images, [4, 9], 3, 4, 1)
    for number, indices in ((np.int64, np.array([4, 9])), (torch.tensor, torch.tensor([4, 9]))):
        found = importance_sample(model, images, indices, number(3), number(4), number(1))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_numbers_out_of_range(folder: Path) -> None:
    model, images = vflow.load_model(folder / "model"), held_out_images(folder)[:2]
    with pytest.raises(ValueError, match=r"^samples must be an integer of at least 1, got 0$"):
        importance_sample(model, images, [0, 1], 0)
    with pytest.raises(ValueError, match=r"^max_rows must be an integer of at least 1, got 0$"):
        importance_sample(model, images, [0, 1], 2, 0)
    for count, indices in ((2, [0]), (0, [])):
        with pytest.raises(ValueError, match=rf"^indices must be as many as .* got {len(indices)}"):
            importance_sample(model, images[:count], indices, 2)
