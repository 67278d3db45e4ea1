"""Tensors in safetensors files, never a pickle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_tensors(tensors: Mapping[str, Tensor], path: Path, name: Path | None = None) -> None:
    """Write tensors, wherever they are and however they share memory.

    Args:
        tensors: By their names.
        path: The file, .safetensors.
        name: What errors call it, where `path` is only on the way there.

    Raises:
        OSError: If the disk does not take it.
    """
    # Copies on the CPU: safetensors refuses tensors that share memory or have gaps.
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:  # which a full disk is to it
        raise OSError(f"{name or path} could not be written: {error}") from error


def load_weights(
    model: nn.Module, path: Path, rename: Callable[[str], str], strict: bool = True
) -> None:
    """Load a safetensors file of this model's tensors, taking on their precision.

    Args:
        model: The model.
        path: The file.
        rename: From a tensor's name in the file to the model's.
        strict: Whether the file must hold just this model's tensors. If not, those of its tensors
            that the model has are loaded, in their shapes, and a warning names the others.

    Raises:
        ValueError: If the file is damaged, no safetensors, or of another model.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file (never a pickle), but it does not "
            f"load: {error}"
        ) from error
    tensors = {rename(name): value for name, value in tensors.items()}
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    came = {name: tuple(value.shape) for name, value in tensors.items()}
    odd = sorted(n for n in expected.keys() | came.keys() if expected.get(n) != came.get(n))
    if odd:
        first = f"{odd[0]} {came.get(odd[0], 'missing')} for {expected.get(odd[0], 'nothing')}"
        differ = f"{len(odd)} differ: {first}{', ...' * (len(odd) > 1)}"
        if strict or any(name in expected and name in came for name in odd):
            raise ValueError(f"{path} must hold the tensors of its config, but {differ}")
        warnings.warn(f"{path} is loaded in part: of its tensors {differ}", stacklevel=3)
    floats = [value for value in tensors.values() if value.is_floating_point()]
    if not floats or not all(value.isfinite().all() for value in floats):
        came_instead = "NaN or infinity" if floats else "none"
        raise ValueError(f"{path} must hold finite numbers, got {came_instead}")
    model.to(floats[0].dtype)
    model.load_state_dict(tensors, strict=strict)
