"""Checks of a config's fields: each error names the field, what it must be and what it is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

MAX_SEED = (1 << 63) - 1


def plain(value: Any) -> Any:
    """NumPy's numbers and tensors of no dimensions, in tuples too, as Python's; all else as is."""
    if type(value) is tuple and any(plain(part) is not part for part in value):
        return tuple(map(plain, value))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value if getattr(value, "is_meta", False) else value.item()
    return value


def take_plain_numbers(config: Any) -> None:
    """Turn the fields of a frozen dataclass that are NumPy's numbers into Python's own.

    They are written to JSON, and digests are made of them.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if plain(value) is not value:
            object.__setattr__(config, field.name, plain(value))


def require_int(name: str, value: Any, minimum: int, minimum_name: str = "") -> None:
    """Raise ValueError unless `value` is an int of at least `minimum`, named if it is a field."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        bound = f"{minimum_name} {minimum}".strip()
        raise ValueError(f"{name} must be an integer of at least {bound}, got {value!r}")


def require_seed(seed: Any) -> None:
    """Raise ValueError unless `seed` is an int from 0 to 2^63 - 1."""
    require_int("seed", seed, 0)
    if seed > MAX_SEED:
        raise ValueError(f"seed must be below 2^63, got {seed}")


def require_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    most_name: str = "",
) -> None:
    """Raise ValueError unless `value` is finite and within its bounds, `most` named if a field."""
    rules = [
        (above, "above", lambda v, b: v > b),
        (least, "of at least", lambda v, b: v >= b),
        (below, "below", lambda v, b: v < b),
        (most, f"at most {most_name}".strip(), lambda v, b: v <= b),
    ]
    rules = [rule for rule in rules if rule[0] is not None]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not all(ok(value, b) for b, _, ok in rules):
        words = " and ".join(f"{word} {bound:g}" for bound, word, _ in rules)
        raise ValueError(f"{name} must be a number {words}, got {value!r}")


def require_bool(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def require_slope(name: str, value: Any) -> None:
    """Raise ValueError unless `value`, of a leaky ReLU, is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_image_size(size: Any) -> None:
    """Raise ValueError unless `size` is (height, width), both positive multiples of 4."""
    good = isinstance(size, tuple) and len(size) == 2
    if not good or any(isinstance(n, bool) or not isinstance(n, int) for n in size):
        raise ValueError(f"image_size must be an integer or (height, width), got {size!r}")
    if any(n < 4 or n % 4 for n in size):
        raise ValueError(
            f"image_size must have a height and width divisible by 4, got {size[0]}x{size[1]}"
        )
