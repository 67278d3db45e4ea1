"""Training and measuring the models of an experiment, resumable to the bit."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vflow.models import Glow, GlowConfig, VectorVFlow, load_model
from vflow.runtime.console import RunStopped
from vflow.runtime.files import atomic_path, read_json, write_json
from vflow.runtime.progress import bar
from vflow.runtime.randomness import Stream, mix
from vflow.runtime.signals import StopSignals
from vflow.toy.config import DATA_DIMS, Experiment
from vflow.toy.densities import DENSITIES
from vflow.toy.stacked import Model, Stack

RECIPE = 3
"""Counts changes of what training does with the same fields; nothing is resumed across one."""
CHUNK = 500
"""Iterations whose data are drawn at once; they are a function of the seed and the chunk alone."""
SAVE_SECONDS = 20.0
STATE_NAME = "state.safetensors"
RESULTS_NAME = "results.json"
CONFIG_NAME = "experiment.json"


def run(experiment: Experiment, folder: Path, quiet: bool = False) -> dict[str, Any]:
    """Train and measure, or go on with it, or read what an earlier run has found.

    Args:
        experiment: What to train.
        folder: Where its results.json and models/ go, and its state on the way.
        quiet: Whether to show no progress.

    Returns:
        What results.json holds: the log-likelihood of each seed's model on the test points, their
        mean and deviation (nats), and how long training took.

    Raises:
        ValueError: If the folder is of another experiment, or a file in it is damaged.
        OSError: If the folder cannot be written.
        RunStopped: If it is told to stop by SIGTERM, or training diverges.
        KeyboardInterrupt: After Ctrl-C, once its state is saved.
    """
    _claim(experiment, folder)
    if (folder / RESULTS_NAME).exists():
        results: dict[str, Any] = read_json(folder / RESULTS_NAME)
        return results
    stack = Stack(new_models(experiment))
    seconds = _train(experiment, stack, folder / STATE_NAME, quiet)
    for seed, model in enumerate(stack.models()):
        model.save_pretrained(folder / "models" / f"seed-{seed}")
    found = measure(experiment, stack)
    results = {
        "experiment": dataclasses.asdict(experiment),
        "parameters": stack.parameters.shape[1],
        "log_likelihood": found,
        "mean": sum(found) / len(found),
        "deviation": float(torch.tensor(found).std()) if len(found) > 1 else 0.0,
        "paper": experiment.paper,
        "seconds": round(seconds, 1),
        "iterations_per_second": round(experiment.iterations / seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json(folder / RESULTS_NAME, results)
    (folder / STATE_NAME).unlink(missing_ok=True)
    return results


def new_models(experiment: Experiment) -> list[Model]:
    """The untrained models, one a seed."""
    config = experiment.model_config()
    models: list[Model] = []
    with torch.random.fork_rng(devices=[]):
        for index in range(experiment.seeds):
            torch.manual_seed(mix(experiment.seed, Stream.PARAMETERS, index))
            models.append(Glow(config) if isinstance(config, GlowConfig) else VectorVFlow(config))
    return models


def load_models(folder: Path, seeds: int) -> list[Any]:
    """The trained models of a finished run."""
    return [load_model(folder / "models" / f"seed-{seed}") for seed in range(seeds)]


def measure(experiment: Experiment, stack: Stack) -> list[float]:
    """Log-likelihood of each model on the test points, by importance sampling; nats.

    The points are the same for every model of a density and seed, and none is trained on.
    """
    source = torch.Generator().manual_seed(mix(experiment.seed, Stream.EVALUATION))
    points = DENSITIES[experiment.density].sample(experiment.points, source)
    x = points.to(stack.parameters.dtype).expand(len(stack), -1, -1)
    return stack.log_prob(x, experiment.samples, source).double().mean(1).tolist()


def _train(experiment: Experiment, stack: Stack, path: Path, quiet: bool) -> float:
    """Train; return the seconds it took, those before an interruption included."""
    optimizer = torch.optim.Adam([stack.parameters], lr=experiment.lr, fused=True)
    stack.parameters.grad = stack.gradient
    start, before = _load(path, stack, optimizer) if path.exists() else (0, 0.0)
    began = saved = time.monotonic()
    total = experiment.iterations
    with (
        StopSignals() as signals,
        bar(
            total=total, initial=start, desc=experiment.title, disable=quiet or None, unit="it"
        ) as shown,
    ):
        for first in range(start, total, CHUNK):
            x, eps = _chunk(experiment, first // CHUNK)
            for index in range(min(CHUNK, total - first)):
                _backward(stack, x[index], None if eps is None else eps[index])
                if experiment.clip:
                    _clip(stack.gradient, experiment.clip)
                share = (first + index) / total
                optimizer.param_groups[0]["lr"] = (
                    experiment.lr * (1 + math.cos(math.pi * share)) / 2
                )
                optimizer.step()
            done, now = min(first + CHUNK, total), time.monotonic()
            if not stack.parameters.isfinite().all():
                raise RunStopped(f"training diverged before iteration {done}: use a smaller lr")
            shown.update(done - first)
            if done == total or signals.received or now - saved > SAVE_SECONDS:
                _save(path, stack, optimizer, done, before + now - began)
                saved = now
            if signals.received and done < total:
                text = f"stopped by {signals.received.name} at iteration {done}; the same command "
                kind = KeyboardInterrupt if signals.received == signal.SIGINT else RunStopped
                raise kind(text + "goes on from there")
    return before + time.monotonic() - began


def _backward(stack: Stack, x: Tensor, eps: Tensor | None) -> None:
    """The gradient for a batch [S, B, 2] and the noise of its draws [S, draws / 2, B, D - 2].

    Each draw comes with its mirror image: what is odd in the noise cancels out of the gradient.
    """
    if eps is None:
        stack.backward(x)
        return
    mirrored = torch.cat([eps, -eps], 1)
    draws = mirrored.shape[1]
    stack.backward(x.repeat(1, draws, 1), mirrored.flatten(1, 2), draws)


def _clip(gradient: Tensor, largest: float) -> None:
    """Shorten the gradients [S, N] that are longer than `largest`, each model's for itself."""
    norm = gradient.norm(dim=1, keepdim=True)
    gradient.mul_((largest / norm).clamp_(max=1))


