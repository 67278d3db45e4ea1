"""Registration of operations with PyTorch: one contract, two doors.

An operation is defined once in the `vflow` namespace. Under torch.compile its callable goes through
the dispatcher (one opaque node of the graph); in eager mode it goes through an old-style
autograd.Function, which costs about a third as much per call. Both share `backward`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler

from vflow.ops import backend

NAMESPACE = "vflow"


class Operation:
    """A registered operation; calling it chooses the backend and the door.

    Attributes:
        op: The dispatcher's operator; it takes the backend's name as its last argument.
    """

    def __init__(
        self,
        name: str,
        signature: str,
        *,
        fake: Callable[..., Any],
        backward: Callable[..., Any] | None = None,
        saves_outputs: bool = False,
        first: str | None = None,
        **implementations: backend.Implementation,
    ) -> None:
        """Define `vflow::name`.

        Args:
            name: The operation's stem.
            signature: Its tensors and then its numbers, as in "Tensor x, float dropout -> Tensor";
                `str backend` is added to them.
            fake: The arguments -> empty outputs of the right shape and dtype.
            backward: (*gradients of the outputs, *saved arguments, backend) -> gradients of the
                leading tensors; those after them have none. The `run` of another operation, or a
                function that calls nothing but such.
            saves_outputs: Whether the outputs are saved, too, after the arguments.
            first: The backend that a measurement has shown to be best on its device, if it is not
                the first of the device's usual order.
            implementations: By backend name.
        """
        self.name = name
        backend.register(name, first=first, **implementations)
        arguments, returns = signature.split(" -> ")
        self._tensors = arguments.count("Tensor ")
        qualname = f"{NAMESPACE}::{name}"
        torch.library.define(qualname, f"({arguments}, str backend) -> {returns}")
        torch.library.impl(qualname, "default", self._launch)
        torch.library.register_fake(qualname, lambda *args: fake(*args[:-1]))
        self.op = getattr(getattr(torch.ops, NAMESPACE), name).default
        self._eager: Callable[..., Any] | None = None
        if backward is not None:
            self._register_gradient(qualname, backward, saves_outputs)

    def __call__(self, *arguments: Any) -> Any:
        """Run on the backend that is forced, or the best one for the first tensor."""
        chosen = backend.choose(self.name, arguments[0])
        if _somebody_watches():
            return self.op(*arguments, chosen)
        if self._eager is not None and torch.is_grad_enabled():
            for tensor in arguments[: self._tensors]:
                if tensor.requires_grad:
                    return self._eager(*arguments, chosen)
        return self._launch(*arguments, chosen)

    def run(self, *arguments: Any) -> Any:
        """Run on the backend that is named last: what a gradient does, whose forward chose it."""
        return self.op(*arguments) if _somebody_watches() else self._launch(*arguments)

    def _launch(self, *args: Any) -> Any:
        launch = backend.implementation(self.name, args[-1]).launch
        if (
            profiler._is_profiler_enabled
        ):  # else nobody sees what does not go through the dispatcher
            with profiler.record_function(f"{NAMESPACE}::{self.name}"):
                return launch(*args[:-1])
        return launch(*args[:-1])

    def _register_gradient(
        self, qualname: str, backward: Callable[..., Any], saves_outputs: bool
    ) -> None:
        launch, tensors = self._launch, self._tensors

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs = output if saves_outputs else ()
            ctx.save_for_backward(*inputs[:tensors], *outputs)
            ctx.numbers, ctx.backend = inputs[tensors:-1], inputs[-1]

        def gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            saved, numbers = ctx.saved_tensors, ctx.numbers
            saved = (*saved[:tensors], *numbers, *saved[tensors:])
            found = backward(*grads, *saved, ctx.backend)
            found = found if isinstance(found, tuple) else (found,)
            return found + (None,) * (tensors - len(found) + len(numbers) + 1)

        class Eager(torch.autograd.Function):
            # ctx in forward, on purpose: the setup_context style binds a signature on every call.
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = launch(*args)
                setup_context(ctx, args, output)
                return output

            backward: Any = staticmethod(torch.autograd.function.once_differentiable(gradients))

        Eager.__name__ = Eager.__qualname__ = self.name
        torch.library.register_autograd(qualname, gradients, setup_context=setup_context)
        self._eager = Eager.apply


def _somebody_watches() -> bool:
    """Whether operations are being traced, or a dispatch mode is on (that counts FLOPs, say)."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
