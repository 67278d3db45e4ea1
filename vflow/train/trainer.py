"""A model in training: how it begins, one step, and what a checkpoint holds of it."""

from __future__ import annotations

import inspect
import math
import platform
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vflow.data import BatchOrder
from vflow.io.checkpoint import Checkpoint
from vflow.io.format1 import renaming
from vflow.models import ImageFlow, create_model
from vflow.runtime.distributed import Ranks
from vflow.runtime.randomness import Stream, generator, mix
from vflow.runtime.tf32 import tf32
from vflow.train.batches import Batches
from vflow.train.config import TrainConfig
from vflow.train.cuda_graph import (
    EAGER_STEPS,
    EAGER_STEPS_DISTRIBUTED,
    GraphedStep,
    SideStream,
    graph_refused,
)
from vflow.train.initial import require_weights
from vflow.train.inputs import Inputs
from vflow.train.metrics import Window
from vflow.train.optim import Ema, SkipGuard, learning_rate
from vflow.train.optimizers import make_optimizer

INIT_IMAGES = 256
_CPU = torch.device("cpu")


class Outcome:
    """What a step on a GPU came to, on its way to the host.

    Args:
        values: On the step's device.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            # A plain copy would wait for all that is launched by the time it is asked for.
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The values, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(self._values.tolist())


class Trainer:
    """Makes the steps of a run.

    A step never makes the host wait for a GPU: what the host has to know of it (the loss for the
    log, whether to stop) is read when the next one is under way.

    Args:
        config: The run's config.
        inputs: Its images.
        ranks: This process, among how many.
        device: Where to train.
    """

    def __init__(
        self, config: TrainConfig, inputs: Inputs, ranks: Ranks, device: torch.device
    ) -> None:
        self.config, self.ranks, self.device = config, ranks, device
        self.images = inputs.train
        self.share = ranks.share_of(config.batch_size, config.accumulate)
        self.order = self._batch_order(ranks)
        self.batches = Batches(
            inputs.train,
            lambda step: self.order.indices(step + self.order_shift),
            self._flips if config.flip else None,
            device,
        )
        self.step = 0
        self.order_shift = 0
        """The order's step less the run's: not 0 once the batch has been of another size."""
        self.skipped = 0
        self.window = Window()
        self.seconds = 0.0
        torch.manual_seed(mix(config.seed, Stream.PARAMETERS))
        overrides = {**inputs.shape_overrides, **config.model.given()}
        self.model: ImageFlow = create_model(config.preset, **overrides).to(
            device, memory_format=torch.channels_last
        )
        if config.precision == "tf32" and device.type != "cuda":
            raise ValueError(f"precision must be fp32 or bf16 on {device.type}, got 'tf32'")
        self.guard = SkipGuard(device)
        self.reason_for_no_graph = graph_refused(device, config) if config.cuda_graph else None
        self.optimizer = make_optimizer(config.optimizer, self.model, config.optim)
        self._step: Callable[..., Tensor] = self.update
        self._side: SideStream | None = None
        if config.cuda_graph and self.reason_for_no_graph is None:
            eager = EAGER_STEPS if ranks.size == 1 else EAGER_STEPS_DISTRIBUTED
            self._side = SideStream(device)
            self._step = GraphedStep(self.update, eager, self._side)
        self._unread: deque[tuple[int, Outcome]] = deque()
        self._steps_left_unread = 1 if device.type == "cuda" else 0

    def require_weights(self, weights: dict[str, Tensor]) -> None:
        """Raise ValueError unless the model can begin with these."""
        require_weights(self.model, weights, str(self.config.init_from))

    def resume_order(self, checkpoint: Checkpoint | None) -> None:
        """Go on in the epoch where the run has left it, with batches of whatever size."""
        if checkpoint is None:
            return
        state, size = checkpoint.state, self.config.batch_size
        self.order_shift = state.get("order_shift", 0)
        before = state["fixed"]["batch_size"]
        if before != size:
            epoch, step = divmod(checkpoint.step + self.order_shift, len(self.images) // before)
            steps = self.order.steps_per_epoch
            place = epoch * steps + min(steps, math.ceil(step * before / size))
            self.order_shift = place - checkpoint.step

    def steps_of(self, epochs: int) -> int:
        """The step at which so many passes over the images are done."""
        return max(1, epochs * self.order.steps_per_epoch - self.order_shift)

    def begin(
        self, checkpoint: Checkpoint | None, weights: dict[str, Tensor] | None = None
    ) -> None:
        """Initialise the parameters from the first batch, or take them from elsewhere.

        Args:
            checkpoint: Where to take everything from; None for a new run.
            weights: Of another model, to begin a new run with (`require_weights` has seen them);
                None to initialise.
        """
        with tf32(False):
            self._begin(checkpoint, weights)

    def _begin(self, checkpoint: Checkpoint | None, weights: dict[str, Tensor] | None) -> None:
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint.tensors("model"))
        elif weights is not None:
            self.model.load_state_dict(weights)
            self.model.mark_initialized()  # whatever the file says: they are to be kept
        elif not self.model.initialized:
            self._initialize()
        self.model.set_precision("bf16" if self.config.precision == "bf16" else "fp32")
        self.model.set_recompute(self.config.recompute)
        self.model.train()
        self.forward: Any = self.model
        self._without_sync: Callable[[], AbstractContextManager[None]] = nullcontext
        if self.ranks.size > 1:
            self.forward = self._distributed()
            self._without_sync = self.forward.no_sync
        self.ema = Ema(self.model, self.config.optim.ema)
        # Whatever the steps run in, evaluation is exact, and comparable with any other.
        self.averaged_model.set_precision("fp32")
        if self.config.compile:
            self.forward = torch.compile(self.forward)
        if checkpoint is not None:
            self._restore(checkpoint)

    def _distributed(self) -> DistributedDataParallel:
        """The model, with gradients summed over the processes while they are computed.

        It begins by giving every process the first one's parameters.
        """
        ids = [self.device.index] if self.device.type == "cuda" else None
        with self._side.entered() if self._side else nullcontext():
            # Gradients stay tensors of their own: as views of what is summed they would be aligned
            # otherwise in the first step than later, and the last bit of their norm with them.
            # No buffer changes in training. PyTorch 2.13 has renamed the argument that says so.
            known = inspect.signature(DistributedDataParallel).parameters
            name = (
                "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            )
            options: dict[str, Any] = {name: False}
            return DistributedDataParallel(self.model, device_ids=ids, **options)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.ema.module.load_state_dict(checkpoint.tensors("ema"))
        rename = renaming(self.model.config.to_tree())
        tensors = {}
        for name, value in checkpoint.tensors("optimizer").items():
            moment, _, parameter = name.partition(".")
            tensors[f"{moment}.{rename(parameter)}"] = value
        self.optimizer.load_tensors(tensors)
        self.step = checkpoint.step
        self.guard.streak.fill_(state["skipped_in_a_row"])
        self.skipped, self.seconds = state["skipped"], state["seconds"]
        self.window = Window(**state["window"])

    def _initialize(self) -> None:
        # Every process does so on the whole batch, so that their number makes no difference.
        flips = self._flips(0, whole=True)[:INIT_IMAGES] if self.config.flip else None
        indices = self._batch_order(Ranks()).indices(0)[:INIT_IMAGES]
        images = self.batches.rows(indices, flips).to(self.device)
        drawn = self._noise(0)
        for name in self.model.density.estimate_shapes():
            del drawn[name]
        noise: dict[str, Any] = {k: eps[:INIT_IMAGES] for k, eps in drawn.items()}
        self.model.initialize(images, **noise)

    @property
    def averaged_model(self) -> ImageFlow:
        """The model with the averaged parameters, in evaluation mode."""
        return cast(ImageFlow, self.ema.module)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors and the step; every step done must be read."""
        return {
            "seed": self.config.seed,
            "skipped": self.skipped,
            "skipped_in_a_row": int(self.guard.streak.item()),
            "window": vars(self.window),
            "order_shift": self.order_shift,
            "seconds": self.seconds,
            "processes": self.ranks.size,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint, by file; whether the model is initialised is among them."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.tensors(),
        }

    def take_step(self, stopping: Callable[[], bool]) -> None:
        """Make one update, or skip it; `outcomes` tells which.

        Args:
            stopping: Whether this process has been asked to stop; the others learn of it.
        """
        noise = {name: eps[self.share] for name, eps in self._noise(self.step).items()}
        images = self.batches.take(self.step)
        stop = torch.full((), float(stopping()), dtype=torch.float64, device=self.device)
        self.optimizer.set_learning_rate(learning_rate(self.step, self.config.optim))
        torch.manual_seed(mix(self.config.seed, Stream.DROPOUT, self.step, self.ranks.rank))
        with tf32(self.config.precision == "tf32"):
            outcome = self._step(images=images, stop=stop, **noise)
        self.step += 1
        self._unread.append((self.step, Outcome(outcome)))

    def update(self, images: Tensor, stop: Tensor, **noise: Tensor) -> Tensor:
        """One update, or none if it would not be finite, without a look at any value by the host.

        Args:
            images: This process's share of the batch.
            stop: Whether it has been asked to stop.
            noise: That of these images.

        Returns:
            float64 [5]: bits/dim, gradient norm, skipped, skipped in a row, processes asked to
            stop.
        """
        self.optimizer.zero_grad()
        parts = self.config.accumulate
        bits = torch.zeros((), dtype=torch.float64, device=self.device)
        size = len(images) // parts
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            # The gradients' sums over the processes are taken in the last part only.
            with self._without_sync() if part < parts - 1 else nullcontext():
                elbo = self.forward(images[rows], **{k: eps[rows] for k, eps in noise.items()})
                # What is clipped at norm 1 is the gradient of bits/dim, as in the authors' code;
                # that of nats an image is thousands of times as long.
                loss = self.model.to_bits_per_dim(elbo).mean() / parts
                loss.backward()
            bits += loss.detach().double()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip)
        # Summed over the processes, so that all decide alike; the gradients are already.
        bits, stops = self.ranks.sum(torch.stack([bits / self.ranks.size, stop]))
        skip = self.guard.judge(bits, norm)
        self.optimizer.step(skip)
        self.ema.update_parameters(self.model, skip)
        return torch.stack((bits, norm.double(), skip.double(), self.guard.streak.double(), stops))

    def outcomes(self, all_of_them: bool) -> list[tuple[int, list[float]]]:
        """Read the steps done since the last reading.

        On a GPU, unless `all_of_them`, the newest step is left, so as not to wait for it.

        Returns:
            (step, [bits/dim, gradient norm, skipped, skipped in a row, processes asked to stop]).
        """
        left = 0 if all_of_them else self._steps_left_unread
        ready = []
        while len(self._unread) > left:
            step, outcome = self._unread.popleft()
            ready.append((step, outcome.read()))
        return ready

    def _batch_order(self, ranks: Ranks) -> BatchOrder:
        seed = mix(self.config.seed, Stream.ORDER)
        return BatchOrder(
            len(self.images), self.config.batch_size, seed, rank=ranks.rank, world_size=ranks.size
        )

    def _flips(self, step: int, whole: bool = False) -> Tensor:
        """Which images of a step to mirror, this process's or those of the whole batch.

        Drawn on the CPU, so that they are the same on every device.
        """
        source = generator(_CPU, self.config.seed, Stream.FLIPS, step)
        flips = torch.rand(self.config.batch_size, generator=source) < 0.5
        return flips if whole else flips[self.share]

    def _noise(self, step: int) -> dict[str, Tensor]:
        """The noise of a step for the whole batch, the same in every process."""
        source = generator(self.device, self.config.seed, Stream.NOISE, step)
        return self.model.draw_training_noise(self.config.batch_size, source)
