"""The toy study's training speed, beside coupling flows of the same size in zuko and nflows.

    python bench/toy.py --json bench/results/toy.json

One iteration trains all seeds' models on a batch each. Ours are stacked (`vflow.toy.stacked`);
those of the other libraries, as those of ours without stacking, are trained one after another.
Rounds alternate, so that a busy machine slows all alike; ratios within a run are what counts. zuko
and nflows are compared where they are installed (`pip install zuko nflows`).

The flow: three affine couplings with two hidden layers of 50 units, on 10 dimensions; ours and
nflows' have ActNorm and a linear layer too.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `python bench/toy.py`

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch
from torch import Tensor, nn

from bench.machine import describe
from vflow.models import Glow, GlowConfig
from vflow.nets import MLP
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.runtime.files import write_json
from vflow.toy.stacked import Stack

DIMS, STEPS, HIDDEN, BATCH = 10, 3, 50, 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """Training speed of the toy study, beside zuko's and nflows'."""

    iterations: int = 100
    """Iterations of each round."""
    rounds: int = 5
    """Timed rounds; the median counts."""
    seeds: int = 5
    """Models trained at once."""
    threads: int = 1
    """Threads of torch."""
    json: Path | None = None
    """Where to write the results."""


Trainer = Callable[[Tensor], Any]


def stacked(seeds: int) -> tuple[Trainer, int]:
    stack = Stack([_glow() for _ in range(seeds)])
    stack.parameters.grad = stack.gradient
    optimizer = torch.optim.Adam([stack.parameters], lr=1e-3, fused=True)

    def iteration(x: Tensor) -> None:
        stack.backward(x)
        optimizer.step()

    return iteration, stack.parameters.shape[1]


def one_by_one(make: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]], seeds: int) -> Any:
    models = [make() for _ in range(seeds)]
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-3, fused=True) for m, _ in models]

    def iteration(x: Tensor) -> None:
        for (_, log_prob), optimizer, batch in zip(models, optimizers, x, strict=True):
            loss = -log_prob(batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return iteration, sum(p.numel() for p in models[0][0].parameters())


def _glow() -> Glow:
    return Glow(GlowConfig(dims=DIMS, steps=STEPS, hidden=HIDDEN, layers=2))


def library() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = _glow()
    return model, model.log_prob


def zuko() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    flows = importlib.import_module("zuko.flows")
    model = flows.NICE(DIMS, transforms=STEPS, hidden_features=(HIDDEN, HIDDEN))
    return model, lambda x: model().log_prob(x)


def nflows() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    layers = importlib.import_module("nflows.transforms")
    base = importlib.import_module("nflows.distributions")
    flow = importlib.import_module("nflows.flows")

    def net(inputs: int, outputs: int) -> nn.Module:
        # nflows' own MLP takes no context, which its coupling hands over.
        return MLP(inputs, outputs, hidden=HIDDEN, layers=2)

    steps = []
    for index in range(STEPS):
        mask = (torch.arange(DIMS) + index) % 2
        steps += [layers.ActNorm(DIMS), layers.LULinear(DIMS)]
        steps.append(layers.AffineCouplingTransform(mask, net))
    model = flow.Flow(layers.CompositeTransform(steps), base.StandardNormal([DIMS]))
    return model, model.log_prob


@one_line_errors
def main() -> None:
    """Time all in turns, print a table, write JSON."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    trainers = {"vflow, stacked": stacked(options.seeds)}
    for name, make in (("vflow, one by one", library), ("zuko", zuko), ("nflows", nflows)):
        try:
            trainers[name] = one_by_one(make, options.seeds)
        except ImportError as error:
            print(f"{name}: not compared ({error})")
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    x = 2 * torch.randn(options.iterations, options.seeds, BATCH, DIMS)
    for number in range(options.rounds + 1):  # the first warms up
        for name, (iteration, _) in trainers.items():
            start = time.perf_counter()
            for batch in x:
                iteration(batch)
            if number:
                speeds[name].append(options.iterations / (time.perf_counter() - start))
    figures = {
        name: {
            "iterations_per_second": round(statistics.median(speeds[name]), 1),
            "parameters": parameters,
        }
        for name, (_, parameters) in trainers.items()
    }
    ours = figures["vflow, stacked"]["iterations_per_second"]
    print(f"{DIMS} dimensions, {STEPS} couplings, {options.seeds} seeds, batch {BATCH} each")
    for name, figure in figures.items():
        speed = figure["iterations_per_second"]
        print(
            f"  {name:<18} {speed:8.1f} iterations/s  {figure['parameters']:>7,} parameters  "
            f"ours is {ours / speed:.1f} times as fast"
        )
    if options.json:
        about = {"seeds": options.seeds, "batch": BATCH, "dims": DIMS, "steps": STEPS}
        write_json(options.json, {**describe("cpu"), **about, "figures": figures})


if __name__ == "__main__":
    main()
