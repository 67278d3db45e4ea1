"""Builders: one file and one registration for each kind of flow, posterior and dequantizer."""

from vflow.models.builders.base import (
    DEQUANTIZERS,
    FLOWS,
    POSTERIORS,
    DequantizerSpec,
    FlowSpec,
    PosteriorSpec,
)
from vflow.models.builders.conditional import (
    FlowDequantizerSpec,
    FlowPosteriorSpec,
    GaussianPosteriorSpec,
    NormalPosteriorSpec,
    UniformDequantizerSpec,
)
from vflow.models.builders.flowpp import FlowppSpec
from vflow.models.builders.glow import GlowSpec
from vflow.models.builders.residual import ResidualSpec
from vflow.models.builders.vectors import (
    VectorGlowPosteriorSpec,
    VectorGlowSpec,
    VectorResidualSpec,
)

__all__ = [
    "DEQUANTIZERS",
    "FLOWS",
    "POSTERIORS",
    "DequantizerSpec",
    "FlowDequantizerSpec",
    "FlowPosteriorSpec",
    "FlowSpec",
    "FlowppSpec",
    "GaussianPosteriorSpec",
    "GlowSpec",
    "NormalPosteriorSpec",
    "PosteriorSpec",
    "ResidualSpec",
    "UniformDequantizerSpec",
    "VectorGlowPosteriorSpec",
    "VectorGlowSpec",
    "VectorResidualSpec",
]
