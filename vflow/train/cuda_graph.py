"""A training step as one CUDA graph: launched by one call, with no Python between its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., Tensor]

EAGER_STEPS = 3
EAGER_STEPS_DISTRIBUTED = 11
"""DistributedDataParallel rebuilds its buckets in its first steps, and measures the tenth."""


def capture_cuda_graph(body: Callable[[], None]) -> Callable[[], None]:
    """Capture what `body` launches, without running it.

    Returns:
        What launches it all again; the first time is the first that it runs.

    Raises:
        RuntimeError: If something in it cannot be captured, as what makes the host wait.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


class GraphedStep:
    """A step on tensors that have the same shapes every time, captured once and then replayed.

    The first steps run eagerly, on a stream of their own: libraries find their algorithms and
    allocate what they keep. What the step changes it must change in place. Random numbers come from
    the default generator of the device, which may be seeded before each call.

    Args:
        step: Tensors -> a tensor.
        eager_steps: Steps that run eagerly, before the one that is captured.
        capture: Makes a replay of a body; another one in tests.
    """

    def __init__(
        self,
        step: Step,
        eager_steps: int,
        capture: Callable[[Callable[[], None]], Callable[[], None]] = capture_cuda_graph,
    ) -> None:
        self._step, self._capture = step, capture
        self._left = eager_steps
        self._inputs: dict[str, Tensor] = {}
        self._outcome: Tensor | None = None
        self._replay: Callable[[], None] | None = None

    @property
    def captured(self) -> bool:
        """Whether the step is a graph by now."""
        return self._replay is not None

    def __call__(self, **inputs: Tensor) -> Tensor:
        """Take the step; the result is a tensor of its own.

        Raises:
            RuntimeError: If the step cannot be captured; nothing of it has run then.
        """
        if self._left > 0:
            self._left -= 1
            device = next(iter(inputs.values())).device
            with side_stream(device):
                return self._step(**inputs)
        if self._replay is None:
            self._inputs = {name: value.clone() for name, value in inputs.items()}
            self._replay = self._capture(self._body)
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        self._replay()
        assert self._outcome is not None
        return self._outcome.clone()

    def _body(self) -> None:
        self._outcome = self._step(**self._inputs)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """A CUDA stream of its own, between what was launched before and what comes after."""
    if device.type != "cuda":
        yield
        return
    stream, here = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        yield
    here.wait_stream(stream)


def graph_refused(device: torch.device, config: Any) -> str | None:
    """Say why a step cannot be a CUDA graph here, or None if it may."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    if config.recompute and config.model_config().dropout > 0:
        return "recompute with dropout reads the state of the random numbers, which a graph may not"
    return None
