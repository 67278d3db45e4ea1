"""Scores for what does not belong: how little an image looks like what a model was trained on.

Plain likelihood is a bad judge of that: a flow trained on CIFAR-10 gives smooth, simple images of
another kind a higher likelihood than its own test images. The scores here correct for it, each by
assumptions of its own, which its docstring states. All of them are larger the less an image
belongs.

>>> from vflow import scores
>>> measured = scores.measure(model, images)                    # log p and latents of each image
>>> excess = scores.complexity_corrected(measured.bits, scores.code_bits(images, "webp"))
>>> scores.auroc(excess_of_known, excess)
"""

from vflow.scores.calibration import Threshold, auroc, false_positive_rate_at, threshold_at
from vflow.scores.complexity import CODECS, code_bits
from vflow.scores.density_of_states import DensityOfStates
from vflow.scores.judges import (
    batch_typicality,
    complexity_corrected,
    disagreement,
    latent_autocorrelation,
    latent_distance,
    latent_norm,
    likelihood_ratio,
    typicality,
    typicality_one_sided,
    waic,
)
from vflow.scores.measurements import Measurements, measure
from vflow.scores.pixel_bits import pixel_bits

__all__ = [
    "CODECS",
    "DensityOfStates",
    "Measurements",
    "Threshold",
    "auroc",
    "batch_typicality",
    "code_bits",
    "complexity_corrected",
    "disagreement",
    "false_positive_rate_at",
    "latent_autocorrelation",
    "latent_distance",
    "latent_norm",
    "likelihood_ratio",
    "measure",
    "pixel_bits",
    "threshold_at",
    "typicality",
    "typicality_one_sided",
    "waic",
]
