"""Couplings: the first half, unchanged, decides how the second half is transformed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow, Halves
from vflow.ops import exact, mixlogistic, mixlogistic_inverse
from vflow.ops.coder import Affine, Coder, to_float

SIGMA_FLOOR = 1e-6


class MixLogisticCoupling(Flow):
    """Mixture-of-logistics coupling (Ho et al., 2019).

    With the squash of VFlow (Chen et al., 2020, App. B) its output is confined to b +- 2.944 e^a,
    and the inverse of a value outside is clipped: see `vflow.ops.mixlogistic_inverse`.

    Args:
        net: Network [B, H, W, C1] (and context) -> [B, H, W, C2 * (2 + 3K)].
        components: Number K of logistics.
        squash: Whether the CDF is squashed to [0.05, 0.95] before the logit.
    """

    def __init__(self, net: nn.Module, components: int, squash: bool = True) -> None:
        super().__init__()
        self.net = net
        self.components = components
        self.squash = squash

    def _params(self, x1: Tensor, context: Tensor | None) -> Tensor:
        # Element-major: channel c owns a contiguous run of 2 + 3K.
        return self.net(x1, context).unflatten(-1, (-1, 2 + 3 * self.components))

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Transform the second half."""
        y2, logdet = mixlogistic(x[1], self._params(x[0], context), self.squash)
        return (x[0], y2), logdet

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Transform the second half back."""
        x2, logdet = mixlogistic_inverse(y[1], self._params(y[0], context), self.squash)
        return (y[0], x2), logdet

    def code(self, x: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`forward` of whole numbers, linear within cells of 2^-14."""
        params = self._params(_as_input(self.net, x[0]), context)
        return x[0], coder.mixture(x[1], params, self.squash)

    def code_inverse(self, y: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`inverse` of whole numbers."""
        params = self._params(_as_input(self.net, y[0]), context)
        return y[0], coder.mixture_inverse(y[1], params, self.squash)


class AffineCoupling(Flow):
    """y2 = x2 exp(s(x1)) + t(x1), with s = bound * tanh(raw / bound).

    Args:
        net: Network [..., C1] (and context) -> [..., 2 C2], element-major: each element's raw
            scale and shift side by side.
        bound: Largest |s|; it keeps the map well-conditioned early in training.
    """

    def __init__(self, net: nn.Module, bound: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.bound = bound

    def _log_scale_and_shift(self, x1: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(x1, context).unflatten(-1, (-1, 2)).unbind(-1)
        return self.bound * torch.tanh(raw / self.bound), shift

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Scale and shift the second half."""
        log_scale, shift = self._log_scale_and_shift(x[0], context)
        return (x[0], x[1] * log_scale.exp() + shift), log_scale.flatten(1).sum(1)

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Undo the shift and the scale."""
        log_scale, shift = self._log_scale_and_shift(y[0], context)
        return (y[0], (y[1] - shift) * (-log_scale).exp()), -log_scale.flatten(1).sum(1)

    def code(self, x: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`forward` of whole numbers."""
        return x[0], coder.affine(x[1], self._affine(x[0], context))

    def code_inverse(self, y: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`inverse` of whole numbers."""
        return y[0], coder.affine_inverse(y[1], self._affine(y[0], context))

    def _affine(self, x1: Tensor, context: Tensor | None) -> Affine:
        output = self.net(_as_input(self.net, x1), context).double()
        raw, shift = output.unflatten(-1, (-1, 2)).unbind(-1)
        log_scale = self.bound * exact.function("tanh", raw / self.bound)
        return Affine(exact.function("exp", log_scale), shift)


class GaussianAffineCoupling(Flow):
    """y2 = (x2 - mu(x1)) / sigma(x1), sigma = exp(s) + 1e-6.

    The special affine layer of VFlow's small models (Chen et al., 2020, Tables 5 and 6), where x1
    is z and x2 the data: seen backwards, the data are Gaussian given z.

    Args:
        net: Network [B, H, W, C1] -> [B, H, W, 2 C2], element-major: each element's mu and s side
            by side.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def _mean_and_sigma(self, x1: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self.net(x1, context).unflatten(-1, (-1, 2)).unbind(-1)
        return mean, log_sigma.exp() + SIGMA_FLOOR

    def forward(self, x: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Whiten the second half."""
        mean, sigma = self._mean_and_sigma(x[0], context)
        return (x[0], (x[1] - mean) / sigma), -sigma.log().flatten(1).sum(1)

    def inverse(self, y: Halves, context: Tensor | None = None) -> tuple[Halves, Tensor]:
        """Colour the second half again."""
        mean, sigma = self._mean_and_sigma(y[0], context)
        return (y[0], y[1] * sigma + mean), sigma.log().flatten(1).sum(1)

    def code(self, x: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`forward` of whole numbers."""
        return x[0], coder.affine(x[1], self._affine(x[0], context))

    def code_inverse(self, y: Halves, coder: Coder, context: Tensor | None = None) -> Halves:
        """`inverse` of whole numbers."""
        return y[0], coder.affine_inverse(y[1], self._affine(y[0], context))

    def _affine(self, x1: Tensor, context: Tensor | None) -> Affine:
        output = self.net(_as_input(self.net, x1), context).double()
        mean, log_sigma = output.unflatten(-1, (-1, 2)).unbind(-1)
        sigma = exact.function("exp", log_sigma) + SIGMA_FLOOR
        return Affine(1 / sigma, -mean / sigma)


def _as_input(net: nn.Module, x: Tensor) -> Tensor:
    """Whole numbers as a network takes them."""
    return to_float(x, next(net.parameters()).dtype)
