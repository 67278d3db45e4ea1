"""Which split the name of a folder, a file or an array speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLITS = ("train", "val", "test")
_WORDS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "valset", "dev"),
    "test": ("test", "testing", "testset", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_IMAGE_WORDS = {"x", "xs", "image", "images", "img", "imgs", "data", "pixels", "input", "inputs"}


def split_of(name: str) -> str | None:
    """The split that a whole name speaks of, in any case: "Train", "validation", "dev"."""
    return _SPLIT_OF.get(name.lower())


def split_within(name: str) -> str | None:
    """The one split that a word of a name speaks of: "train2017", "DIV2K_valid_HR", "testA"."""
    found = {split for word in _words(name) if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def array_split(name: str) -> str | None:
    """The split whose images a name stands for: "train", "x_train", "test_images", "valX"."""
    words = [word for word in _words(name) if word.lower() not in _IMAGE_WORDS]
    return split_of(words[0]) if len(words) == 1 else None


def is_images(name: str) -> bool:
    """Whether a name stands for images and no split of them: "images", "X", "data"."""
    words = [word.lower() for word in _words(name)]
    return bool(words) and all(word in _IMAGE_WORDS for word in words)


def spellings(split: str) -> list[str]:
    """What a split may be called, as it is written in names."""
    return [form for word in _WORDS[split] for form in (word, word.capitalize(), word.upper())]


def in_order(splits: Iterable[str]) -> tuple[str, ...]:
    """Splits in the order train, val, test, each once."""
    found = set(splits)
    return tuple(split for split in SPLITS if split in found)


def _words(name: str) -> list[str]:
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
