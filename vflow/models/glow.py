"""Glow for vectors: affine couplings with an MLP, ActNorm, an invertible linear layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from vflow.flows import ActNormConv1x1, AffineCoupling, ChannelSplit, Compose, Flow, Inverse
from vflow.models.config import require_int, require_slope
from vflow.models.steps import draw, normal_log_prob
from vflow.models.vector_flow import VectorFlow
from vflow.nets import MLP

LOG_SCALE_BOUND = 4.0
NEGATIVE_SLOPE = 0.1


@dataclass(frozen=True, kw_only=True)
class GlowConfig:
    """Glow as in VFlow's toy study (Chen et al., 2020, Sec. 5)."""

    dims: int = 2
    """Dimensions D of the variable."""
    steps: int = 3
    """Steps, each an ActNorm, a linear layer and a coupling."""
    context_dims: int = 0
    """Dimensions of what the density is conditioned on; 0 for an unconditional one."""
    hidden: int = 50
    """Width of the couplings' networks."""
    layers: int = 2
    """Hidden layers of the couplings' networks."""
    negative_slope: float = field(default=NEGATIVE_SLOPE, metadata={"before": 0.0})
    """Of the networks' leaky ReLU; 0 for ReLU, whose units die in long training."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        for name in ("dims", "steps", "hidden", "layers"):
            require_int(name, getattr(self, name), 1)
        require_int("context_dims", self.context_dims, 0)
        require_slope("negative_slope", self.negative_slope)
        if self.dims == 1 and self.context_dims == 0:
            raise ValueError("dims must be at least 2 without a context, got 1")


def glow_flow(
    dims: int,
    steps: int,
    *,
    context_dims: int = 0,
    hidden: int,
    layers: int,
    negative_slope: float = NEGATIVE_SLOPE,
) -> Compose:
    """Steps of ActNorm, linear layer and affine coupling on vectors [B, D].

    The linear layers start as random rotations (Kingma & Dhariwal, 2018): it is they that give
    the next coupling other halves, and near the identity all couplings would move the same one.
    """
    kept = dims // 2
    flows: list[Flow] = []
    for _ in range(steps):
        linear = ActNormConv1x1((dims,))
        nn.init.orthogonal_(linear.weight)
        net = MLP(
            kept + context_dims,
            2 * (dims - kept),
            hidden=hidden,
            layers=layers,
            negative_slope=negative_slope,
        )
        split = ChannelSplit(kept)
        flows += [linear, split, AffineCoupling(net, bound=LOG_SCALE_BOUND), Inverse(split)]
    return Compose(flows)


class Glow(VectorFlow):
    """Glow on R^D, or, given a context, a conditional one: it serves as q(z|x) too."""

    config_class = GlowConfig
    config: GlowConfig

    def __init__(self, config: GlowConfig) -> None:
        super().__init__()
        self.config = config
        self.flow = glow_flow(
            config.dims,
            config.steps,
            context_dims=config.context_dims,
            hidden=config.hidden,
            layers=config.layers,
            negative_slope=config.negative_slope,
        )

    def rsample(
        self, context: Tensor | None = None, eps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A differentiable sample and its log-density, as a q(z|x) needs.

        Args:
            context: [B, context_dims].
            eps: Noise [B, D].

        Returns:
            The sample [B, D] and log p(sample | context) [B] in nats.
        """
        if eps is None:
            if context is None:
                raise ValueError("eps must be given where there is no context, got None for both")
            eps = draw((len(context), self.config.dims), self._parameter, None)
        x, logdet = self.decode(eps, context)
        return x, normal_log_prob(eps) - logdet