def _chunk(experiment: Experiment, chunk: int) -> tuple[Tensor, Tensor | None]:
    """Data [CHUNK, S, B, 2] and, for a VFlow, noise [CHUNK, S, draws / 2, B, D - 2]."""
    density, batch = DENSITIES[experiment.density], experiment.batch_size
    extra = experiment.dims - DATA_DIMS
    points, noise = [], []
    for index in range(experiment.seeds):
        source = torch.Generator().manual_seed(mix(experiment.seed, Stream.NOISE, index, chunk))
        points.append(density.sample(CHUNK * batch, source).view(CHUNK, batch, DATA_DIMS))
        if extra:
            shape = (CHUNK, experiment.draws // 2, batch, extra)
            noise.append(_at_right_angles(torch.randn(shape, generator=source)))
    return torch.stack(points, 1), torch.stack(noise, 1) if extra else None


def _at_right_angles(noise: Tensor) -> Tensor:
    """Turn the draws of each point so that they are orthogonal, as many at a time as dimensions.

    Each pair of a draw and its mirror image is as normal as before, and of the same length, but
    together they cover the directions evenly, which takes noise from the gradient. Which of a pair
    is which, the decomposition decides.

    Args:
        noise: Normal, [..., draws, B, D].

    Returns:
        The same shape.
    """
    turned = []
    for block in noise.split(noise.shape[-1], -3):
        columns = block.movedim(-3, -1)  # [..., B, D, draws]
        lengths = columns.norm(dim=-2, keepdim=True)
        turned.append((torch.linalg.qr(columns).Q * lengths).movedim(-1, -3))
    return torch.cat(turned, -3)


def _claim(experiment: Experiment, folder: Path) -> None:
    """Write down what the folder is about, or see that it is about this."""
    fields = {"recipe": RECIPE, **dataclasses.asdict(experiment)}
    if not (folder / CONFIG_NAME).exists():
        write_json(folder / CONFIG_NAME, fields)
        return
    there = read_json(folder / CONFIG_NAME)
    for name, value in fields.items():
        if there.get(name) != value:
            raise ValueError(
                f"{name} must be {there.get(name)!r} to go on in {folder}, got {value!r}: choose "
                "another folder"
            )


def _save(path: Path, stack: Stack, optimizer: torch.optim.Adam, done: int, seconds: float) -> None:
    state = optimizer.state[stack.parameters]
    tensors = {"parameters": stack.parameters, **state}
    about = {"iteration": done, "seconds": seconds}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"about": json.dumps(about)})
        except SafetensorError as error:  # which a full disk is to it
            raise OSError(f"{path} could not be written: {error}") from error


def _load(path: Path, stack: Stack, optimizer: torch.optim.Adam) -> tuple[int, float]:
    """Take up a saved state; return its iteration and the seconds it took."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stack.parameters.copy_(tensors.pop("parameters"))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} must be the state of an interrupted run, but it does not load: remove it to "
            f"begin anew ({error})"
        ) from error
    optimizer.state[stack.parameters] = tensors
    return about["iteration"], about["seconds"]
