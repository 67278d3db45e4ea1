"""Which model an archive was written with, and in which arithmetic."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from vflow.compression.walk import encode_batch
from vflow.models import ImageFlow
from vflow.ops import use_backend
from vflow.ops.coder import Coder

ARITHMETICS = ("exact", "native")
EXACT_VERSION = 2
"""Of the bits that exact arithmetic gives: in archives that of version 2 is called "exact 2"."""


def model_digest(model: ImageFlow) -> str:
    """SHA-256 of a model's class, config and tensors, in hexadecimal."""
    digest = hashlib.sha256(type(model).__name__.encode())
    digest.update(json.dumps(_as_digested(model.config), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name == "_initialized":
            continue
        about = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        digest.update(about.encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()


def _as_digested(value: Any) -> Any:
    """A config without the fields that came later, where they say what their absence did.

    Archives keep their model's name, whatever fields configs get. `preprocess`, which is in all of
    them, was there before this rule.
    """
    if isinstance(value, tuple):
        return [_as_digested(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    found = {}
    for field in dataclasses.fields(value):
        item, late = getattr(value, field.name), field.name != "preprocess"
        if not (late and "before" in field.metadata and field.metadata["before"] == item):
            found[field.name] = _as_digested(item)
    return found


def stored_arithmetic(name: str) -> str:
    """What an archive's header calls an arithmetic."""
    return f"exact {EXACT_VERSION}" if name == "exact" else name


def require_readable(stored: str) -> str:
    """The arithmetic that a header calls so.

    Raises:
        ValueError: If it is one that this version cannot compute.
    """
    if stored == "native" or stored == stored_arithmetic("exact"):
        return stored.partition(" ")[0]
    version = stored.partition(" ")[2] or "1"  # which had no number
    raise ValueError(
        f"the archive is in exact arithmetic of version {version}, and this vflow computes that of "
        f"version {EXACT_VERSION}: a vflow of its time can read it"
    )


@contextlib.contextmanager
def arithmetic(model: ImageFlow, name: str) -> Iterator[None]:
    """Within, the couplings' networks run in exact arithmetic or in PyTorch's on this machine.

    Dropout is off, and no gradients are kept.

    Raises:
        ValueError: If there is no such arithmetic, or no native library for it.
    """
    if name not in ARITHMETICS:
        raise ValueError(f"arithmetic must be one of {', '.join(ARITHMETICS)}, got {name!r}")
    training = model.training
    model.eval()
    try:
        with use_backend("exact") if name == "exact" else contextlib.nullcontext():
            yield
    finally:
        model.train(training)


def probe(model: ImageFlow, batches: set[int]) -> str:
    """A digest of what the model computes here, in batches of these sizes.

    Of gentle slopes with a little noise: what is far from all pictures drives some models beyond
    the coder's range. Where even these do, what is on the stacks by then is what is compared.
    """
    digest = hashlib.sha256()
    for batch in sorted(batches):
        numbers = torch.arange(batch * model.dims, dtype=torch.int64)
        images = 96 + numbers // 7 % 64 + (numbers * numbers * 31 + numbers * 7) // 64 % 8
        coder = Coder(lend=True)
        with contextlib.suppress(ValueError):
            encode_batch(model, images.to(torch.uint8).view(batch, *model.data_shape), coder)
        for lane in coder.lanes:
            digest.update(lane.state.to_bytes(8, "little") + lane.words.tobytes())
    return digest.hexdigest()
