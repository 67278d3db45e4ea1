"""What a training run is made of, as dataclasses that check themselves and become flags."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from vflow.data import data_help, parse_size
from vflow.io.fields import (
    require_bool,
    require_choice,
    require_int,
    require_number,
    require_seed,
    take_plain_numbers,
)
from vflow.models import ModelConfig, model_config
from vflow.nets.recompute import Recompute, take_recompute
from vflow.runtime.extras import tyro


def _image_size_flag() -> Any:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SIDE|HEIGHTxWIDTH",
        # The config reads it, as it does "32x48" of Python.
        instance_from_str=lambda args: None if args[0] == "None" else args[0],
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


ImageSize: TypeAlias = "Annotated[int | tuple[int, int] | None, _image_size_flag()]"
"""A height and width: 32, (32, 48) or "32x48"."""
Optimizer: TypeAlias = Literal["adam", "adamw", "muon", "apex"]
CHOICES = {
    "optimizer": get_args(Optimizer),
    "precision": ("fp32", "tf32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
}
SWITCHES = (
    *("flip", "resume_with_changes", "compile", "cuda_graph", "deterministic"),
    "check_ranks",
)


@dataclass(frozen=True, kw_only=True)
class ModelOverrides:
    """Changes to the preset; what is left out stays the preset's own."""

    filters: int | None = None
    """Width F of the couplings' networks, those of r(u|x) and q(z|x) too."""
    blocks: int | None = None
    """Gated blocks B in each coupling of the flow."""
    components: int | None = None
    """Logistics K in each mixture, those of r(u|x) and q(z|x) too."""
    heads: int | None = None
    """Attention heads."""
    coupling: str | None = None
    """Kind of the couplings: mixlogistic, affine, spline, ..."""
    squash: bool | None = None
    """Whether mixture-of-logistics couplings squash the CDF to [0.05, 0.95] before the logit."""
    attention: bool | None = None
    """Whether the couplings of the flow and of r(u|x) have attention."""
    extra_dims: int | None = None
    """Channels of z; a preset without any is widened."""
    posterior: str | None = None
    """Kind of q(z|x): flow, gaussian or normal."""
    posterior_blocks: int | None = None
    """Gated blocks of q(z|x)."""
    posterior_attention: bool | None = None
    """Whether the couplings of q(z|x) have attention."""
    dequantizer: str | None = None
    """Kind of r(u|x): flow or uniform."""
    dequantizer_blocks: int | None = None
    """Gated blocks in each coupling of r(u|x)."""
    in_channels: int | None = None
    """Channels of an image; the data's if left out."""
    image_size: ImageSize = None
    """Height and width of the model's images; the data's if left out."""
    dropout: float | None = None
    """Dropout probability in the couplings' networks."""
    set: tuple[str, ...] = ()
    """Any other field of the preset's config, as NAME=VALUE; scales=[[["channel",2]]] is JSON."""

    def __post_init__(self) -> None:
        """Read `image_size` and `set`.

        Raises:
            ValueError: If one cannot be read.
        """
        _read_size(self, "model.image_size")
        object.__setattr__(self, "set", tuple(self.set))
        for change in self.set:
            name, equals, _ = str(change).partition("=")
            if not name or not equals:
                raise ValueError(f"model.set must be NAME=VALUE, got {change!r}")
            if getattr(self, name, None) is not None:
                raise ValueError(f"model.set must leave {name} to --model.{name}, got both")

    def given(self) -> dict[str, Any]:
        """The overrides that were given, as `create_model` takes them."""
        fields = {k: v for k, v in vars(self).items() if v is not None and k != "set"}
        for change in self.set:
            name, _, value = change.partition("=")
            fields[name] = _value_of(value)
        return fields


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam, its learning rate and the average of the parameters (VFlow, Chen et al., 2020, Sec. 6).

    The learning rate rises linearly for `warmup` steps, stays at `lr` up to step `hold`, then falls
    by a factor `decay` a step down to `min_lr`; with `fall`, by the factor that takes it there in
    so many steps. Steps are absolute: a short run wants a shorter warmup.
    """

    lr: float = 0.0012
    """Peak learning rate."""
    warmup: int = 2000
    """Steps in which the learning rate rises to its peak."""
    hold: int = 50_000
    """Step from which the learning rate falls."""
    decay: float = 0.99999
    """Factor on the learning rate at each step after `hold`."""
    min_lr: float = 0.0003
    """Learning rate at which the fall ends."""
    fall: int | None = None
    """Steps after `hold` in which the learning rate falls to `min_lr`; in place of `decay`."""
    clip: float = 1.0
    """Largest norm of the gradient of bits/dim; a longer one is scaled down to it."""
    ema: float = 0.999
    """Decay of the parameters' moving average, which evaluation and samples use."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the gradient's mean and square."""
    weight_decay: float = 0.0
    """Share of each parameter that a step at learning rate 1 takes away; adamw only."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        require_number("optim.lr", self.lr, above=0)
        require_int("optim.warmup", self.warmup, 0)
        require_int("optim.hold", self.hold, self.warmup, "optim.warmup")
        require_number("optim.decay", self.decay, above=0, most=1)
        require_number("optim.min_lr", self.min_lr, least=0, most=self.lr, most_name="optim.lr")
        self._require_one_fall()
        require_number("optim.clip", self.clip, above=0)
        require_number("optim.ema", self.ema, least=0, below=1)
        require_number("optim.weight_decay", self.weight_decay, least=0)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"optim.betas must be two numbers, got {self.betas!r}")
        object.__setattr__(self, "betas", tuple(self.betas))
        for beta in self.betas:
            require_number("optim.betas", beta, least=0, below=1)

    def _require_one_fall(self) -> None:
        if self.fall is None:
            return
        require_int("optim.fall", self.fall, 1)
        if self.decay != type(self).decay:
            raise ValueError(
                "optim.decay must be left out where optim.fall is given, got "
                f"{self.decay!r} and {self.fall}"
            )
        if self.min_lr == 0:
            raise ValueError("optim.min_lr must be above 0 where optim.fall is given, got 0")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a model. The defaults are the recipe of VFlow (Chen et al., 2020, Sec. 6).

    The same command run again goes on from the newest intact checkpoint, with the numbers that an
    uninterrupted run would have had: bit for bit on a CPU, and with `deterministic` on a GPU.
    """

    out: Path | None = None
    """Run folder, a new one or that of the run to go on with; by default runs/PRESET-DATA."""
    preset: str = "vflow-cifar10"
    """The plan of the model, by name; `vflow models` lists them."""
    data: Annotated[str, tyro.conf.arg(help=data_help())] = "cifar10"
    data_root: Path | None = None
    """Folder where data sets are kept or downloaded to."""
    image_size: ImageSize = None
    """Size of the images, for data that can be had at any; by default the model's."""
    flip: bool = False
    """Mirror each training image, left to right, with a probability of one half."""
    init_from: str | None = None
    """Trained model to begin with, by name (`vflow models`), folder, checkpoint or Hub repository.
    Its (averaged) parameters are taken; optimiser, average and steps begin anew."""
    resume_with_changes: bool = False
    """Go on with another batch_size, optimizer, precision, flip, model.dropout or optim.* than the
    run had; the log says which."""
    batch_size: int = 64
    """Images that a step learns from, over all processes together."""
    steps: int | None = None
    """Steps to train for; give this or `epochs`."""
    epochs: int | None = None
    """Passes over the training images; 2000 if `steps` is left out too."""
    accumulate: int = 1
    """Parts that a process takes its share of the batch in, to spare memory."""
    recompute: Recompute = "none"
    """What the backward pass computes again instead of keeping it: gated blocks, of which only the
    inputs are kept, or couplings as wholes."""
    optimizer: Optimizer = "adam"
    """adam and adamw are torch's fused ones, apex is NVIDIA apex's FusedAdam; muon makes the steps
    of the networks' matrices orthogonal, and is Adam for all else."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """bf16 runs the couplings' networks under autocast; tf32 rounds the factors of their products
    on a GPU. All else stays float32."""
    compile: bool = False
    """Compile the forward and backward pass with torch.compile."""
    cuda_graph: bool = False
    """Capture the whole step as a CUDA graph."""
    seed: int = 0
    """Seed of everything random: parameters, order, noise, dropout."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, at some cost in speed: for resuming bit
    for bit on a GPU. A CPU needs no asking."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is any."""
    keep: int = 3
    """Checkpoints kept, the newest."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step makes one too."""
    checkpoint_minutes: float = 30.0
    """Most minutes between checkpoints, which is what a crash can cost; 0 for any."""
    eval_every: int = 5000
    """Steps between evaluations on the test images, and one at the end; 0 for none, for which no
    test images are needed."""
    eval_images: int | None = None
    """Test images evaluated, from the first; by default all."""
    sample_every: int = 5000
    """Steps between grids of samples, and one at the end; 0 for none."""
    log_every: int = 50
    """Steps averaged in each line of metrics.jsonl."""
    check_ranks: bool = False
    """At each checkpoint, stop unless all processes hold the same parameters bit for bit."""
    model: ModelOverrides = field(default_factory=ModelOverrides)
    """Changes to the preset."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser, learning rate, moving average."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name in ("out", "data_root"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str | Path) or not str(value):
                raise ValueError(f"{name} must be a path, got {value!r}")
            object.__setattr__(self, name, Path(value))
        if not isinstance(self.data, str) or not self.data:
            raise ValueError(f"data must be the name of a data set, got {self.data!r}")
        if self.init_from is not None:
            if not isinstance(self.init_from, str | Path) or not str(self.init_from):
                raise ValueError(f"init_from must be a path or a name, got {self.init_from!r}")
            object.__setattr__(self, "init_from", str(self.init_from))
        # Data-dependent initialisation takes the standard deviation over the first batch.
        require_int("batch_size", self.batch_size, 2)
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps must be left out where epochs is given, got {self.steps} and {self.epochs}"
            )
        _read_size(self, "image_size")
        for name in ("steps", "epochs", "eval_images"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), 1)
        for name in ("accumulate", "keep", "checkpoint_every", "log_every"):
            require_int(name, getattr(self, name), 1)
        for name in ("eval_every", "sample_every"):
            require_int(name, getattr(self, name), 0)
        require_number("checkpoint_minutes", self.checkpoint_minutes, least=0)
        require_seed(self.seed)
        object.__setattr__(self, "recompute", take_recompute(self.recompute))
        for name, choices in CHOICES.items():
            require_choice(name, getattr(self, name), choices)
        for name in SWITCHES:
            require_bool(name, getattr(self, name))
        if self.optim.weight_decay and self.optimizer != "adamw":
            raise ValueError(
                "optim.weight_decay must be 0 unless optimizer is adamw, got "
                f"{self.optim.weight_decay!r} with {self.optimizer!r}"
            )
        self.model_config()

    @property
    def out_path(self) -> Path:
        """The run folder."""
        if self.out is not None:
            return self.out
        return Path("runs") / f"{self.preset}-{short_name(self.data)}"

    def model_config(self, **changes: Any) -> ModelConfig:
        """The model's config: the preset, `changes`, and over both the overrides given.

        Raises:
            ValueError: If there is no such preset, or an override is out of range.
        """
        return model_config(self.preset, **{**changes, **self.model.given()})

    def to_json(self) -> dict[str, Any]:
        """The config as JSON has it."""
        fields = dataclasses.asdict(self)
        fields["out"] = str(self.out_path)
        fields["data_root"] = None if self.data_root is None else str(self.data_root)
        fields["optim"]["betas"] = list(fields["optim"]["betas"])
        fields["model"]["set"] = list(fields["model"]["set"])
        return fields


def _value_of(text: str) -> Any:
    """A value from the command line: JSON, Python's True and False, or else a word."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except json.JSONDecodeError:
        return text


def _read_size(config: Any, name: str) -> None:
    """Make the field `image_size` an int for a square, else (height, width)."""
    if config.image_size is not None:
        height, width = parse_size(config.image_size, name)
        size = height if height == width else (height, width)
        object.__setattr__(config, "image_size", size)


def short_name(data: str) -> str:
    """A name for a folder, from a data set's: its own, or the end of its path."""
    source, _, path = data.partition(":")
    if not path:
        return source
    name = Path(path.replace("{split}", "")).expanduser().resolve().name
    name = re.sub(r"\.np[yz]$", "", name)
    return re.sub(r"[^\w.-]+", "-", name).strip("-._") or source
