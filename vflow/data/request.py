"""What a source is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vflow.data.image_size import Size


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `load_images`, its arguments checked.

    Args:
        spec: The whole spec, for error messages.
        path: What follows the colon of the spec, with "~" expanded; "." for sources without one.
        split: "train", "val" or "test".
        size: The height and width to give, or None for the files' own.
        channels: The channels to give, or None for the files' own.
        root: Where downloaded data sets are kept.
    """

    spec: str
    path: Path
    split: str
    size: Size | None
    channels: int | None
    root: Path

    @property
    def home(self) -> Path:
        """The folder of a downloaded data set."""
        return self.root / self.spec

    def find(self, *names: str) -> Path | None:
        """The first file or folder there is of `names`, looked for in root/SPEC and in root."""
        for folder in (self.home, self.root):
            for name in names:
                if (folder / name).exists():
                    return folder / name
        return None

    def require(self, *names: str) -> Path:
        """Like `find`, but a missing file is an error that says where it belongs."""
        found = self.find(*names)
        if found is None:
            raise FileNotFoundError(
                f"{self.spec} needs {' or '.join(names)} in {self.home}, "
                "found none there (another root: VFLOW_DATA or root=)"
            )
        return found

    def no_split(self, available: tuple[str, ...]) -> FileNotFoundError:
        """The error for a split that there is none of."""
        there = " and ".join(available)
        return FileNotFoundError(f"{self.spec} has no {self.split} images, only those of {there}")
