"""What bench/ops.py times: each operation at the paper's sizes, written in the ways one would.

Candidates of a case:

    eager      the definition in plain PyTorch, differentiated by autograd
    compile    torch.compile of it
    reference  vflow's own plain PyTorch, with its gradient by hand
    bisection  of the inverse: 200 bisections, as the authors' code does
    vflow      what this machine chooses, or the backend asked for
    triton, cuda
               in place of that on a GPU: the backends that are there and have the operation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.ops.inputs import (
    plain_actnorm_conv1x1,
    plain_concat_elu,
    plain_gated_residual_norm,
    plain_mixlogistic,
    plain_self_attention,
)
from vflow import ops
from vflow.ops import backend
from vflow.ops.reference.conv3x3 import convolve

BISECTIONS = 200
BATCH = 64
# Halves of the images in the couplings: [H, W, C] of the checkerboard and the channel split at
# 32x32, then at 16x16. Elements and so the cost of mixlogistic are the same in all four.
HALVES = ((32, 16, 6), (32, 32, 3), (16, 8, 24), (16, 16, 12))
HEADS = 4
DROPOUT = 0.2
PRESETS = {"vflow-cifar10": (32, 96), "vflow-4m-c6": (4, 32)}  # components, filters

GPU_BACKENDS = ("triton", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation at one size, in one direction."""

    operation: str
    size: str
    kind: str
    numbers: int
    """Read and written by an implementation that touches every number once a pass."""
    inputs: Callable[[str], tuple[Tensor, ...]]
    """Device -> inputs, of float32."""
    ours: Callable[..., Any]
    plain: Callable[..., Any] | None = None

    def name(self, candidate: str) -> str:
        """A readable test id."""
        return f"{self.operation}, {self.size}, {self.kind}, {candidate}"

    def candidates(self, device: str) -> list[str]:
        """The names of what is timed, the baselines first."""
        ours = self._ours(device)
        if self.kind == "inverse":
            first = ["bisection"] if self.operation == "mixlogistic" else []
            return [*first, "reference", *ours]
        return ["eager", "compile", "reference", *ours]

    def _ours(self, device: str) -> list[str]:
        if device != "cuda":
            return ["vflow"]
        there = backend.describe()[self.operation]
        return [name for name in GPU_BACKENDS if there[name] == "available"] or ["vflow"]

    def call(self, candidate: str, device: str, dtype: torch.dtype = torch.float32) -> Call:
        """What to time, on fresh inputs that are the same for every candidate."""
        torch.manual_seed(0)
        inputs = tuple(t.to(dtype) for t in self.inputs(device))
        function = {
            "eager": self.plain,
            "compile": self.plain and torch.compile(self.plain, dynamic=False),
            "bisection": partial(bisection_inverse, squash=True),
        }.get(candidate, self.ours)
        assert function is not None
        if self.kind == "forward + backward":
            return _with_gradients(function, inputs)

        def forward() -> Any:
            with torch.no_grad():
                return function(*inputs)

        return forward


def cases() -> Iterator[Case]:
    """Every case."""
    for preset, (components, filters) in PRESETS.items():
        half = HALVES[0]
        params = (2 + 3 * components) * math.prod(half)
        size = f"{preset} {_text(half)}, K {components}"
        make = partial(_mixture, half, components)
        mixture = partial(Case, operation="mixlogistic", size=size, inputs=make)
        x = math.prod(half)
        yield from _directions(
            mixture, ops.mixlogistic, plain_mixlogistic, x + params, x, x + params
        )
        yield mixture(
            kind="inverse",
            numbers=BATCH * (2 * x + params),
            inputs=partial(_transformed, half, components),
            ours=ops.mixlogistic_inverse,
        )
        features = partial(Case, size=f"{preset} {_text((*half[:2], filters))}")
        numbers = half[0] * half[1] * filters
        yield from _directions(
            partial(
                features, operation="gated_residual_norm", inputs=partial(_gated, half, filters)
            ),
            ops.gated_residual_norm,
            plain_gated_residual_norm,
            3 * numbers,
            numbers,
            3 * numbers,
        )
        yield from _directions(
            partial(features, operation="concat_elu", inputs=partial(_features, half, filters)),
            ops.concat_elu,
            plain_concat_elu,
            numbers,
            2 * numbers,
            numbers,
        )
        yield from _directions(
            partial(
                features, operation="concat_elu_dropout", inputs=partial(_features, half, filters)
            ),
            partial(ops.concat_elu, dropout=DROPOUT),
            plain_concat_elu_with_dropout,
            numbers,
            2 * numbers,
            numbers,
        )
        yield from _directions(
            partial(features, operation="dropout", inputs=partial(_features, half, filters)),
            partial(ops.dropout, dropout=DROPOUT),
            partial(functional.dropout, p=DROPOUT),
            numbers,
            numbers,
            0,
        )
        attention = partial(
            Case,
            operation="self_attention",
            size=f"{preset} {half[0] * half[1]} positions, {HEADS} heads of {filters // HEADS}",
            inputs=partial(_attention, half, filters),
        )
        yield from _directions(
            attention, ops.self_attention, plain_self_attention, 3 * numbers, numbers, 3 * numbers
        )
        convolution = partial(
            Case,
            operation="conv3x3",
            size=f"{preset} {_text(half[:2])}, {2 * filters} to {filters} channels",
            inputs=partial(_windows, half, filters),
        )
        yield from _directions(
            convolution, ops.conv3x3, convolve, 2 * numbers, numbers, 2 * numbers
        )
    for half in HALVES:
        x = math.prod(half)
        actnorm = partial(
            Case,
            operation="actnorm_conv1x1",
            size=f"both {_text(half)}",
            inputs=partial(_actnorm, half),
        )
        yield from _directions(actnorm, ops.actnorm_conv1x1, plain_actnorm_conv1x1, x, x, x)
        yield actnorm(kind="inverse", numbers=BATCH * 2 * x, ours=ops.actnorm_conv1x1_inverse)


