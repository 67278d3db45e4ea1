"""What an experiment of the toy study is made of, and what the paper found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflow.io.fields import require_choice, require_int, require_number, take_plain_numbers
from vflow.models import GlowConfig, VectorVFlowConfig
from vflow.toy.densities import DENSITIES

DATA_DIMS = 2
PAPER = {
    (10, 3): "-3.51 +- 0.01",
    (2, 3): "-3.67 +- 0.03",
    (2, 20): "-3.54 +- 0.05",
    (2, 2): "-3.80",
    (3, 2): "-3.69",
}
"""Nats on the checkerboard by (dims, steps) (Chen et al., 2020, Sec. 5 and Fig. 3)."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Models of some seeds, of one size, trained at once on a density of the plane.

    The defaults are those of VFlow's toy study (Chen et al., 2020, Sec. 5) where it tells them.
    """

    density: str = "checkerboard"
    """checkerboard, two-spirals, eight-gaussians, two-moons, rings or pinwheel."""
    dims: int = 10
    """Dimensions D of the flow: 2 for Glow, more for a VFlow with D - 2 extra ones."""
    steps: int = 3
    """Steps L: a VFlow has L - 1 in p(x, z) and one in q(z|x); with one extra dimension, whose q is
    a Gaussian layer, all L are in p."""
    iterations: int = 100_000
    """Training iterations."""
    batch_size: int = 64
    """Points an iteration and model."""
    draws: int = 8
    """Draws of z a point and iteration, an even number: each with its mirror image, and orthogonal
    to as many others as there are dimensions for."""
    seeds: int = 5
    """Models, which differ in their initialisation and in their data."""
    seed: int = 0
    """Seed of everything random."""
    lr: float = 0.002
    """Learning rate of Adam at the start; it falls to 0 as half a cosine."""
    clip: float = 0.0
    """Largest norm of a model's gradient, 0 for any; deep Glows blow up in long training."""
    hidden: int = 50
    """Width of the couplings' networks."""
    layers: int = 2
    """Hidden layers of the couplings' networks."""
    points: int = 1000
    """Test points."""
    samples: int = 100
    """Importance samples a test point."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_choice("density", self.density, tuple(DENSITIES))
        require_int("dims", self.dims, DATA_DIMS)
        require_int("steps", self.steps, 1 + self._posterior_steps)
        for name in ("iterations", "batch_size", "seeds", "hidden", "layers", "points", "samples"):
            require_int(name, getattr(self, name), 1)
        require_int("draws", self.draws, 2)
        if self.draws % 2:
            raise ValueError(f"draws must be an even number, got {self.draws}")
        require_int("seed", self.seed, 0)
        require_number("lr", self.lr, above=0)
        require_number("clip", self.clip, least=0)

    @property
    def _posterior_steps(self) -> int:
        """How many of the steps are q's: none where it is a Gaussian layer, or there is no z."""
        return 1 if self.dims > DATA_DIMS + 1 else 0

    @property
    def name(self) -> str:
        """What tells experiments of one folder apart: checkerboard-10d-3steps-100000."""
        return f"{self.density}-{self.dims}d-{self.steps}steps-{self.iterations}"

    @property
    def title(self) -> str:
        """The model in words."""
        if self.dims == DATA_DIMS:
            return f"{self.steps}-step Glow"
        return f"{self.steps}-step, {self.dims}-dimensional VFlow"

    @property
    def paper(self) -> str | None:
        """The paper's log-likelihood, where there is one."""
        return PAPER.get((self.dims, self.steps)) if self.density == "checkerboard" else None

    def model_config(self) -> GlowConfig | VectorVFlowConfig:
        """The library's config of each of the models."""
        hidden, layers = self.hidden, self.layers
        if self.dims == DATA_DIMS:
            return GlowConfig(dims=DATA_DIMS, steps=self.steps, hidden=hidden, layers=layers)
        return VectorVFlowConfig(
            dims=DATA_DIMS,
            extra_dims=self.dims - DATA_DIMS,
            steps=self.steps - self._posterior_steps,
            hidden=hidden,
            layers=layers,
        )


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Experiment):
    """The toy study: what extra dimensions do for a flow, on densities of the plane.

    Trains the models of one experiment, prints their log-likelihood on test points in nats, and
    draws what they have learned. The same command goes on where it was interrupted.
    """

    out: Path = Path("runs/toy")
    """Folder for results, models and pictures."""
    threads: int = 1
    """Threads of torch; at these sizes more of them only wait for one another."""
    study: bool = False
    """Run the grid of `study-dims` and `study-steps` instead (Fig. 4), and draw it."""
    study_dims: tuple[int, ...] = (2, 4, 6, 8, 10)
    """The grid's dimensions."""
    study_steps: tuple[int, ...] = (2, 3, 4, 5, 10, 15, 20)
    """The grid's steps."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        super().__post_init__()
        require_int("threads", self.threads, 1)
        for name, least in (("study_dims", DATA_DIMS), ("study_steps", 2)):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one number, got none")
            for value in getattr(self, name):
                require_int(f"each of {name}", value, least)

    def experiment(self, **changes: Any) -> Experiment:
        """The experiment alone, with other values where given."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Experiment)}
        return Experiment(**{**fields, **changes})

    def grid(self) -> list[Experiment]:
        """The study's experiments, the quick ones first."""
        return [
            self.experiment(dims=dims, steps=steps)
            for steps in self.study_steps
            for dims in self.study_dims
        ]
