"""A training step as one CUDA graph: launched by one call, with no Python between its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vflow.runtime.console import RunStopped

Step = Callable[..., Tensor]
Body = Callable[[], None]

EAGER_STEPS = 3
EAGER_STEPS_DISTRIBUTED = 11
"""DistributedDataParallel rebuilds its buckets in its first steps, and measures the tenth."""


class SideStream:
    """A stream that steps take before they are captured, as a capture needs; nothing on a CPU.

    One for all that is to be in the graph: memory that is cached, and nodes of the autograd graph,
    belong to the stream they were made on.

    Args:
        device: Where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Launch on it, after what was launched before and ahead of what comes after."""
        if self.stream is None:
            yield
            return
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            yield
        here.wait_stream(self.stream)

    def capture(self, body: Body) -> Body:
        """Capture what `body` launches as a CUDA graph, without running it.

        Returns:
            What launches it all again; the first time is the first that it runs.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            body()
        return graph.replay


class GraphedStep:
    """A step on tensors that have the same shapes every time, captured once and then replayed.

    The first steps run eagerly: libraries find their algorithms and allocate what they keep. What
    the step changes it must change in place. Random numbers come from the default generator of the
    device, which may be seeded before each call.

    Args:
        step: Tensors -> a tensor.
        eager_steps: Steps that run eagerly, before the one that is captured.
        side: Where these and the capture run.
    """

    def __init__(self, step: Step, eager_steps: int, side: SideStream) -> None:
        self._step, self._side = step, side
        self._left = eager_steps
        self._inputs: dict[str, Tensor] = {}
        self._outcome: Tensor | None = None
        self._replay: Body | None = None

    def __call__(self, **inputs: Tensor) -> Tensor:
        """Take the step; the result is a tensor of its own.

        Raises:
            RunStopped: If the step cannot be captured, as one in which the host has to wait. What
                PyTorch leaves of a capture that failed is nothing to go on with.
        """
        if self._left > 0:
            self._left -= 1
            with self._side.entered():
                return self._step(**inputs)
        if self._replay is None:
            self._inputs = {name: value.clone() for name, value in inputs.items()}
            self._replay = self._captured()
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        self._replay()
        assert self._outcome is not None
        return self._outcome.clone()

    def _captured(self) -> Body:
        try:
            return self._side.capture(self._body)
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # the end of the capture fails over it, too
                cause = cause.__context__
            reason = str(cause).partition("\n")[0]
        raise RunStopped(
            f"the step cannot be captured as a CUDA graph: {reason}; run the same command without "
            "cuda_graph to go on from the last checkpoint"
        )

    def _body(self) -> None:
        self._outcome = self._step(**self._inputs)


def graph_refused(device: torch.device, config: Any) -> str | None:
    """Say why a step cannot be a CUDA graph here, or None if it may."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    flow = config.model_config().flow
    if hasattr(flow, "no_graph"):
        return str(flow.no_graph)
    return None