def plain_concat_elu_with_dropout(x: Tensor) -> Tensor:
    """PyTorch's own dropout, of its own generator."""
    return functional.dropout(plain_concat_elu(x), DROPOUT)


def bisection_inverse(y: Tensor, params: Tensor, squash: bool = True) -> Tensor:
    """The inverse as the authors' code does it: 200 bisections in eager mode."""
    components = (params.shape[-1] - 2) // 3
    logits, means, log_scales = params[..., 2:].split(components, dim=-1)
    log_scales = log_scales.clamp_min(-7)
    log_weight, inv_scale = logits.log_softmax(-1), (-log_scales).exp()
    target = torch.sigmoid((y - params[..., 1]) * (-params[..., 0].tanh()).exp())
    cdf = (target - 0.05) / 0.9 if squash else target
    log_cdf = cdf.clamp(1e-6, 1 - 1e-6).log()
    reach = 20 * log_scales.exp().sum(-1, keepdim=True)
    low, high = (means - reach).amin(-1), (means + reach).amax(-1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        z = (middle[..., None] - means) * inv_scale
        above = torch.logsumexp(log_weight + torch.nn.functional.logsigmoid(z), -1) > log_cdf
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _directions(
    case: Callable[..., Case],
    ours: Callable[..., Any],
    plain: Callable[..., Any],
    inputs: int,
    outputs: int,
    differentiable: int,
) -> Iterator[Case]:
    """Forward alone, and with backward, which reads it all again and writes the gradients."""
    forward, both = inputs + outputs, 2 * (inputs + outputs) + differentiable
    yield case(kind="forward", numbers=BATCH * forward, ours=ours, plain=plain)
    yield case(kind="forward + backward", numbers=BATCH * both, ours=ours, plain=plain)


def _with_gradients(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Call:
    leaves = tuple(t.requires_grad_() for t in inputs)
    # With gradients: without them a compiled function would be compiled once more.
    cotangents = [torch.randn_like(r) for r in _outputs(function(*leaves))]

    def step() -> Any:
        return torch.autograd.grad(_outputs(function(*leaves)), leaves, cotangents)

    return step


def _outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _mixture(half: tuple[int, ...], components: int, device: str) -> tuple[Tensor, ...]:
    shape = (BATCH, *half)
    params = torch.randn(*shape, 2 + 3 * components, device=device)
    return torch.randn(shape, device=device), params


def _transformed(half: tuple[int, ...], components: int, device: str) -> tuple[Tensor, ...]:
    x, params = _mixture(half, components, device)
    return ops.mixlogistic(x, params)[0], params


def _windows(half: tuple[int, ...], filters: int, device: str) -> tuple[Tensor, ...]:
    weight = torch.randn(filters, 2 * filters, 3, 3, device=device) * 0.05
    x = torch.randn(BATCH, *half[:2], 2 * filters, device=device)
    return x, weight.to(memory_format=torch.channels_last), torch.randn(filters, device=device)


def _features(half: tuple[int, ...], filters: int, device: str) -> tuple[Tensor, ...]:
    return (torch.randn(BATCH, *half[:2], filters, device=device),)


def _attention(half: tuple[int, ...], filters: int, device: str) -> tuple[Tensor, ...]:
    shape = (BATCH, half[0] * half[1], 3, HEADS, filters // HEADS)
    return (torch.randn(shape, device=device),)


def _gated(half: tuple[int, ...], filters: int, device: str) -> tuple[Tensor, ...]:
    (x,) = _features(half, filters, device)
    (ab,) = _features(half, 2 * filters, device)
    return x, ab, torch.rand(filters, device=device), torch.randn(filters, device=device)


def _actnorm(half: tuple[int, ...], device: str) -> tuple[Tensor, ...]:
    x, bias = torch.randn(BATCH, *half, device=device), torch.randn(half, device=device)
    scale = 0.5 + torch.rand(half, device=device)
    weight = torch.eye(half[-1], device=device) + 0.1 * torch.randn(
        half[-1], half[-1], device=device
    )
    return x, scale, bias, weight
