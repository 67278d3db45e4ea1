"""Images a second of lossless encoding and decoding, beside those of the bound alone.

    python bench/compression.py MODEL --data photos --images 128

Of everything the best of several runs, in CPU seconds and in seconds; bits/dim as coded and of the
bound of the very noise that was popped, in float64.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent))
# isort: off
import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: on
import torch
from torch import Tensor

from bench.machine import describe
from vflow.compression.identity import ARITHMETICS, arithmetic
from vflow.compression.walk import Noise, decode_batch, encode_batch
from vflow.data import images_of_shape
from vflow.models import ImageFlow
from vflow.models.loading import load_image_model
from vflow.ops.coder import Coder
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.runtime.files import write_json
from vflow.runtime.memory import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure lossless coding."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A training run's or a model's folder."""
    data: str = "photos"
    """Of its test images."""
    images: int = 128
    """How many, from the first."""
    batch_size: int = 64
    """Images on the stacks at once."""
    repeats: int = 3
    """Runs, of which the best counts."""
    threads: int = 2
    """PyTorch's and the kernels'."""
    json: Path | None = None
    """Where the figures are written to."""


def best(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """CPU seconds and seconds of the best run."""
    runs = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        function()
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(run[0] for run in runs), min(run[1] for run in runs)


def report(
    name: str, images: Tensor, function: Callable[[], object], repeats: int
) -> dict[str, float]:
    """Print, and give, how fast a function goes through the images."""
    cpu, wall = best(function, repeats)
    count, rate = len(images), images.numel() / wall / 1e6
    line = f"{count / wall:7.1f} images/s  {rate:6.3f} MB/s  {1e3 * cpu / count:6.1f} CPU ms"
    print(f"{name:16} {line} an image", flush=True)
    return {"images_per_second": count / wall, "cpu_ms_an_image": 1e3 * cpu / count}


def measure(
    name: str, model: ImageFlow, images: Tensor, options: Options
) -> dict[str, dict[str, float]]:
    """Print, and give, the speed of encoding and decoding in an arithmetic, and what was coded."""
    batches = images.split(options.batch_size)
    sizes = [len(batch) for batch in reversed(batches)]
    coder = Coder(lend=True)
    with arithmetic(model, name):
        before = coder.bits
        noise = [encode_batch(model, batch, coder) for batch in batches]
        bits = coder.bits - before

        def encode() -> list[Noise]:
            return [encode_batch(model, batch, coder) for batch in batches]

        def decode() -> list[Tensor]:
            return [decode_batch(model, size, coder) for size in sizes]

        figures = {
            f"{name} {kind}": report(f"{name} {kind}", images, function, options.repeats)
            for kind, function in (("encode", encode), ("decode", decode))
        }
    precise, bound = copy.deepcopy(model).double(), 0.0
    with torch.inference_mode():
        for batch, drawn in zip(batches, noise, strict=True):
            bound -= precise.elbo(batch, drawn.eps_u, drawn.eps_z).sum().item()
    coded, least = bits / images.numel(), bound / math.log(2) / images.numel()
    print(f"{name}: {coded:.5f} bits/dim, the bound {least:.5f}, {coded - least:+.5f}", flush=True)
    figures[name] = {"coded_bits_per_dim": coded, "bound_bits_per_dim": least}
    return figures


@one_line_errors
def main() -> None:
    """Print a line for the bound, and three for each arithmetic."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `vflow compress` does
    model = load_image_model(options.model)
    images = images_of_shape(options.data, "test", model.data_shape)[: options.images]

    def elbo() -> list[Tensor]:
        return [model.elbo(batch) for batch in images.split(options.batch_size)]

    with torch.inference_mode():
        figures = {"elbo": report("elbo", images, elbo, options.repeats)}
    for name in ARITHMETICS:
        figures |= measure(name, model, images, options)
    if options.json is not None:
        about = {name: value for name, value in vars(options).items() if name != "json"}
        write_json(options.json, {"machine": describe("cpu"), "options": about, "figures": figures})


if __name__ == "__main__":
    main()
