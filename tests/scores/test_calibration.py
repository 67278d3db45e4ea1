"""Thresholds keep their false-positive rate; areas and rates against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from vflow import scores


def test_a_threshold_keeps_its_rate_on_new_images():
    rng = np.random.default_rng(0)
    threshold = scores.threshold_at(rng.exponential(size=4000), 0.05)
    assert threshold.held_out == 4000
    assert threshold.flags(rng.exponential(size=40_000)).mean() == pytest.approx(0.05, abs=0.008)


@pytest.mark.parametrize(("rate", "value"), [(0.5, 5.0), (0.25, 8.0), (0.1, 9.0)])
def test_the_threshold_is_the_conformal_quantile(rate: float, value: float):
    # At most rate * (9 + 1) of ten exchangeable images may lie above: 5, 2 and 1 of them.
    assert scores.threshold_at(np.arange(1.0, 10.0), rate).value == value


def test_too_few_images_cannot_tell():
    with pytest.raises(
        ValueError, match=r"from 1/10 \(of 9 held-out images\) to below 1, got 0.05"
    ):
        scores.threshold_at(np.arange(9.0), 0.05)


def test_the_area_is_the_share_of_pairs_in_order():
    known, other = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])
    pairs = [(b > a) + 0.5 * (a == b) for a in known for b in other]
    assert scores.auroc(known, other) == pytest.approx(np.mean(pairs))
    assert scores.auroc(other, known) == pytest.approx(1 - np.mean(pairs))


def test_the_rate_at_a_share_found():
    known, other = [0.0, 1.0, 2.0, 3.0], [0.5, 2.5, 2.6, 2.7]
    assert scores.false_positive_rate_at(known, other, 0.75) == 0.25
    assert scores.false_positive_rate_at(known, other, 1.0) == 0.75


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="other must be finite"):
        scores.auroc([0.0], [float("nan")])
    with pytest.raises(ValueError, match=r"known must have shape \[N\], N >= 1, got \(0,\)"):
        scores.auroc([], [1.0])
