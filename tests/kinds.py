"""A small model of every registered kind, for tests that take them all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vflow.models import AugmentConfig, ImageFlow, ModelConfig, model_config
from vflow.models.builders import DEQUANTIZERS, FLOWS, POSTERIORS

NEVER_AT_REST: set[str] = set()
"""Couplings that are the identity for no parameters."""
NEVER_WIDENED: set[str] = set()
"""Flows with a layer that cannot leave extra channels alone, at their smallest."""
IMAGE, VECTOR = (3, 8, 8), (4,)


def is_image(kind: str) -> bool:
    """Whether a flow kind is one of images."""
    try:
        FLOWS[kind].tiny().check((8, 8, 3), 0)
    except ValueError:
        return False
    return True


def inner_shape(kind: str) -> tuple[int, ...]:
    """Of x as the flow sees it, small enough for a whole Jacobian."""
    if not is_image(kind):
        return (5,)
    for size in (4, 8, 16):
        try:
            FLOWS[kind].tiny().check((size, size, 2), 0)
        except ValueError:
            continue
        return (size, size, 2)
    raise AssertionError(f"{kind}.tiny() takes no small images")


def _config(kind: str, posterior: str | None = None, dequantizer: str = "uniform") -> ModelConfig:
    image = is_image(kind)
    augment = None
    if posterior is not None:
        augment = AugmentConfig(channels=2, posterior=POSTERIORS[posterior].tiny())
    return ModelConfig(
        shape=IMAGE if image else VECTOR,
        flow=FLOWS[kind].tiny(),
        augment=augment,
        dequantize=DEQUANTIZERS[dequantizer].tiny() if image else None,
    )


def _fits(posterior: str, image: bool) -> bool:
    shape = (8, 8, 2) if image else (2,)
    try:
        POSTERIORS[posterior].tiny().build(shape, 3, None)
    except (ValueError, IndexError):
        return False
    return True


def _models() -> dict[str, ModelConfig]:
    found = {}
    for kind in FLOWS.names:
        found[kind] = _config(kind)
        found[f"{kind}, normal"] = _config(kind, "normal")
    first = {True: "flowpp", False: "vector-glow"}
    for posterior in POSTERIORS.names:
        for image, kind in first.items():
            if posterior != "normal" and _fits(posterior, image):
                found[f"{kind}, {posterior}"] = _config(kind, posterior)
    for dequantizer in DEQUANTIZERS.names:
        if dequantizer != "uniform":  # which all of the above have
            found[f"flowpp, dequantizer {dequantizer}"] = _config("flowpp", None, dequantizer)
    scales = ((("checkerboard", 1),), (("channel", 1),))
    found["vflow of imagenet32"] = _imagenet("vflow-imagenet32", scales)
    found["flowpp of imagenet64"] = _imagenet("flowpp-imagenet64", ((), *scales))
    return found


def _imagenet(name: str, scales: Any) -> ModelConfig:
    """A preset with its options, and little of everything."""
    small = {"filters": 4, "blocks": 1, "components": 2, "image_size": 8, "scales": scales}
    for part in ("dequantizer", "posterior")[: 1 + name.startswith("vflow")]:
        small |= {f"{part}_blocks": 1, f"{part}_context_blocks": 1, f"{part}_steps": 1}
    return model_config(name, **small)


MODELS = _models()
"""Every flow alone and with extra dimensions; every posterior and dequantizer with some flow."""


def data_of(model: Any, n: int = 6) -> Tensor:
    """Data of a model's shape and precision."""
    source = torch.Generator().manual_seed(0)
    if not isinstance(model, ImageFlow):
        dtype = next(model.parameters()).dtype
        return torch.randn(n, *model.config.shape, generator=source, dtype=torch.float64).to(dtype)
    channels, height, width = model.data_shape
    coarse = torch.randn(n, channels, 2, 2, generator=source)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.randn(n, *model.data_shape, generator=source)
    return (128 + 40 * smooth + 5 * noise).clamp(0, 255).to(torch.uint8)


def noise_of(model: Any, n: int) -> dict[str, Tensor]:
    """Noise for a batch, always the same."""
    source = torch.Generator().manual_seed(1)
    if isinstance(model, ImageFlow):
        return model.draw_noise(n, source)
    return model.density.draw_noise(n, source)


def bound(model: Any) -> Tensor:
    """The bound of the same data under the same noise [B]."""
    data = data_of(model)
    return model(data, **noise_of(model, len(data)))
