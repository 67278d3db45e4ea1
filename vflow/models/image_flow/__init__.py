"""The public API of an image model: a `Dequantized` density, NCHW outside, its checks and modes.

A file a subject: `parts`, `initialized`, `likelihoods`, `sampling`, `settings`.
"""

from __future__ import annotations

from typing import Any

from vflow.models.image_flow.likelihoods import Likelihoods
from vflow.models.image_flow.sampling import Sampling
from vflow.models.image_flow.settings import Settings

__all__ = ["ImageFlow"]


class ImageFlow(Likelihoods, Sampling, Settings):
    """A likelihood-based model of uint8 images [B, C, H, W].

    Log-likelihoods are of the discrete images, in nats an image; bits/dim counts the data
    dimensions only. Noise may be given, or a `torch.Generator` to draw it from.

    A model in training mode initialises itself on the first batch `elbo` sees, if its parameters
    are still those it was made with. In a process group every process has to come to its first
    batch, then: all take the parameters that rank 0 finds from its own images.
    """

    def widen(self, extra_dims: int, posterior: Any = "normal") -> Any:
        """A VFlow of this model, trained or not, whose bound is this model's (Theorem 1, App. A).

        See `vflow.VFlow.from_flow`, whose arguments, result and errors it shares.
        """
        from vflow.models.widening import widen  # which makes models

        return widen(self, extra_dims, posterior=posterior)

    def widen_networks(self, copies: int = 2, *, seed: int = 0) -> Any:
        """This model, trained or not, with wider networks in its couplings (Chen et al., 2016).

        It gives what this one gives, up to rounding, and has more to learn with: training goes on
        from where it was, as `--init-from` does with a saved model.

        Args:
            copies: What every network's filters are multiplied by.
            seed: How the weights that read a copied channel are shared out, unevenly, so that the
                copies learn to differ.

        Returns:
            A model of the same class, precision and device, which shares no memory with this one.

        Raises:
            ValueError: If the model has no networks of Flow++'s kind.
        """
        from vflow.models.wider_networks import widen_networks  # which makes models

        return widen_networks(self, copies, seed)
