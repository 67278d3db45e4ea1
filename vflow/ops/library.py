"""Registration of operations with PyTorch: one contract, two doors.

An operation is defined once in the `vflow` namespace. Under torch.compile its callable goes through
the dispatcher (one opaque node of the graph); in eager mode it goes through an old-style
autograd.Function, which costs about a third as much per call. Both share `backward`. Where PyTorch
transforms or differentiates what the implementations cannot, a composition of PyTorch's own
functions runs instead (`vflow.ops.transforms`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import profiler

from vflow.ops import backend
from vflow.ops.transforms import Once, batched, gradients_of, require_composition, transformed

NAMESPACE = "vflow"
_PLAIN = frozenset((Tensor, nn.Parameter))


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
        composition: Callable[..., Any] | None = None,
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
            composition: The operation in PyTorch's own functions, as often differentiable as these
                are; None for one that only gradients run.
            backward: (*gradients of the outputs, *saved arguments, backend) -> gradients of the
                leading tensors; those after them have none. The `run` of another operation, or a
                function that calls nothing but such.
            saves_outputs: Whether the outputs are saved, too, after the arguments.
            first: The backend that a measurement has shown to be best on its device, if it is not
                the first of the device's usual order.
            implementations: By backend name.
        """
        self.name = name
        self._composition = composition
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
        tensors = arguments[: self._tensors]
        if transformed(tensors) and self._composition is not None:
            backend.choose(self.name, arguments[0])  # or what was named cannot run at all
            require_composition(self.name, backend.named())
            return self._composition(*arguments)
        chosen = backend.choose(self.name, arguments[0])
        if _somebody_watches(tensors, chosen):
            return self.op(*arguments, chosen)
        if self._eager is not None and torch.is_grad_enabled():
            for tensor in tensors:
                if tensor.requires_grad:
                    return self._eager(*arguments, chosen)
        return self._launch(*arguments, chosen)

    def run(self, *arguments: Any) -> Any:
        """Run on the backend that is named last: what a gradient does, whose forward chose it."""
        watched = _somebody_watches(arguments[: self._tensors], arguments[-1])
        return self.op(*arguments) if watched else self._launch(*arguments)

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
        launch, tensors, composition = self._launch, self._tensors, self._composition
        assert composition is not None, f"{self.name} has a gradient and no composition"

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs = output if saves_outputs else ()
            ctx.save_for_backward(*inputs[:tensors], *outputs)
            ctx.numbers, ctx.backend = inputs[tensors:-1], inputs[-1]
            ctx.may_compose = ctx.backend == "reference" or backend.named() is None

        def gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            saved, numbers = ctx.saved_tensors, ctx.numbers
            inputs = saved[:tensors]
            rest = (None,) * (len(numbers) + 1)
            again, many = torch.is_grad_enabled(), batched(grads)
            if (again or many) and ctx.may_compose:
                needed = ctx.needs_input_grad[:tensors]
                return gradients_of(composition, inputs, numbers, needed, grads) + rest
            if many:
                require_composition(self.name, ctx.backend)
            with torch.no_grad():
                found = backward(*grads, *inputs, *numbers, *saved[tensors:], ctx.backend)
            found = found if isinstance(found, tuple) else (found,)
            if again:
                found = Once.apply(self.name, ctx.backend, len(found), *found, *grads, *inputs)
            return found + (None,) * (tensors - len(found)) + rest

        class Eager(torch.autograd.Function):
            # ctx in forward, on purpose: the setup_context style binds a signature on every call.
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = launch(*args)
                setup_context(ctx, args, output)
                return output

            backward: Any = staticmethod(gradients)

        Eager.__name__ = Eager.__qualname__ = self.name
        torch.library.register_autograd(qualname, gradients, setup_context=setup_context)
        self._eager = Eager.apply


def _somebody_watches(tensors: tuple[Any, ...], chosen: str) -> bool:
    """Whether the dispatcher has to see a call on the chosen backend.

    It does while operations are traced, while a dispatch mode is on (that counts FLOPs, say), and
    for tensors that are not numbers in memory: those of device "meta", and subclasses.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return True
    return chosen == "reference" and bool(tensors[0].is_meta)  # the device of no other backend
