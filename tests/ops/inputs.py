"""Inputs of every operation, and a mixture of logistics written down a second time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vflow import ops
from vflow.ops.checks import logdet_dtype
from vflow.ops.concat_elu import _concat_elu_dropout
from vflow.ops.dropout import _dropout
from vflow.ops.reference.dropout import dropout_factors

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Case(NamedTuple):
    function: Callable
    make: Callable[[int, torch.dtype], tuple[Tensor, ...]]  # (batch, dtype) -> inputs
    plain: Callable | None = None  # the same by its definition, differentiated by autograd
    extra: tuple[Any, ...] = ()  # what the operator takes after these inputs


def mixture_inputs(
    batch: int, dtype: torch.dtype, shape: tuple[int, ...] = (3, 2), components: int = 3
) -> tuple[Tensor, ...]:
    x = 2 * torch.randn(batch, *shape, dtype=torch.float64)
    params = torch.randn(batch, *shape, 2 + 3 * components, dtype=torch.float64)
    return x.to(dtype), params.to(dtype)


def actnorm_inputs(
    batch: int, dtype: torch.dtype, shape: tuple[int, ...] = (2, 3, 4)
) -> tuple[Tensor, ...]:
    x, bias = torch.randn(batch, *shape), torch.randn(shape)
    scale, weight = (
        0.5 + torch.rand(shape),
        torch.randn(shape[-1], shape[-1]) + 2 * torch.eye(shape[-1]),
    )
    return tuple(t.to(dtype) for t in (x, scale, bias, weight))


def gated_inputs(batch: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, ab, weight, bias = (
        torch.randn(batch, 3, 5),
        torch.randn(batch, 3, 10),
        torch.randn(5),
        torch.randn(5),
    )
    return tuple(t.to(dtype) for t in (x, ab, weight, bias))


def plain_mixlogistic(x: Tensor, params: Tensor, squash: bool = True) -> tuple[Tensor, Tensor]:
    """The transform by its definition, in log space throughout, differentiated by autograd."""
    components = (params.shape[-1] - 2) // 3
    logits, means, log_scales = params[..., 2:].split(components, dim=-1)
    a, b = params[..., 0].tanh(), params[..., 1]
    log_scales = log_scales.clamp_min(-7)
    z = (x[..., None] - means) * (-log_scales).exp()
    log_weight = logits.log_softmax(-1)
    log_cdf = torch.logsumexp(log_weight + functional.logsigmoid(z), -1)
    log_survival = torch.logsumexp(log_weight + functional.logsigmoid(-z), -1)
    log_density = torch.logsumexp(
        log_weight - log_scales + functional.logsigmoid(z) + functional.logsigmoid(-z), -1
    )
    log_u, log_v, log_span = log_cdf, log_survival, 0.0
    if squash:
        log_u, log_v = (0.05 + 0.9 * log_cdf.exp()).log(), (0.05 + 0.9 * log_survival.exp()).log()
        log_span = math.log(0.9)
    ldj = log_density + log_span - log_u - log_v + a
    return (log_u - log_v) * a.exp() + b, ldj.flatten(1).sum(1)


def plain_actnorm_conv1x1(
    x: Tensor, scale: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    scale = scale.clamp_min(1e-10)
    matrix = weight.to(logdet_dtype(weight.dtype))  # PyTorch has no slogdet of half types
    logdet = scale.log().sum() + scale[..., 0].numel() * torch.linalg.slogdet(matrix).logabsdet
    return (x * scale + bias) @ weight, logdet.expand(x.shape[0])


def plain_gated_residual_norm(x: Tensor, ab: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    a, b = ab.chunk(2, dim=-1)
    return functional.layer_norm(x + a * torch.sigmoid(b), weight.shape, weight, bias, 1e-5)


def plain_concat_elu(x: Tensor) -> Tensor:
    return functional.elu(torch.cat([x, -x], dim=-1))


SEED = torch.tensor([0x9E3779B9, 0xF0000001])
DROPOUT = 0.3


def dropout_of_a_seed(x: Tensor) -> Tensor:
    """`dropout`, which draws its seed, with one that is given."""
    return _dropout(x, SEED.to(x.device), DROPOUT)


def plain_dropout(x: Tensor) -> Tensor:
    return x * dropout_factors(x, SEED.to(x.device), DROPOUT)


def concat_elu_dropout_of_a_seed(x: Tensor) -> Tensor:
    """`concat_elu` with dropout, which draws its seed, with one that is given."""
    return _concat_elu_dropout(x, SEED.to(x.device), DROPOUT)


def plain_concat_elu_dropout(x: Tensor) -> Tensor:
    halves = plain_concat_elu(x).unflatten(-1, (2, x.shape[-1]))
    return plain_dropout(halves).flatten(-2)


def plain_self_attention(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(1, 2)


def plain_conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # [B, H, W, in, 3, 3]
    return torch.einsum("bhwiyx,oiyx->bhwo", windows, weight) + bias


def conv3x3_inputs(batch: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    shapes = (batch, 6, 8, 16), (17, 16, 3, 3), (17,)
    return tuple((0.3 * torch.randn(shape)).to(dtype) for shape in shapes)


DIFFERENTIABLE = {
    "mixlogistic": Case(ops.mixlogistic, mixture_inputs, plain_mixlogistic, extra=(True,)),
    "mixlogistic one component": Case(
        ops.mixlogistic,
        lambda b, d: mixture_inputs(b, d, components=1),
        plain_mixlogistic,
        extra=(True,),
    ),
    "mixlogistic without squash": Case(
        partial(ops.mixlogistic, squash=False),
        mixture_inputs,
        partial(plain_mixlogistic, squash=False),
        extra=(False,),
    ),
    "actnorm_conv1x1 images": Case(ops.actnorm_conv1x1, actnorm_inputs, plain_actnorm_conv1x1),
    "actnorm_conv1x1 vectors": Case(
        ops.actnorm_conv1x1, lambda b, d: actnorm_inputs(b, d, shape=(3,)), plain_actnorm_conv1x1
    ),
    "gated_residual_norm": Case(ops.gated_residual_norm, gated_inputs, plain_gated_residual_norm),
    "concat_elu": Case(
        ops.concat_elu, lambda b, d: (torch.randn(b, 3, 4).to(d),), plain_concat_elu
    ),
    "concat_elu_dropout": Case(
        concat_elu_dropout_of_a_seed,
        lambda b, d: (torch.randn(b, 3, 4).to(d),),
        plain_concat_elu_dropout,
        extra=(SEED, DROPOUT),
    ),
    "dropout": Case(
        dropout_of_a_seed,
        lambda b, d: (torch.randn(b, 3, 5).to(d),),
        plain_dropout,
        extra=(SEED, DROPOUT),
    ),
    "self_attention": Case(
        ops.self_attention, lambda b, d: (torch.randn(b, 6, 3, 2, 5).to(d),), plain_self_attention
    ),
    "conv3x3": Case(ops.conv3x3, conv3x3_inputs, plain_conv3x3),
}
INVERSES = {
    "mixlogistic_inverse": Case(ops.mixlogistic_inverse, mixture_inputs, extra=(True,)),
    "mixlogistic_inverse without squash": Case(
        partial(ops.mixlogistic_inverse, squash=False), mixture_inputs, extra=(False,)
    ),
    "actnorm_conv1x1_inverse": Case(ops.actnorm_conv1x1_inverse, actnorm_inputs),
}
ALL = DIFFERENTIABLE | INVERSES


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def gradients(case: Case, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs and gradients for fixed random cotangents."""
    inputs = tuple(t.detach().requires_grad_() for t in inputs)
    results = outputs(case.function(*inputs))
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r) for r in results
    ]
    return [r.detach() for r in results] + list(torch.autograd.grad(results, inputs, weights))
