"""The public API of an image model: a `Dequantized` density, NCHW outside, its checks and modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vflow.densities import ConditionalDensity, Dequantized, Normal, log_mean_exp
from vflow.densities.modes import evaluating
from vflow.flows import Flow, ImageResidualBlock, no_logdet
from vflow.flows.couplings import Coupling
from vflow.flows.elementwise import PIXEL_VALUES
from vflow.models.builders.conditional import PREPROCESSES
from vflow.models.checks import (
    require_count,
    require_float,
    require_images,
    require_temperature,
)
from vflow.models.initialization import (
    a_weight,
    as_made,
    initialize_together,
    warn_if_half_made,
)
from vflow.models.pretrained import Pretrained, take_old_names
from vflow.models.spread import with_spread
from vflow.models.tree import as_model_config, build
from vflow.nets import ContextNetwork, GlowNet, Trunk
from vflow.nets.recompute import take_recompute

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
ROWS_AT_ONCE = 256


class ImageFlow(Pretrained, nn.Module):
    """A likelihood-based model of uint8 images [B, C, H, W].

    Log-likelihoods are of the discrete images, in nats an image; bits/dim counts the data
    dimensions only. Noise may be given, or a `torch.Generator` to draw it from.

    A model in training mode initialises itself on the first batch `elbo` sees, if its parameters
    are still those it was made with. In a process group every process has to come to its first
    batch, then: all take the parameters that rank 0 finds from its own images.
    """

    density: Dequantized
    _initialized: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = as_model_config(config)
        self.register_load_state_dict_pre_hook(take_old_names)
        if not self.config.is_image:
            raise ValueError(f"config must be of images, got data of shape {self.config.shape}")
        self.data_shape = self.config.shape
        self.dims = math.prod(self.data_shape)
        self.register_buffer("_initialized", torch.tensor(False))
        self._is_initialized = False
        self.register_load_state_dict_post_hook(_judge_again)
        density, dequantizer = build(self.config)
        assert dequantizer is not None
        preprocess = PREPROCESSES[self.config.dequantize.preprocess]()
        self.density = Dequantized(density, dequantizer, preprocess)

    # Its parts

    @property
    def dequantizer(self) -> ConditionalDensity:
        """r(u|x)."""
        return self.density.dequantizer

    @property
    def preprocess(self) -> Flow:
        """From [0, 256) to the real line."""
        return self.density.preprocess

    @property
    def posterior(self) -> ConditionalDensity:
        """q(z|x), of a model with extra dimensions."""
        density: Any = self.density.density
        return density.posterior

    @property
    def flow(self) -> Flow:
        """The transform of x and z together."""
        density: Any = self.density.density
        return density.flow if self.config.augment is None else density.density.flow

    # Likelihood

    def forward(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
        eps_trace: Tensor | None = None,
    ) -> Tensor:
        """`elbo`, under the name that DistributedDataParallel and torch.compile call.

        Given `eps_trace`, which `draw_training_noise` draws for models with residual blocks, it is
        an unbiased estimate of the ELBO: a loss, no bound of a single image.
        """
        self._require_images(images)
        noise = self._noise(images, eps_u, eps_z, generator)
        if self.training and not self._is_initialized:
            meet = self._meet_first_batch
            if torch.compiler.is_compiling():  # eager PyTorch would import its compiler for this
                meet = torch.compiler.disable(meet)
            meet(images, noise)
        nhwc = {name: _to_nhwc(value) for name, value in noise.items()}
        if eps_trace is not None:
            nhwc["eps_trace"] = self._checked_trace(eps_trace, len(images))
        return self._elbo(images, **nhwc)[1]

    def elbo(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One-sample evidence lower bound on log P(images) (VFlow, Chen et al., 2020, Eq. 7).

        Differentiable with respect to the parameters. Exact with residual blocks too, from their
        whole Jacobians: on large images `estimate_elbo` is what does not take minutes an image.

        Args:
            images: uint8 [B, C, H, W].
            eps_u: Noise of the dequantizer, [B, C, H, W]; drawn if None.
            eps_z: Noise of q(z|x), [B, Dz, H, W] (VFlow only); drawn if None.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            [B], nats an image.

        Raises:
            ValueError: If an argument has the wrong type or shape.
        """
        return self.forward(images, eps_u, eps_z, generator)

    def _elbo(self, images: Tensor, **noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images NCHW and noise NHWC -> latent NHWC, ELBO [B]."""
        return self.density.encode(_to_nhwc(images), **noise)

    def _latent(self, images: Tensor, noise: dict[str, Tensor]) -> Any:
        """The latent NHWC alone: no log-determinant is made that is dear."""
        nhwc = {name: _to_nhwc(value) for name, value in noise.items()}
        for name in self.density.estimate_shapes():
            nhwc[name] = no_logdet(noise["eps_u"])
        return self._elbo(images, **nhwc)[0]

    @torch.no_grad()
    def estimate_elbo(
        self, images: Tensor, draws: int = 8, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """An unbiased estimate of the expected ELBO and its standard error.

        The mean over draws of all noise, that of the log-determinants of residual blocks included.
        Where a model has none, it is the mean of exact ELBOs. It may lie above log P(images), and
        its exponential is biased upwards: no importance sampling by it. Dropout is off.

        Args:
            images: uint8 [B, C, H, W].
            draws: Draws an image, at least 2.
            generator: Where noise is drawn from; the global one if None.

        Returns:
            The estimate [B] and its standard error [B], nats an image.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        self._require_images(images)
        if require_count("draws", draws) < 2:
            raise ValueError(f"draws must be at least 2 for a standard error, got {draws}")
        with evaluating(self):
            rows = torch.stack(
                [
                    self(images, **self.draw_training_noise(len(images), generator)).double()
                    for _ in range(draws)
                ]
            )
        dtype = self._parameter.dtype
        return rows.mean(0).to(dtype), (rows.std(0) / math.sqrt(draws)).to(dtype)

    def log_prob(
        self,
        images: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """log P(images) by importance sampling (VFlow, Chen et al., 2020, Eq. 5).

        A lower bound in expectation that rises with `samples`; with one it is the ELBO. Dropout
        is off, whatever the model's mode.

        Args:
            images: uint8 [B, C, H, W].
            samples: Number S of importance samples an image.
            chunk: Samples evaluated at once for every image, which bounds the memory; by default
                as many as make 256 rows.
            generator: Where noise is drawn from; the global one if None.
            differentiable: Whether gradients flow to the parameters; then `chunk` bounds nothing.

        Returns:
            [B], nats an image.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        self._require_images(images)
        with evaluating(self), _gradients(differentiable):
            return self._importance_sampled(
                lambda rows, _: self.elbo(rows, generator=generator), images, samples, chunk
            )

    def log_density(
        self,
        values: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """log p(values) of real-valued images: for those who dequantize themselves.

        The density of what `elbo` makes of images, pixels + u, without r(u|x): the mean of
        exp(log_density) over u uniform in [0, 1) is P(images). Exact for a model without extra
        dimensions, else by importance sampling of z, as `log_prob`. Dropout is off.

        Args:
            values: [B, C, H, W] in [0, 256), of the model's floating type.
            samples: Number S of importance samples an image.
            chunk: As for `log_prob`.
            generator: Where z is drawn from; the global one if None.
            differentiable: Whether gradients flow, to the values and to the parameters.

        Returns:
            [B], nats an image; `to_bits_per_dim` turns them to bits/dim.

        Raises:
            ValueError: If an argument is of the wrong type, shape or range.
        """
        require_float("values", values, self.data_shape, like=self._parameter)
        low, high = values.detach().aminmax()
        if not (low >= 0 and high < PIXEL_VALUES):  # NaN is neither
            raise ValueError(
                f"values must lie in [0, {PIXEL_VALUES}), got {low:g} to {high:g}; pixels are not "
                "to be divided by 255"
            )
        source = self.density.density

        def bound(rows: Tensor, _: range) -> Tensor:
            noise = source.draw_noise(rows.shape[0], generator, like=rows)
            return self.density.encode_values(_to_nhwc(rows), **noise)[1]

        samples = require_count("samples", samples) if source.noise_shapes() else 1
        with evaluating(self), _gradients(differentiable):
            return self._importance_sampled(bound, values, samples, chunk)

    def _importance_sampled(
        self,
        bound: Callable[[Tensor, range], Tensor],
        images: Tensor,
        samples: int,
        chunk: int | None,
    ) -> Tensor:
        samples = require_count("samples", samples)
        usual = max(1, ROWS_AT_ONCE // images.shape[0])
        chunk = require_count("chunk", usual if chunk is None else chunk)
        return log_mean_exp(bound, images, samples, chunk)[1].to(self._parameter.dtype)

    def bits_per_dim(
        self,
        images: Tensor,
        samples: int = 1,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """-log P / (D ln 2) by `log_prob`, whose arguments and errors it shares: [B], bits/dim."""
        return self.to_bits_per_dim(
            self.log_prob(images, samples, chunk, generator, differentiable)
        )

    def to_bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Nats an image -> bits a data dimension."""
        return log_prob / (-self.dims * math.log(2))

    # Sampling and coding

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        chunk: int = ROWS_AT_ONCE,
        differentiable: bool = False,
    ) -> Tensor:
        """Draw images.

        Args:
            n: How many.
            temperature: Standard deviation of the latent; 0 gives the image of the likeliest one.
            generator: Where the latent is drawn from; the same seed gives the same images.
            chunk: Images made at once, which bounds the memory and changes nothing else.
            differentiable: Whether gradients flow to the parameters; the images are real-valued
                then.

        Returns:
            uint8 [n, C, H, W]; if differentiable x + u of the model's type, in [0, 256].

        Raises:
            ValueError: If n or chunk is below 1, or the temperature no number of at least 0.
        """
        n, chunk = require_count("n", n), require_count("chunk", chunk)
        latent = self.density.draw_latent(n, require_temperature(temperature), generator)
        parts = latent if isinstance(latent, tuple) else (latent,)
        images = []
        for rows in zip(*(_to_nchw(part).split(chunk) for part in parts), strict=True):
            images.append(self.decode(rows if len(rows) > 1 else rows[0], differentiable))
        values = torch.cat(images).clamp(0, PIXEL_VALUES)
        return values if differentiable else values.floor().clamp_max(255).to(torch.uint8)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The latent of images under drawn or given noise; arguments and errors as for `elbo`.

        Dropout is off, whatever the model's mode; no gradient.

        Returns:
            [B, 4(C + Dz), H/2, W/2], or as `latent_shapes` says: a tuple of tensors where the flow
            factors out. Standard normal if the model is perfect.
        """
        self._require_images(images)
        noise = self._noise(images, eps_u, eps_z, generator)
        with evaluating(self):
            return _each(_to_nchw, self._latent(images, noise))

    def decode(self, latent: Any, differentiable: bool = False) -> Tensor:
        """The images x + u of a latent; `decode(encode(images)).floor()` gives the images back.

        Dropout is off, whatever the model's mode.

        Args:
            latent: As `encode` gives it. Values outside the flow's range are clipped.
            differentiable: Whether gradients flow, to the latent and to the parameters.

        Returns:
            [B, C, H, W], finite; in [0, 256) for latents of images.

        Raises:
            ValueError: If the latent has the wrong type or shape.
        """
        self._require_latent(latent)
        if differentiable and any(isinstance(part, ImageResidualBlock) for part in self.modules()):
            raise ValueError(
                "differentiable must be False for a model with residual blocks, whose inverse is "
                "a fixed point without gradients"
            )
        with evaluating(self), _gradients(differentiable):
            return _to_nchw(self.density.decode(_each(_to_nhwc, latent)))

    @property
    def latent_shapes(self) -> tuple[Any, ...]:
        """Shape [C, H, W] of an image's latent, or a tuple of those of its tensors."""
        shapes = self.density.latent_shapes
        if isinstance(shapes[0], int):
            return (shapes[-1], *shapes[:-1])
        return tuple((shape[-1], *shape[:-1]) for shape in shapes)

    def widen(self, extra_dims: int, posterior: Any = "normal") -> Any:
        """A VFlow of this model, trained or not, whose bound is this model's (Theorem 1, App. A).

        See `vflow.VFlow.from_flow`, whose arguments, result and errors it shares.
        """
        from vflow.models.widening import widen  # which makes models

        return widen(self, extra_dims, posterior=posterior)

    # Noise and initialisation

    def draw_noise(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Noise for a batch: the keyword arguments eps_u (and eps_z) of `elbo`.

        Args:
            batch: Number of images B.
            generator: Where it is drawn from; the global one if None.

        Returns:
            eps_u [B, C, H, W] and, for VFlow, eps_z [B, Dz, H, W].

        Raises:
            ValueError: If batch is below 1.
        """
        batch = require_count("batch", batch)
        noise = self.density.draw_noise(batch, generator, like=self._parameter)
        return {name: _to_nchw(value) for name, value in noise.items()}

    def draw_training_noise(
        self, batch: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Noise to train by: that of `draw_noise`, and eps_trace for a model with residual blocks.

        Args:
            batch: Number of images B.
            generator: Where it is drawn from; the global one if None.

        Returns:
            Keyword arguments of `forward`; eps_trace is [B, blocks, D + 1], with all dimensions D.

        Raises:
            ValueError: If batch is below 1.
        """
        noise = self.draw_noise(batch, generator)
        for name, shape in self.density.estimate_shapes().items():
            noise[name] = Normal().draw((len(noise["eps_u"]), *shape), self._parameter, generator)
        return noise

    @property
    def initialized(self) -> bool:
        """Whether the parameters are others than those the model was made with.

        So they are once they come from data-dependent initialisation, from training, from a file or
        from an average over a training run: none of these is initialised again. Reading it may
        wait for the device as long as it is False.
        """
        if not self._is_initialized and not self._initialized.is_meta:
            self._is_initialized = bool(self._initialized) or not as_made(self)
        return self._is_initialized

    def mark_initialized(self) -> None:
        """Say that the parameters need no data-dependent initialisation."""
        self._is_initialized = True
        self._initialized.fill_(True)

    def initialize(
        self,
        images: Tensor,
        eps_u: Tensor | None = None,
        eps_z: Tensor | None = None,
        generator: torch.Generator | None = None,
        synchronize: bool = True,
    ) -> None:
        """Data-dependent initialisation, with dropout off (Ho et al., 2019).

        Elements that do not vary over the images are initialised from noise in their place.

        Under `torch.distributed` every process has to call it, and all take the parameters that
        rank 0 finds from its own images. It has to come before FSDP or another wrapper that shards
        the parameters; before or after DistributedDataParallel.

        Args:
            images: uint8 [B, C, H, W], B at least 2.
            eps_u: As for `elbo`.
            eps_z: As for `elbo`.
            generator: As for `elbo`.
            synchronize: False initialises this process's model alone.

        Raises:
            ValueError: If an argument has the wrong type or shape, or the parameters are sharded.
        """
        self._require_images(images)
        too_few = None
        if images.shape[0] < 2:
            too_few = (
                "images must be at least 2 to initialise from, got 1: call initialize(images) with "
                "more before the first batch"
            )
        noise = self._noise(images, eps_u, eps_z, generator)
        initialize_together(
            self, lambda: self._latent(with_spread(images), noise), too_few, synchronize
        )
        self.mark_initialized()

    def _meet_first_batch(self, images: Tensor, noise: dict[str, Tensor]) -> None:
        """Initialise, unless the parameters come from somewhere already."""
        if self.initialized:
            warn_if_half_made(self)
            self.mark_initialized()
        elif not self._initialized.is_meta:
            self.initialize(images, noise["eps_u"], noise.get("eps_z"))

    def set_precision(self, precision: str) -> None:
        """Run the couplings' networks under autocast; all else stays as the parameters are.

        Args:
            precision: "fp32" (no autocast) or "bf16".

        Raises:
            ValueError: If it is neither.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be fp32 or bf16, got {precision!r}")
        for module in self.modules():
            if isinstance(module, Trunk | ContextNetwork | GlowNet):
                module.compute_dtype = PRECISIONS[precision]

    def set_recompute(self, recompute: str | bool) -> None:
        """Say what the backward pass computes again instead of keeping it, to spare memory.

        Args:
            recompute: "none"; "block", the gated blocks, of which only the inputs are kept; or
                "coupling", whole couplings and context networks, of which only the inputs are kept.
                False and True are "none" and "block".

        Raises:
            ValueError: If it is none of these, or the model has nothing of the kind.
        """
        recompute = take_recompute(recompute)
        modules = list(self.modules())
        whole = [m for m in modules if isinstance(m, Coupling | ContextNetwork)]
        trunks = [m for m in modules if isinstance(m, Trunk)]
        if recompute != "none" and not {"block": trunks, "coupling": whole}[recompute]:
            what = {"block": "gated blocks", "coupling": "couplings"}[recompute]
            raise ValueError(
                f"recompute must be none for a model without {what}, got {recompute!r}"
            )
        for part in whole:
            part.recompute = recompute == "coupling"
        for trunk in trunks:
            trunk.recompute = recompute == "block"

    # Checks and odds and ends

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._parameter.device

    @property
    def _parameter(self) -> Tensor:
        return a_weight(self)

    def _noise(
        self,
        images: Tensor,
        eps_u: Tensor | None,
        eps_z: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """The noise given, checked, and what was not given, drawn."""
        batch, size = images.shape[0], self.data_shape[1:]
        given = {"eps_u": eps_u, "eps_z": eps_z}
        noise = {name: value for name, value in given.items() if value is not None}
        channels = {name: shape[-1] for name, shape in self.density.noise_shapes().items()}
        for name, value in noise.items():
            if name not in channels:
                raise ValueError(f"{name} must be None: {type(self).__name__} has no such noise")
            shape = (channels[name], *size)
            require_float(name, value, shape, like=self._parameter, batch=batch)
        if noise.keys() != channels.keys():
            noise = {**self.draw_noise(batch, generator), **noise}
        return noise

    def _checked_trace(self, eps_trace: Tensor, batch: int) -> Tensor:
        shape = self.density.estimate_shapes().get("eps_trace")
        if shape is None:
            raise ValueError(
                f"eps_trace must be None: {type(self).__name__} has no residual blocks"
            )
        if not isinstance(eps_trace, Tensor) or eps_trace.shape != (batch, *shape):
            came = tuple(eps_trace.shape) if isinstance(eps_trace, Tensor) else eps_trace
            raise ValueError(f"eps_trace must have shape {(batch, *shape)}, got {came}")
        return eps_trace

    def _require_images(self, images: Tensor) -> None:
        require_images(images, self.data_shape, self.device)

    def _require_latent(self, latent: Any) -> None:
        shapes = self.latent_shapes
        several = not isinstance(shapes[0], int)
        if several and (not isinstance(latent, tuple | list) or len(latent) != len(shapes)):
            came = f"{len(latent)}" if isinstance(latent, tuple | list) else type(latent).__name__
            raise ValueError(f"latent must be a tuple of {len(shapes)} tensors, got {came}")
        for shape, part in zip(shapes, latent, strict=True) if several else [(shapes, latent)]:
            require_float("latent", part, shape, like=self._parameter)
        if several and len({len(part) for part in latent}) > 1:
            raise ValueError("latent must have the same B in all its tensors")


def _gradients(wanted: bool) -> torch.set_grad_enabled:
    """Gradients within if they are wanted, and not forbidden around it."""
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())


def _to_nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _to_nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _each(turn: Callable[[Tensor], Tensor], latent: Any) -> Any:
    """A latent with each of its tensors turned."""
    if isinstance(latent, tuple | list):
        return tuple(turn(part) for part in latent)
    return turn(latent)


def _judge_again(model: Any, _: object) -> None:
    # What is known is kept beside the buffer: to ask the device at every step would be to wait.
    model._is_initialized = False
