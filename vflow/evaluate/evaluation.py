"""Evaluation: test bits/dim by the one-sample bound and by importance sampling.

    vflow evaluate RUN --data photos --samples 4096
    torchrun --nproc_per_node=8 -m vflow evaluate RUN --data cifar10 --samples 4096

The noise of a sample is a function of the seed, the image and the sample's number alone, so that
results depend on batches, processes and interruptions by no more than rounding. (They do depend on
the kind of device, whose random numbers differ.)
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vflow.data import images_digest, images_of_shape
from vflow.evaluate.config import EvaluateConfig
from vflow.evaluate.image_results import ImageResult, ImageResults
from vflow.evaluate.importance import estimate_bound, importance_sample, require_estimates
from vflow.io.evaluations import with_stderr
from vflow.io.format1 import renaming_back
from vflow.io.kinds import to_tree
from vflow.models import ImageFlow
from vflow.models.config import flat_config
from vflow.models.loading import find_model, load_image_model
from vflow.runtime.console import RunStopped
from vflow.runtime.distributed import Ranks
from vflow.runtime.files import require_output, write_json
from vflow.runtime.progress import Bar, progress_bar
from vflow.runtime.tf32 import tf32

MAX_ROWS = {"cpu": 64, "cuda": 256}
"""Rows evaluated at once where nothing is asked for, by kind of device."""


@tf32(False)
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a model, or go on with an interrupted evaluation.

    Under torchrun every process calls it and takes its share of the images; the first one writes.

    Args:
        config: What to evaluate and how.

    Returns:
        What the results' file holds. Bits/dim with the standard error over the images:
        "elbo_bits_per_dim" is the one-sample bound, averaged over all samples drawn, and
        "bits_per_dim" that of importance sampling. Where the bound is estimated, both are the
        estimate, and "estimate" has its draws an image and the standard error that is theirs alone;
        else it is None.

    Raises:
        ValueError: If the config does not fit the model, the data or an earlier evaluation.
        OSError: If something cannot be read or written.
        RunStopped: If the model gives a likelihood that is not finite.
    """
    require_output("out", config.results_path(), ".json")
    ranks = Ranks.from_environment()
    device = ranks.device(config.device)
    with ranks.group(device):
        return _Evaluation(config, ranks, device).run()


