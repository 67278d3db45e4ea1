"""Factoring out: channels that leave the flow early, given those that stay (Dinh et al., 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vflow.flows.base import Flow, Shapes
from vflow.flows.embedding import CannotEmbed, Places
from vflow.ops.coder import Affine, Coder, to_float


class FactorOut(Flow):
    """x -> (eps, *rest(h)): h, the first `kept` channels, go on; the others become noise.

    They are Gaussian given h: eps = (z - mean(h)) exp(-log_sigma(h)), so that under a standard
    normal base density log N(eps) and the log-determinant make the learned prior of a multi-scale
    flow (Kingma & Dhariwal, 2018). It stands last in a `Compose`, and holds what follows.

    Args:
        kept: Channels that stay.
        prior: Network h [..., kept] -> [..., 2 (C - kept)], element-major: each element's mean and
            log_sigma side by side. None for z that is noise already.
        rest: The flow of h.
    """

    def __init__(self, kept: int, prior: nn.Module | None, rest: Flow) -> None:
        super().__init__()
        self.kept = kept
        self.prior = prior
        self.rest = rest

    def _mean_and_log_sigma(self, h: Tensor) -> tuple[Tensor, Tensor]:
        assert self.prior is not None
        mean, log_sigma = self.prior(h).unflatten(-1, (-1, 2)).unbind(-1)
        return mean, log_sigma

    def forward(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """x [B, ..., C] -> (eps [B, ..., C - kept], *rest(h)), logdet [B]."""
        h, eps = x[..., : self.kept], x[..., self.kept :]
        y, logdet = self.rest(h, context)
        if self.prior is not None:
            mean, log_sigma = self._mean_and_log_sigma(h)
            eps = (eps - mean) * torch.exp(-log_sigma)
            logdet = logdet - log_sigma.flatten(1).sum(1)
        return (eps, *_as_tuple(y)), logdet

    def inverse(
        self, y: tuple[Tensor, ...], context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(eps, *rest(h)) -> x, logdet [B]."""
        z, *others = y
        h, logdet = self.rest.inverse(others[0] if len(others) == 1 else tuple(others), context)
        if self.prior is not None:
            mean, log_sigma = self._mean_and_log_sigma(h)
            z = z * torch.exp(log_sigma) + mean
            logdet = logdet + log_sigma.flatten(1).sum(1)
        return torch.cat([h, z], dim=-1), logdet

    def code(self, x: Tensor, coder: Coder, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """`forward` of whole numbers: what leaves, then the rest, so that it comes back first."""
        h, eps = x[..., : self.kept], x[..., self.kept :]
        if self.prior is not None:
            eps = coder.affine(eps, self._affine(h))
        return (eps, *_as_tuple(self.rest.code(h, coder, context)))

    def code_inverse(
        self, y: tuple[Tensor, ...], coder: Coder, context: Tensor | None = None
    ) -> Tensor:
        """`inverse` of whole numbers."""
        z, *others = y
        rest = others[0] if len(others) == 1 else tuple(others)
        h = self.rest.code_inverse(rest, coder, context)
        if self.prior is not None:
            z = coder.affine_inverse(z, self._affine(h))
        return torch.cat([h, z], dim=-1)

    def _affine(self, h: Tensor) -> Affine:
        assert self.prior is not None
        real = to_float(h, next(self.prior.parameters()).dtype)
        return Affine.whitening(*self._mean_and_log_sigma(real))

    def output_shape(self, shape: Shapes) -> Shapes:
        """[..., C] -> [..., C - kept] and what `rest` makes of [..., kept]."""
        rest = self.rest.output_shape((*shape[:-1], self.kept))
        return ((*shape[:-1], shape[-1] - self.kept), *(rest if _is_several(rest) else (rest,)))

    def input_shape(self, shape: Shapes) -> Shapes:
        """Back to [..., C]."""
        first, *others = shape
        rest = self.rest.input_shape(others[0] if len(others) == 1 else tuple(others))
        return (*rest[:-1], rest[-1] + first[-1])

    def wanted_places(self, narrow: Any, places: Places) -> Places:
        """The channels that stay, and those that leave, at the start of this layer's."""
        index = [
            channel if channel < narrow.kept else self.kept + channel - narrow.kept
            for channel in range(len(places.channels))
        ]
        return Places(tuple(index), places.total, (0.0,) * places.total)

    def embed(self, narrow: Any, places: Places) -> tuple[Places, ...]:
        """The extra channels that leave are noise already."""
        kept, left = places.channels[: narrow.kept], places.channels[narrow.kept :]
        if any(place >= self.kept for place in kept) or any(p < self.kept for p in left):
            raise CannotEmbed(
                f"FactorOut keeps the first {self.kept} of {places.total} channels, and the "
                f"flow's own are at {list(places.channels)}, of which {narrow.kept} must stay"
            )
        stay = places.part(kept, 0, self.kept)
        leave = places.part(left, self.kept, places.total)
        if self.prior is not None:
            prior: Any = self.prior
            log_sigmas = torch.tensor(leave.log_scales, dtype=torch.float64)
            resting = torch.stack([torch.zeros_like(log_sigmas), log_sigmas], -1)
            prior.embed(narrow.prior, stay, leave, resting)
            leave = Places(leave.channels, leave.total)
        rest = self.rest.embed(narrow.rest, stay)
        return (leave, *((rest,) if isinstance(rest, Places) else rest))


def _as_tuple(y: Any) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def _is_several(shape: Shapes) -> bool:
    return bool(shape) and not isinstance(shape[0], int)
