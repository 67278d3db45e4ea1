"""Each score against its definition, on numbers whose right value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vflow import scores

BITS = np.array([1.0, 4.0, 2.5])


def test_what_a_codec_knows_is_taken_off():
    assert scores.complexity_corrected(BITS, [2.0, 3.0, 2.5]).tolist() == [-1.0, 1.0, 0.0]


def test_typicality_counts_either_side_and_the_one_sided_kind_one():
    assert scores.typicality(BITS, 3.0).tolist() == [2.0, 1.0, 0.5]
    assert scores.typicality_one_sided(BITS, 3.0).tolist() == [-2.0, 1.0, -0.5]


def test_a_batch_is_judged_by_its_mean_and_the_rest_is_left_out():
    assert scores.batch_typicality(BITS, 3.0, 2).tolist() == [0.5]
    with pytest.raises(ValueError, match="size must be from 1 to the 3 images, got 4"):
        scores.batch_typicality(BITS, 3.0, 4)


def test_ensembles_by_mean_variance_and_spread():
    bits = [[1.0, 2.0], [3.0, 2.0]]
    assert scores.waic(bits).tolist() == [2.0 + 2.0, 2.0]
    assert scores.disagreement(bits).tolist() == pytest.approx([math.sqrt(2), 0.0])
    with pytest.raises(ValueError, match=r"shape \[M, N\] with M >= 2 models, got \(1, 2\)"):
        scores.waic([[1.0, 2.0]])


def test_a_ratio_is_a_difference_of_bits():
    assert scores.likelihood_ratio(BITS, BITS + 1).tolist() == [-1.0] * 3


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"code_bits must have shape \[N\], got \(1, 1\)"):
        scores.complexity_corrected(BITS, [[1.0]])


def test_the_norm_is_measured_in_deviations_of_chi_square():
    latents = torch.full((1, 2, 5, 5), 2.0)
    n, mean, deviation = 50, stats.chi2(50).mean(), stats.chi2(50).std()
    assert scores.latent_norm(latents).item() == pytest.approx((4 * n - mean) / deviation)
    assert scores.latent_norm(0 * latents).item() == pytest.approx(mean / deviation)


def test_the_distance_is_kolmogorovs():
    latents = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.3
    want = [stats.kstest(row.flatten().numpy(), "norm").statistic for row in latents]
    assert scores.latent_distance(latents).tolist() == pytest.approx(want, abs=1e-7)


def test_white_noise_has_no_neighbours_and_a_picture_has():
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 3, 16, 16, generator=source)
    white = scores.latent_autocorrelation(noise)
    assert white.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.1)
    smooth = noise.repeat_interleave(2, -1)[..., :16]
    assert scores.latent_autocorrelation(smooth).min() > white.max()
    with pytest.raises(ValueError, match="at least 1x2 or 2x1"):
        scores.latent_autocorrelation(noise[..., :1, :1])


class TestDensityOfStates:
    def known(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {"a": rng.normal(0, 1, 500), "b": rng.normal(5, 2, 500)}

    def test_adds_up_what_a_kernel_estimate_says_of_each(self):
        known = self.known()
        found = scores.DensityOfStates(known).score({"a": [0.3], "b": [4.0]})
        want = -sum(
            stats.gaussian_kde(known[k]).logpdf([v])[0] for k, v in (("a", 0.3), ("b", 4.0))
        )
        assert found.tolist() == pytest.approx([want])

    def test_too_low_is_as_odd_as_too_high_and_far_out_is_finite(self):
        judge = scores.DensityOfStates(self.known())
        low, usual, high, far = judge.score({"a": [-3, 0, 3, 1e6], "b": [5, 5, 5, 5]})
        assert low > usual < high < far < np.inf

    def test_wants_the_same_statistics(self):
        judge = scores.DensityOfStates(self.known())
        with pytest.raises(ValueError, match="statistics must be a, b, got a"):
            judge.score({"a": [0.0]})
        with pytest.raises(ValueError, match="b must have at least 2 values that differ"):
            scores.DensityOfStates({"a": [0.0, 1.0], "b": [2.0, 2.0]})
