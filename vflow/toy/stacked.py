"""Several models of one architecture, trained as one: every product is a batched one.

At the toy study's sizes a step's cost is the calls it makes, not their arithmetic. So the models of
an experiment's seeds share each call, their parameters and gradients lie in two matrices, and the
gradient of the bound is written out: it needs no graph and no log-determinant, only the inverse of
the linear layers. Tests hold it against the library's models and their autograd.

In the shapes S is the number of models and D the dimensions of a layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from vflow.densities import log_mean_exp
from vflow.densities.bases import LOG_2PI
from vflow.flows.couplings import AffineSpec
from vflow.models import Glow, VectorVFlow

Model = Glow | VectorVFlow
LOG_SCALE_BOUND = 4.0  # of the affine couplings, as VectorGlowSpec has it


@dataclass(frozen=True)
class Step:
    """One step's parameters, or their gradients, of all models; views of a matrix [S, N]."""

    scale: Tensor  # [S, 1, D]
    bias: Tensor  # [S, 1, D]
    weight: Tensor  # [S, D, D]
    linears: list[tuple[Tensor, Tensor]]  # of the coupling's network: [S, out, in], [S, 1, out]
    negative_slope: float  # of its leaky ReLU


@dataclass(frozen=True)
class Saved:
    """What a step's gradient needs of its forward pass."""

    x: Tensor  # [S, B, D]
    normed: Tensor  # [S, B, D]
    second: Tensor  # [S, B, D - D // 2], before the coupling
    inputs: list[Tensor]  # of each linear layer
    squashed: Tensor  # [S, B, D - D // 2], log-scale / bound
    scales: Tensor  # [S, B, D - D // 2]