class _Evaluation:
    def __init__(self, config: EvaluateConfig, ranks: Ranks, device: torch.device) -> None:
        self.config, self.ranks = config, ranks
        with ranks.together(device):
            if ranks.is_main:  # the others wait, for it may download
                self._open(device)
        # A run may write a checkpoint between the two.
        step = ranks.from_main(self._step() if ranks.is_main else -1, device)
        with ranks.together(device):
            if not ranks.is_main:
                self._open(device)
            if self._step() != step:
                raise ValueError(
                    "model must stay as it is while the processes open it, but "
                    f"{config.model} was trained on: run the same command again"
                )
            count = len(self.images) if config.images is None else config.images
            if count > len(self.images):
                raise ValueError(
                    f"images must be at most the {len(self.images)} {config.split} images of "
                    f"{config.data}, got {count}"
                )
            if config.estimate is not None:
                require_estimates(self.model)
            elif self.model.density.estimate_shapes() and ranks.is_main:
                print(
                    "vflow: exact bounds of a Residual Flow take its whole Jacobians, minutes for "
                    "a large image; --estimate 8 estimates them",
                    file=sys.stderr,
                )
            self.count = count
            self.out = config.results_path(self.source.step)
            self.fingerprint = self._fingerprint()
            self.files = ImageResults(
                self.out, self.fingerprint, ranks.rank, lambda: _bare_digest(self.images)
            )

    def _open(self, device: torch.device) -> None:
        config = self.config
        self.source = find_model(config.model)
        self.model = load_image_model(self.source, device, say=self.ranks.is_main)
        self.model.set_precision(config.precision)
        self.images = images_of_shape(
            config.data, config.split, self.model.data_shape, config.data_root
        )

    def _step(self) -> int:
        return -1 if self.source.step is None else self.source.step

    def run(self) -> dict[str, Any]:
        device = self.model.device
        # One row an image: ELBO, log P, seconds, whether they are known, an estimate's variance.
        known = torch.zeros(self.count, 5, dtype=torch.float64, device=device)
        with self.ranks.together(device):
            if self.ranks.is_main:
                beside: list[Path] = []
                if self.config.out is None:  # data by another path give the file another name
                    beside = sorted(self.out.parent.glob("evaluation-*.images*.jsonl"))
                for image, result in self.files.merge(self.config.restart, beside).items():
                    if image < self.count:
                        known[image] = _row(result)
        self.ranks.sum(known)
        pending = (
            (known[:, 3] == 0).nonzero().flatten().tolist()[self.ranks.rank :: self.ranks.size]
        )
        mine = torch.zeros_like(known)
        with self.ranks.together(device):
            self.files.begin()
            try:
                self._evaluate(pending, known, mine)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("stopped; run the same command to go on") from None
        known += self.ranks.sum(mine)
        results = self._results(known.cpu())
        with self.ranks.together(device):
            if self.ranks.is_main:
                self.files.merge()
                write_json(self.out, results)
        return results

    @property
    def _max_rows(self) -> int:
        """Rows at once."""
        return self.config.max_rows or MAX_ROWS[self.model.device.type]

    def _evaluate(self, pending: list[int], known: Tensor, mine: Tensor) -> None:
        config = self.config
        size = max(1, self._max_rows // self.passes)
        done = len(known) - len(pending) if self.ranks.size == 1 else 0
        bar = progress_bar(
            (done + len(pending)) * self.passes,
            "sample" if config.estimate is None else "draw",
            initial=done * self.passes,
            show=self.ranks.is_main,
        )
        with bar:
            for start in range(0, len(pending), size):
                indices = pending[start : start + size]
                for result in self._evaluate_batch(indices, bar):
                    mine[result.image] = _row(result)
                if not bar.disable:
                    seen = torch.cat([known[known[:, 3] > 0], mine[mine[:, 3] > 0]])
                    bits = self._bits_per_dim(seen[:, 1])
                    text = f"{with_stderr(bits)} bits/dim, {len(seen)} images"
                    bar.set_postfix_str(text, refresh=False)

    def _evaluate_batch(self, indices: list[int], bar: Bar) -> list[ImageResult]:
        config, began = self.config, time.monotonic()
        images = self.images[indices].to(self.model.device)
        how = self.passes, self._max_rows, config.seed, bar.update
        stderr: list[float | None] = [None] * len(indices)
        if config.estimate is None:
            elbo, log_prob = importance_sample(self.model, images, indices, *how)
        else:
            elbo, errors = estimate_bound(self.model, images, indices, *how)
            log_prob, stderr = elbo, errors.tolist()
        seconds = (time.monotonic() - began) / len(indices)
        results = [
            ImageResult(image=image, elbo=a, log_prob=b, seconds=seconds, stderr=c)
            for image, a, b, c in zip(
                indices, elbo.tolist(), log_prob.tolist(), stderr, strict=True
            )
        ]
        for result in results:
            if not math.isfinite(result.elbo):
                raise RunStopped(
                    f"log P must be finite, got {result.elbo} for image {result.image} of "
                    f"{config.data}: the model has diverged, or needs --precision fp32"
                )
        self.files.append(results)
        return results

    def _fingerprint(self) -> dict[str, Any]:
        """What the result of an image depends on; neither the model's path nor the data's."""
        config = self.config
        return {
            "model": model_digest(self.model),
            "split": config.split,
            "images": images_digest(self.images),
            "samples": config.samples,
            "estimate": config.estimate,
            "seed": config.seed,
            "precision": config.precision,
            "device": self.model.device.type,
        }

    @property
    def passes(self) -> int:
        """Passes of the model an image."""
        return self.config.samples if self.config.estimate is None else self.config.estimate

    def _estimate(self, known: Tensor) -> dict[str, Any] | None:
        if self.config.estimate is None:
            return None
        stderr = self.model.to_bits_per_dim(known[:, 4].sum().sqrt() / len(known)).abs().item()
        return {"draws": self.config.estimate, "stderr": stderr}

    def _bits_per_dim(self, log_prob: Tensor) -> dict[str, float | None]:
        bits = self.model.to_bits_per_dim(log_prob)
        stderr = bits.std().item() / math.sqrt(len(bits)) if len(bits) > 1 else None
        return {"mean": bits.mean().item(), "stderr": stderr}

    def _results(self, known: Tensor) -> dict[str, Any]:
        config = self.config
        return {
            "model": config.model,
            "weights": str(self.source.path),
            "step": self.source.step,
            "class": type(self.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "data": config.data,
            "split": config.split,
            "images": self.count,
            "samples": config.samples,
            "estimate": self._estimate(known),
            "elbo_bits_per_dim": self._bits_per_dim(known[:, 0]),
            "bits_per_dim": self._bits_per_dim(known[:, 1]),
            "seconds": known[:, 2].sum().item(),
            "seed": config.seed,
            "precision": config.precision,
            "device": self.model.device.type,
            "processes": self.ranks.size,
            "digests": {name: self.fingerprint[name] for name in ("model", "images")},
            "config": self.model.config.to_tree(),
            "versions": _versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def _row(result: ImageResult) -> Tensor:
    variance = 0.0 if result.stderr is None else result.stderr**2
    row = [result.elbo, result.log_prob, result.seconds, 1.0, variance]
    return torch.tensor(row, dtype=torch.float64)


def model_digest(model: ImageFlow) -> str:
    """What an evaluation knows a model by: a digest of its config and its weights."""
    tree = model.config.to_tree()
    flat = flat_config(model.config)
    # Where it can, as before configs were trees, so that what was begun then goes on.
    rename = (lambda name: name) if flat is None else renaming_back(tree)
    config = json.dumps(to_tree(model.config, lean=True)) if flat is None else repr(flat)
    digest = hashlib.sha256(config.encode())
    for name, value in model.state_dict().items():
        digest.update(f"{rename(name)} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _bare_digest(images: Tensor) -> str:
    """The digest of images that evaluations of earlier versions were told apart by."""
    digest = hashlib.sha256()
    for part in images.split(1024):
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    from vflow import __version__

    return {"vflow": __version__, "torch": torch.__version__, "python": platform.python_version()}
