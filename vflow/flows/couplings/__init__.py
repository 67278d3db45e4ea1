"""Couplings: one file and one registration each."""

from vflow.flows.couplings.additive import AdditiveCoupling, AdditiveSpec
from vflow.flows.couplings.affine import AffineCoupling, AffineSpec
from vflow.flows.couplings.base import COUPLINGS, Coupling, CouplingSpec
from vflow.flows.couplings.gaussian import GaussianAffineCoupling, GaussianSpec
from vflow.flows.couplings.mixlogistic import MixLogisticCoupling, MixLogisticSpec
from vflow.flows.couplings.sigmoid_affine import SigmoidAffineCoupling, SigmoidAffineSpec
from vflow.flows.couplings.spline import SplineCoupling, SplineSpec

__all__ = [
    "COUPLINGS",
    "AdditiveCoupling",
    "AdditiveSpec",
    "AffineCoupling",
    "AffineSpec",
    "Coupling",
    "CouplingSpec",
    "GaussianAffineCoupling",
    "GaussianSpec",
    "MixLogisticCoupling",
    "MixLogisticSpec",
    "SigmoidAffineCoupling",
    "SigmoidAffineSpec",
    "SplineCoupling",
    "SplineSpec",
]