class Stack:
    """S models of one architecture, as matrices of parameters and gradients [S, N].

    Args:
        models: `Glow`s, or `VectorVFlow`s of Glow steps; their parameters are copied.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.template = models[0]
        config = self.template.config
        self.dims, self.extra_dims, posterior_steps = config.dims, 0, 0
        assert config.flow.kind == "vector-glow"
        assert config.flow.coupling == AffineSpec(bound=LOG_SCALE_BOUND)
        if config.augment is not None:
            self.extra_dims, posterior_steps = config.extra_dims, config.posterior_steps
        self.parameters = torch.stack([parameters_to_vector(m.parameters()) for m in models])
        self.parameters = self.parameters.detach().clone()
        self.gradient = torch.zeros_like(self.parameters)
        total, size = self.dims + self.extra_dims, (config.hidden, config.layers)
        shapes = [_shapes(total, 0, *size)] * config.steps
        shapes += [_shapes(self.extra_dims, self.dims, *size)] * posterior_steps
        slope = config.negative_slope
        steps = _views(self.parameters, shapes, slope)
        gradients = _views(self.gradient, shapes, slope)
        self.steps, self.posterior = steps[: config.steps], steps[config.steps :]
        self._gradients, self._posterior_gradients = (
            gradients[: config.steps],
            gradients[config.steps :],
        )

    def __len__(self) -> int:
        return len(self.parameters)

    def models(self) -> list[Model]:
        """The models, one of the library's for each row."""
        found = []
        for row in self.parameters:
            model = type(self.template)(self.template.config).to(row)
            vector_to_parameters(row.clone(), model.parameters())
            found.append(model.eval())
        return found

    @torch.no_grad()
    def elbo(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """The bound of every model, or a Glow's log-likelihood; nats.

        Args:
            x: [S, B, Dx].
            eps: Noise of q(z|x), [S, B, Dz]; None for Glow.

        Returns:
            [S, B].
        """
        log_q: Tensor | float = 0.0
        if eps is not None:
            z, logdet = _chain(self.posterior, eps, x)
            log_q = _normal_log_prob(eps) - logdet
            x = torch.cat([x, z], -1)
        latent, logdet = _chain(self.steps, x, None)
        return _normal_log_prob(latent) + logdet - log_q

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, samples: int, generator: torch.Generator, rows: int = 1 << 14
    ) -> Tensor:
        """log p(x) by importance sampling, as `VectorVFlow.log_prob`; a Glow's is exact.

        Args:
            x: [S, B, Dx].
            samples: Importance samples a point.
            generator: Where their noise is drawn from.
            rows: Rows a model evaluates at once, which bounds the memory.

        Returns:
            [S, B], nats.
        """
        if not self.extra_dims:
            return torch.cat([self.elbo(part) for part in x.split(rows, 1)], 1)

        def bound(points: Tensor, _: range) -> Tensor:
            repeated = points.movedim(0, 1)
            shape = (*repeated.shape[:2], self.extra_dims)
            eps = torch.randn(shape, generator=generator, dtype=x.dtype)
            return self.elbo(repeated, eps).movedim(0, 1)

        parts = x.movedim(1, 0).split(max(1, rows // samples))
        found = [log_mean_exp(bound, part, samples)[1] for part in parts]
        return torch.cat(found).movedim(0, 1).to(x.dtype)

    @torch.no_grad()
    def backward(self, x: Tensor, eps: Tensor | None = None, draws: int = 1) -> None:
        """Write into `gradient` that of minus the batch's mean bound.

        The bound of a point is the importance-weighted one (Burda et al., 2016): the logarithm of
        the mean of exp(`elbo`) over its draws. With one draw it is the ELBO.

        Args:
            x: [S, B, Dx], for draws of a point B / draws rows apart.
            eps: As for `elbo`.
            draws: Rows of each point, one a draw of its noise.
        """
        points = x.shape[1] // draws
        saved_posterior = []
        if eps is not None:
            z = eps
            for step in self.posterior:
                z, saved = _forward(step, z, x)
                saved_posterior.append(saved)
            x = torch.cat([x, z], -1)
        saved_steps = []
        for step in self.steps:
            x, saved = _forward(step, x, None)
            saved_steps.append(saved)
        # Of the loss with respect to each row's log-determinant, those of p and of q.
        share = x.new_full((1, 1, 1), -1 / points)
        if draws > 1 and eps is not None:
            share = share * _weights(x, eps, [*saved_posterior, *saved_steps], draws)
        grad = -share * x
        inverses = _inverses(self.steps)
        for index in reversed(range(len(self.steps))):
            step, into = self.steps[index], self._gradients[index]
            grad = _backward(grad, share, step, saved_steps[index], into, inverses[index])
        if saved_posterior:
            grad = grad[..., self.dims :]
            inverses = _inverses(self.posterior)
            for index in reversed(range(len(self.posterior))):
                step, into = self.posterior[index], self._posterior_gradients[index]
                grad = _backward(grad, share, step, saved_posterior[index], into, inverses[index])

    @torch.no_grad()
    def paths(self, latent: Tensor) -> list[Tensor]:
        """Samples on their way from the latent to the data: after each step's inverse.

        Args:
            latent: [S, B, Dx + Dz].

        Returns:
            One [S, B, Dx + Dz] more than steps; the latent comes first, the samples last.
        """
        found = [latent]
        for step in reversed(self.steps):
            found.append(_inverse(step, found[-1]))
        return found


def _shapes(dims: int, context_dims: int, hidden: int, layers: int) -> list[tuple[int, ...]]:
    """Shapes of one step's parameters, in the order of the library's `parameters()`."""
    kept = dims // 2
    widths = [kept + context_dims, *[hidden] * layers, 2 * (dims - kept)]
    shapes: list[tuple[int, ...]] = [(dims,), (dims,), (dims, dims)]
    for first, second in itertools.pairwise(widths):
        shapes += [(second, first), (second,)]
    return shapes


def _views(matrix: Tensor, steps: list[list[tuple[int, ...]]], slope: float) -> list[Step]:
    found, start = [], 0
    for shapes in steps:
        views = []
        for shape in shapes:
            size = math.prod(shape)
            view = matrix[:, start : start + size].unflatten(1, shape)
            views.append(view.unsqueeze(1) if len(shape) == 1 else view)
            start += size
        scale, bias, weight, *linears = views
        pairs = list(zip(linears[::2], linears[1::2], strict=True))
        found.append(Step(scale, bias, weight, pairs, slope))
    assert start == matrix.shape[1]
    return found


def _normal_log_prob(eps: Tensor) -> Tensor:
    return -0.5 * (eps.square() + LOG_2PI).sum(-1)


def _weights(latent: Tensor, eps: Tensor, steps: list[Saved], draws: int) -> Tensor:
    """Each row's share in its point's bound, [S, B, 1]; what all rows have in common drops out."""
    logdet = sum(LOG_SCALE_BOUND * saved.squashed.sum(-1) for saved in steps)
    elbo = _normal_log_prob(latent) - _normal_log_prob(eps) + logdet
    return elbo.unflatten(1, (draws, -1)).softmax(1).flatten(1).unsqueeze(-1)


def _inverses(steps: list[Step]) -> Tensor:
    """The inverse of every linear layer, [len(steps), S, D, D], by one call."""
    return torch.linalg.inv_ex(torch.stack([step.weight for step in steps])).inverse


def _chain(steps: list[Step], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """The steps' output [S, B, D] and log-determinant [S, B]."""
    total = x.new_zeros(x.shape[:2])
    for step in steps:
        x, saved = _forward(step, x, context)
        linear = torch.linalg.slogdet(step.weight).logabsdet + step.scale.log().sum((1, 2))
        total = total + LOG_SCALE_BOUND * saved.squashed.sum(-1) + linear.unsqueeze(1)
    return x, total


def _network(step: Step, first: Tensor, context: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """The inputs of each linear layer, and the output [S, B, D2, 2]."""
    x = first if context is None else torch.cat([first, context], -1)
    inputs = [x]
    for weight, bias in step.linears[:-1]:
        hidden = torch.baddbmm(bias, inputs[-1], weight.mT)
        inputs.append(nn.functional.leaky_relu_(hidden, step.negative_slope))
    weight, bias = step.linears[-1]
    return inputs, torch.baddbmm(bias, inputs[-1], weight.mT).unflatten(-1, (-1, 2))


def _forward(step: Step, x: Tensor, context: Tensor | None) -> tuple[Tensor, Saved]:
    normed = torch.addcmul(step.bias, x, step.scale)
    mixed = torch.bmm(normed, step.weight)
    kept = x.shape[-1] // 2
    first, second = mixed[..., :kept], mixed[..., kept:]
    inputs, output = _network(step, first, context)
    raw, shift = output.unbind(-1)
    squashed = torch.tanh(raw / LOG_SCALE_BOUND)
    scales = torch.exp(LOG_SCALE_BOUND * squashed)
    y = torch.cat([first, torch.addcmul(shift, second, scales)], -1)
    return y, Saved(x, normed, second, inputs, squashed, scales)


def _backward(
    grad: Tensor, share: Tensor, step: Step, saved: Saved, out: Step, inverse: Tensor
) -> Tensor:
    """Write the gradient of a step's parameters into `out`; return that of its input [S, B, D].

    Args:
        grad: Of the loss with respect to the step's output [S, B, D].
        share: Of the loss with respect to each row's log-determinant, [S, B, 1] or [1, 1, 1].
        step: The parameters.
        saved: Of the forward pass.
        out: Where the gradients go.
        inverse: Of the step's weight [S, D, D].
    """
    kept = grad.shape[-1] // 2
    grad_second = grad[..., kept:]
    grad_mixed = grad_second * saved.scales
    grad_log_scale = torch.addcmul(share, grad_mixed, saved.second)
    # tanh's slope is 1 - tanh^2.
    squashed = saved.squashed
    grad_raw = torch.addcmul(grad_log_scale, grad_log_scale * squashed, squashed, value=-1)
    flowing = torch.stack([grad_raw, grad_second], -1).flatten(-2)
    for index in range(len(step.linears) - 1, -1, -1):
        into, (grad_weight, grad_bias) = saved.inputs[index], out.linears[index]
        torch.bmm(flowing.mT, into, out=grad_weight)
        torch.sum(flowing, 1, True, out=grad_bias)
        flowing = torch.bmm(flowing, step.linears[index][0])
        if index:
            # The layer's output has the sign of its input, and stands for it.
            flowing = torch.ops.aten.leaky_relu_backward(flowing, into, step.negative_slope, True)
    grad_y = torch.cat([grad[..., :kept] + flowing[..., :kept], grad_mixed], -1)
    # The log-determinants of the linear layer and of ActNorm are the same for all rows: the batch's
    # shares add up to -1.
    torch.bmm(saved.normed.mT, grad_y, out=out.weight)
    out.weight.sub_(inverse.mT)
    grad_normed = torch.bmm(grad_y, step.weight.mT)
    torch.sum(grad_normed * saved.x, 1, True, out=out.scale)
    out.scale.sub_(step.scale.reciprocal())
    torch.sum(grad_normed, 1, True, out=out.bias)
    return grad_normed * step.scale


def _inverse(step: Step, y: Tensor) -> Tensor:
    kept = y.shape[-1] // 2
    first, second = y[..., :kept], y[..., kept:]
    raw, shift = _network(step, first, None)[1].unbind(-1)
    log_scale = LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND)
    mixed = torch.cat([first, (second - shift) * torch.exp(-log_scale)], -1)
    return (torch.linalg.solve(step.weight, mixed, left=False) - step.bias) / step.scale
