"""Samples of a model, as a picture and as an array.

Sample number i is a function of the seed, the temperature and i alone: neither the size of the
batches nor the number of samples changes it, beyond rounding before the pixels are whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vflow.densities import Normal
from vflow.io.fields import plain, require_choice, require_int, require_seed, take_plain_numbers
from vflow.models import ImageFlow
from vflow.models.checks import require_temperature
from vflow.models.loading import load_image_model
from vflow.plots import save_image_grid
from vflow.runtime.distributed import Ranks
from vflow.runtime.extras import tyro
from vflow.runtime.files import atomic_path, require_output
from vflow.runtime.progress import progress_bar
from vflow.runtime.randomness import Stream, mix

GRID_IMAGES = 256
"""Most samples that the picture shows."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Draw samples: a picture of them, and beside it a .npz with all of them."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A trained model by name (`vflow models`), the folder of a training run, a checkpoint or a
    model, or a repository of the Hugging Face Hub. Of a run, the newest parameters are taken."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many; the picture shows the first 256."""
    temperature: float = 1.0
    """Standard deviation of the latent; below 1 for cleaner, less varied samples, at 0 the one that
    the latent's centre gives."""
    out: Path = Path("samples.png")
    """The picture, .png."""
    npz: Path | None = None
    """The array "images", uint8 [N, H, W, C]; by default `out` with .npz for .png."""
    batch_size: int = 64
    """Samples drawn at once; they do not depend on it."""
    seed: int = 0
    """Seed of the latents."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to draw them; auto takes CUDA where there is any."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("n", "batch_size"):
            require_int(name, getattr(self, name), 1)
        require_temperature(self.temperature)
        require_seed(self.seed)
        require_choice("device", self.device, ("auto", "cpu", "cuda"))

    @property
    def npz_path(self) -> Path:
        """Where the array goes."""
        return Path(self.out).with_suffix(".npz") if self.npz is None else Path(self.npz)


def sample(config: SampleConfig) -> Tensor:
    """Draw samples and write the picture and the array.

    Args:
        config: What to draw, and where it goes.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ValueError: If an argument is out of range, or the model is damaged or none of images.
        OSError: If something cannot be read or written.
    """
    require_output("out", Path(config.out), ".png")
    require_output("npz", config.npz_path, ".npz")
    model = load_image_model(config.model, Ranks().device(config.device), say=True)
    images = draw_samples(
        model, config.n, config.temperature, config.seed, config.batch_size, progress=True
    )
    arrays: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).contiguous().numpy()}
    with atomic_path(config.npz_path) as temporary:
        np.savez_compressed(temporary, **arrays)
    save_image_grid(images[:GRID_IMAGES], config.out)
    return images


@torch.inference_mode()
def draw_samples(
    model: ImageFlow,
    n: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """Draw samples whose latents are each seeded by their number.

    Args:
        model: An image model.
        n: How many.
        temperature: Standard deviation of the latent; 0 for its centre alone.
        seed: Seed of the latents. The same on every CPU; CUDA's random numbers differ.
        batch_size: Samples drawn at once.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        uint8 [n, C, H, W], on the CPU.

    Raises:
        ValueError: If an argument is out of range.
    """
    n, batch_size, seed = plain(n), plain(batch_size), plain(seed)
    require_int("n", n, 1)
    require_int("batch_size", batch_size, 1)
    require_seed(seed)
    temperature = require_temperature(temperature)
    parts = []
    with progress_bar(n, "image", show=progress) as bar:
        for start in range(0, n, batch_size):
            numbers = range(start, min(start + batch_size, n))
            pixels = model.decode(_latents(model, numbers, temperature, seed))
            parts.append(pixels.floor().clamp(0, 255).to(torch.uint8).cpu())
            bar.update(len(numbers))
    return torch.cat(parts)


def _latents(model: ImageFlow, numbers: range, temperature: float, seed: int) -> Any:
    """The latents of the samples of these numbers, as many tensors as the model's latent has."""
    shapes = model.latent_shapes
    several = not isinstance(shapes[0], int)
    like = next(model.parameters())
    source = torch.Generator(model.device)
    rows = []
    for number in numbers:
        source.manual_seed(mix(seed, Stream.SAMPLES, number))
        rows.append(
            [
                Normal().draw((1, *shape), like, source)
                for shape in (shapes if several else [shapes])
            ]
        )
    tensors = tuple(temperature * torch.cat(parts) for parts in zip(*rows, strict=True))
    return tensors if several else tensors[0]
