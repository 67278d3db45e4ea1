"""A map of every element whose parameters are the context: a Gaussian given x, and its like."""

from __future__ import annotations

from torch import Tensor

from vflow.flows.base import Flow
from vflow.flows.couplings.base import Coupling
from vflow.ops.coder import Coder


class Conditioned(Flow):
    """A coupling's map of all elements; the context takes the place of its network's output.

    Args:
        coupling: Whose `transform` it is; its network is not used.
    """

    def __init__(self, coupling: Coupling) -> None:
        super().__init__()
        self.coupling = coupling

    def _params(self, context: Tensor | None) -> Tensor:
        assert context is not None
        return context.unflatten(-1, (-1, self.coupling.parameters_per_element))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, ..., C], context [B, ..., C * P] -> y [B, ..., C], logdet [B]."""
        return self.coupling.transform(x, self._params(context))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [B, ..., C], context [B, ..., C * P] -> x [B, ..., C], logdet [B]."""
        return self.coupling.untransform(y, self._params(context))

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """`forward` of whole numbers."""
        return self.coupling.code_elements(x, self._params(context), coder)

    def code_inverse(self, y: Tensor, coder: Coder, context: Tensor | None = None) -> Tensor:
        """`inverse` of whole numbers."""
        return self.coupling.uncode_elements(y, self._params(context), coder)
