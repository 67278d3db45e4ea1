"""Tensors in safetensors files, never a pickle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

PRECISION = "precision"
"""Key of a file's metadata: the precision of numbers that were rounded for the file."""
STORAGES = (torch.float16, torch.bfloat16)
PRECISIONS = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, *STORAGES)
}


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    name: Path | None = None,
    storage: torch.dtype | None = None,
) -> None:
    """Write tensors, wherever they are and however they share memory.

    Args:
        tensors: By their names.
        path: The file, .safetensors.
        name: What errors call it, where `path` is only on the way there.
        storage: What numbers are rounded to for the file, float16 or bfloat16; the file's metadata
            then tell the precision that they had, and have again once loaded. By default as they
            are.

    Raises:
        OSError: If the disk does not take it.
        ValueError: If `storage` is another, or cannot hold a number.
    """
    # Copies on the CPU: safetensors refuses tensors that share memory or have gaps.
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"format": "pt"}
    if storage is not None:
        floats = (value for value in plain.values() if value.is_floating_point())
        metadata[PRECISION] = str(next(floats).dtype).removeprefix("torch.")
        plain = round_tensors(plain, storage)
    try:
        save_file(plain, path, metadata=metadata)
    except SafetensorError as error:  # which a full disk is to it
        raise OSError(f"{name or path} could not be written: {error}") from error


def round_tensors(tensors: Mapping[str, Tensor], storage: torch.dtype) -> dict[str, Tensor]:
    """Tensors with their numbers rounded to float16 or bfloat16; those of integers as they are.

    Raises:
        ValueError: If `storage` is another, or cannot hold a number.
    """
    if storage not in STORAGES:
        raise ValueError(f"storage must be torch.float16 or torch.bfloat16, got {storage}")
    rounded = {k: v.to(storage) if v.is_floating_point() else v for k, v in tensors.items()}
    for key, value in rounded.items():
        if value.is_floating_point() and bool(value.isinf().any()):
            most = tensors[key].abs().amax().item()
            raise ValueError(f"storage must hold {key}, of up to {most:.3g}, got {storage}")
    return rounded


def load_weights(
    model: nn.Module, path: Path, rename: Callable[[str], str], strict: bool = True
) -> None:
    """Load a safetensors file of this model's tensors, taking on their precision.

    That is the one that the file's metadata tell, where its numbers were rounded to be stored.

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
        with safe_open(path, "pt") as file:
            precision = (file.metadata() or {}).get(PRECISION)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
    if precision is not None and precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"{path} must tell a precision of {known}, got {precision!r}")
    model.to(floats[0].dtype if precision is None else PRECISIONS[precision])
    model.load_state_dict(tensors, strict=strict)
