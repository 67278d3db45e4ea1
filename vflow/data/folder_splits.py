"""Which split each image of a folder belongs to, told from the names alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vflow.data.split_names import split_of, split_within

Names = list[str]


@dataclass
class Arrangement:
    """The images of a folder by split.

    Args:
        splits: The names of each split's images, sorted.
        rivals: Folders that are named for one split, where there are several of them.
        by_hash: Whether it is the names' hash that splits them.
        left_out: Names that are in no split, by the reason.
        remarks: What to say of names that are, likewise.
    """

    splits: dict[str, Names] = field(default_factory=dict)
    rivals: dict[str, Names] = field(default_factory=dict)
    by_hash: bool = False
    left_out: dict[str, Names] = field(default_factory=dict)
    remarks: dict[str, Names] = field(default_factory=dict)


def arrange(names: Iterable[str]) -> Arrangement:
    """Split the images of a folder.

    The first of these that holds:
      1. Folders named for splits in any case (train, Training, TEST, val, valid, validation, dev,
         eval, ...), at the top or within folders that everything is in. What is beside them is in
         no split. A folder of that kind beside others counts only if one is for train or test:
         "valid" and "invalid" are classes.
      2. All folders there have names with a split in them, and there is more than one split:
         train2017 and val2017, testA, DIV2K_train_HR.
      3. Every image is somewhere below a folder named for a split, as in cat/train and dog/train.
      4. A hash of each name sends about one in ten to test and the others to train.

    Args:
        names: Relative, with forward slashes.

    Raises:
        ValueError: If some folders hold splits and others, beside them, do not.
    """
    names = sorted(names)
    depth = _common_depth(names)
    top: dict[str, Names] = defaultdict(list)  # "" for images in no folder
    for name in names:
        *folders, _ = name.split("/")
        top[folders[depth] if len(folders) > depth else ""].append(name)
    named = {split for folder in top if (split := split_of(folder))}
    if named - {"val"} or (named and all(split_of(folder) for folder in top)):
        return _by_folder(top, split_of, depth)
    within = {folder: split_within(folder) for folder in top}
    several = len(set(filter(None, within.values()))) > 1
    if several and all(within.values()):
        return _by_folder(top, split_within, depth)
    inside = _by_any_folder(names)
    if inside is not None:
        return inside
    result = Arrangement(by_hash=True, splits={"train": [], "test": []})
    for name in names:
        result.splits[hash_split(name)].append(name)
    if several:
        result.remarks["folders with a split in their names, taken for classes like the others"] = [
            folder for folder, split in within.items() if split
        ]
    return result


def hash_split(name: str) -> str:
    """The split of a name whatever the others are: about one in ten is in "test"."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return "test" if int.from_bytes(digest[:4], "big") % 10 == 0 else "train"


def _common_depth(names: Names) -> int:
    """How many folders all names begin with that are not named for a split."""
    if not names:
        return 0
    # Of sorted names, what the first and the last have in common all have.
    pairs = zip(names[0].split("/")[:-1], names[-1].split("/")[:-1], strict=False)
    depth = 0
    for first, last in pairs:
        if first != last or split_of(first):
            break
        depth += 1
    return depth


def _by_folder(
    top: dict[str, Names], split_of_folder: Callable[[str], str | None], depth: int
) -> Arrangement:
    result = Arrangement()
    folders: dict[str, Names] = defaultdict(list)
    outside: Names = []
    odd: Names = []
    for folder, names in top.items():
        split = split_of_folder(folder)
        if split is None:
            outside += names
            continue
        folders[split].append(folder)
        result.splits.setdefault(split, []).extend(names)
        for name in names:
            deeper = set(map(split_of, name.split("/")[depth + 1 : -1]))
            if deeper - {None, split}:
                odd.append(name)
    result.rivals = {split: found for split, found in folders.items() if len(found) > 1}
    if outside:
        result.left_out["images outside of the splits' folders"] = sorted(outside)
    if odd:
        result.remarks["images are in a folder of one split within that of another"] = odd
    return result


def _by_any_folder(names: Names) -> Arrangement | None:
    result = Arrangement()
    outside: Names = []
    beside: dict[str, set[str]] = defaultdict(set)  # splits that are found in a folder
    for name in names:
        folders = name.split("/")[:-1]
        level = next((i for i, folder in enumerate(folders) if split_of(folder)), None)
        if level is None:
            outside.append(name)
            continue
        split = split_of(folders[level]) or ""
        beside["/".join(folders[:level])].add(split)
        result.splits.setdefault(split, []).append(name)
    if not outside:
        return result if result.splits else None
    mixed = sorted(folder for folder, found in beside.items() if len(found) > 1)
    if mixed:
        raise ValueError(
            f"all images or none must be in folders named for splits: {mixed[0]} has "
            f"{' and '.join(sorted(beside[mixed[0]]))} in it, but {outside[0]} is in neither"
        )
    return None
