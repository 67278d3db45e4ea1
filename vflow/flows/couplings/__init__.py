"""Couplings: one file and one registration each."""

from vflow.flows.couplings.affine import AffineCoupling, AffineSpec
from vflow.flows.couplings.base import COUPLINGS, Coupling, CouplingSpec
from vflow.flows.couplings.gaussian import GaussianAffineCoupling, GaussianSpec
from vflow.flows.couplings.mixlogistic import MixLogisticCoupling, MixLogisticSpec

__all__ = [
    "COUPLINGS",
    "AffineCoupling",
    "AffineSpec",
    "Coupling",
    "CouplingSpec",
    "GaussianAffineCoupling",
    "GaussianSpec",
    "MixLogisticCoupling",
    "MixLogisticSpec",
]
