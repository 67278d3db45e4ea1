"""What an evaluation is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vflow.data import data_help
from vflow.io.fields import require_choice, require_int, require_seed, take_plain_numbers
from vflow.models.loading import folder_of_results
from vflow.runtime.extras import tyro


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a model's bits/dim; the same command run again goes on where it was interrupted."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A trained model by name (`vflow models`), the folder of a training run, a checkpoint or a
    model, or a repository of the Hugging Face Hub. Of a run, the newest parameters are taken."""
    data: Annotated[str, tyro.conf.arg(help=data_help())]
    samples: int = 1
    """Importance samples an image; the published figures take 4096."""
    estimate: int | None = None
    """Draws an image of an unbiased estimate of the bound, in its place: for Residual Flows of
    large images, whose exact bounds take whole Jacobians. At least 2, for a standard error."""
    images: int | None = None
    """Images evaluated, from the first; by default all."""
    split: Literal["train", "val", "test"] = "test"
    """Which images."""
    data_root: Path | None = None
    """Folder where data sets are kept or downloaded to."""
    out: Path | None = None
    """Results, .json; by default in the model's folder. Those of each image go beside it."""
    restart: bool = False
    """Begin anew, whatever an earlier evaluation left at `out`."""
    max_rows: int | None = None
    """Images x samples evaluated at once by a process: what bounds its memory. By default 64 on a
    CPU, whose caches more would leave, and 256 on a GPU."""
    seed: int = 0
    """Seed of the noise."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the couplings' networks under autocast; all else stays float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to evaluate; auto takes CUDA where there is any."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_int("samples", self.samples, 1)
        for name in ("images", "max_rows"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), 1)
        if self.estimate is not None:
            require_int("estimate", self.estimate, 2)
            if self.samples != 1:
                raise ValueError(
                    "samples must be 1 with estimate, whose exponentials are biased upwards, got "
                    f"{self.samples}"
                )
        require_seed(self.seed)
        require_choice("split", self.split, ("train", "val", "test"))
        require_choice("precision", self.precision, ("fp32", "bf16"))
        require_choice("device", self.device, ("auto", "cpu", "cuda"))

    def results_path(self, step: int | None = None) -> Path:
        """Where the results go.

        Args:
            step: The training step that the parameters are of, where it is known: those of another
                one are another evaluation.
        """
        if self.out is not None:
            return Path(self.out)
        count = self.samples if self.estimate is None else f"estimate-{self.estimate}"
        name = re.sub(r"[^\w.-]+", "-", f"{self.data}-{self.split}-{count}").strip("-")
        of_step = "" if step is None else f"-step-{step}"
        return folder_of_results(self.model) / f"evaluation-{name}{of_step}.json"
