"""The networks of a Residual Flow's blocks on images: contractions with LipSwish between the maps.

A map's norm is bounded from above, by its weights alone: by repeated squaring of its Gram matrices
(Delattre et al., 2023), those of a convolution one for each frequency (Sedghi et al., 2019). Chen
et al. (2019) take power iteration, which comes from below and has a state that follows the weights;
after a jump of the weights a block may be no contraction, and its inverse no inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vflow.nets.embedding import embed_chain

STEEPEST = 1.1
"""At least the largest slope of Swish, which LipSwish divides by."""
INITIAL_SHARPNESS = 0.5
SQUARINGS = 10
"""Of the Gram matrices: n equal singular values are overestimated by n^(1/2^12), 0.2% for 512."""


class LipSwish(nn.Module):
    """x sigmoid(s x) / 1.1 with a learned s = softplus(sharpness): no slope is above 1."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.full((1,), INITIAL_SHARPNESS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The values and the slopes at x, elementwise."""
        sharpness = F.softplus(self.sharpness)
        gate = torch.sigmoid(sharpness * x)
        slope = gate * (1 + sharpness * x * (1 - gate))
        return x * gate / STEEPEST, slope / STEEPEST


class LipschitzNet(nn.Module):
    """Maps with LipSwish between them, each of spectral norm at or below `coefficient`.

    Args:
        maps: Convolutions or fully connected layers, as `layers`.
        coefficient: The bound on each of them, in (0, 1).
        preactivated: Whether LipSwish comes before the first one too.
    """

    def __init__(
        self, maps: Sequence[nn.Module], *, coefficient: float, preactivated: bool
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)
        self.activations = nn.ModuleList(LipSwish() for _ in range(len(maps) - 1 + preactivated))
        self.preactivated = preactivated
        self.coefficient = coefficient
        self.positions = 1
        """Pixels whose channels stand side by side in what the maps take."""

    def _norm(self, weight: Tensor) -> Tensor:
        """An upper bound [] on the spectral norm of the map with these weights."""
        raise NotImplementedError

    def _apply_map(self, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        """A map on what `_enter` gives."""
        raise NotImplementedError

    def _enter(self, x: Tensor) -> Tensor:
        """Images [N, H, W, C] as the maps take them."""
        raise NotImplementedError

    def _leave(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Images [N, H, W, C] of what the maps give."""
        raise NotImplementedError

    def weights(self) -> list[Tensor]:
        """The maps' weights as they act."""
        return [self._bounded(layer.weight) for layer in self.maps]  # type: ignore[arg-type]

    def _bounded(self, weight: Tensor) -> Tensor:
        norm = self._norm(weight.to(torch.promote_types(weight.dtype, torch.float32)))
        return weight / (norm / self.coefficient).clamp_min(1).to(weight.dtype)

    def forward(self, x: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """x [B, H, W, C] -> g(x) alike; with `weights` of before, they are not bounded again."""
        return self.linearize(x, weights)[0]

    def linearize(
        self, x: Tensor, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The value at x and the Jacobian there, as a map of tangents.

        Args:
            x: [B, H, W, C].
            weights: What `weights()` gives, if it is known.

        Returns:
            g(x) [B, H, W, C], and the function that takes tangents [B, n, H W C] to J(x) times each
            of them.
        """
        weights = self.weights() if weights is None else weights
        shape, slopes = x.shape[1:], []
        value = self._enter(x)
        for index, (layer, weight) in enumerate(zip(self.maps, weights, strict=True)):
            slope = None
            if index or self.preactivated:
                value, slope = self.activations[index - 1 + self.preactivated](value)
            slopes.append(slope)
            value = self._apply_map(value, weight, layer.bias)

        def push(tangents: Tensor) -> Tensor:
            batch, count = tangents.shape[:2]
            moved = self._enter(tangents.reshape(-1, *shape))
            for weight, slope in zip(weights, slopes, strict=True):
                if slope is not None:
                    moved = (moved.unflatten(0, (batch, count)) * slope.unsqueeze(1)).flatten(0, 1)
                moved = self._apply_map(moved, weight, None)
            return self._leave(moved, shape).reshape(batch, count, -1)

        return self._leave(value, shape), push

    def embed(self, narrow: LipschitzNet, places: Any) -> None:
        """Give what `narrow` gives, blind to the extra elements: zeros change no norm.

        Args:
            narrow: The network of fewer channels.
            places: Where its elements are, of all `positions`.
        """
        embed_chain(list(self.maps), list(narrow.maps), places, places, torch.zeros(1))
        self.activations.load_state_dict(narrow.activations.state_dict())


class LipschitzConvNet(LipschitzNet):
    """Convolutions 3x3, 1x1, 3x3.

    Args:
        size: Height and width of the images.
        channels: Channels C.
        width: Channels of the hidden layers.
        coefficient: The bound on each convolution, in (0, 1).
        preactivated: Whether LipSwish comes first.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        *,
        width: int,
        coefficient: float,
        preactivated: bool = True,
    ) -> None:
        maps = [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, channels, 3, padding=1),
        ]
        super().__init__(maps, coefficient=coefficient, preactivated=preactivated)
        self.size = size

    def _norm(self, weight: Tensor) -> Tensor:
        return convolution_norm(weight, self.size)

    def _apply_map(self, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def _enter(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def _leave(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return y.permute(0, 2, 3, 1)


class LipschitzDenseNet(LipschitzNet):
    """Three fully connected layers on all of an image.

    Args:
        shape: Of the images, [H, W, C].
        width: Width of the hidden layers.
        coefficient: The bound on each layer, in (0, 1).
    """

    def __init__(self, shape: tuple[int, ...], *, width: int, coefficient: float) -> None:
        dims = shape[0] * shape[1] * shape[2]
        maps = [nn.Linear(dims, width), nn.Linear(width, width), nn.Linear(width, dims)]
        super().__init__(maps, coefficient=coefficient, preactivated=True)
        self.positions = shape[0] * shape[1]

    def _norm(self, weight: Tensor) -> Tensor:
        return spectral_bound(weight)

    def _apply_map(self, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        return F.linear(x, weight, bias)

    def _enter(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _leave(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return y.reshape(-1, *shape)


def convolution_norm(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """An upper bound [] on the spectral norm of a convolution with zero padding.

    Images with a frame of zeros lie on a torus of two more rows and columns, where the convolution
    is a matrix for each frequency; what is cut from its result makes it no longer.

    Args:
        weight: [out, in, 3, 3] or [out, in, 1, 1].
        size: Height and width of the images.
    """
    if weight.shape[-1] == 1:
        return spectral_bound(weight[..., 0, 0])
    torus = (size[0] + 2, size[1] + 2)
    frequencies = torch.fft.rfft2(weight, s=torus).permute(2, 3, 0, 1).flatten(0, 1)
    return spectral_bound(frequencies).amax()


def spectral_bound(matrices: Tensor) -> Tensor:
    """Upper bounds [...] on the spectral norms of matrices [..., m, n], real or complex.

    The norm of G^k, for a Gram matrix G, is at most the root of the sum of its squares, and the
    larger k, the closer: k is 2 to the `SQUARINGS`.
    """
    wide = matrices.shape[-2] < matrices.shape[-1]
    gram = matrices @ matrices.mH if wide else matrices.mH @ matrices
    log_norm: Tensor | float = 0.0
    for times in range(SQUARINGS + 1):
        if times:
            gram = gram @ gram
        squares = gram.real.square() + gram.imag.square() if gram.is_complex() else gram.square()
        total = squares.sum((-2, -1)).clamp_min(torch.finfo(squares.dtype).tiny)
        log_norm = log_norm + 0.5 * total.log() / 2**times
        gram = gram * total.rsqrt()[..., None, None]
    assert isinstance(log_norm, Tensor)
    return (0.5 * log_norm).exp()
