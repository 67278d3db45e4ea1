"""What a source is asked for, and the checks that sources share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """One call of `load_images`, its arguments checked.

    Args:
        spec: The whole spec, for error messages.
        path: What follows the colon of the spec, with "~" expanded; "." for sources without one.
        split: "train" or "test".
        image_size: The height and width asked for, or None for the source's own.
        root: Where downloaded data sets are kept.
    """

    spec: str
    path: Path
    split: str
    image_size: int | None
    root: Path

    def require_size(self, *sizes: int) -> int:
        """The image size asked for, or the first of `sizes`; it must be one of them."""
        if self.image_size is None:
            return sizes[0]
        if self.image_size not in sizes:
            allowed = " or ".join(map(str, sizes))
            raise ValueError(f"image_size must be {allowed} for {self.spec}, got {self.image_size}")
        return self.image_size

    def find(self, *names: str) -> Path | None:
        """The first file or folder there is of `names`, looked for in root/SPEC and in root."""
        for folder in (self.root / self.spec, self.root):
            for name in names:
                if (folder / name).exists():
                    return folder / name
        return None

    def require(self, *names: str) -> Path:
        """Like `find`, but a missing file is an error that says where it belongs."""
        found = self.find(*names)
        if found is None:
            raise FileNotFoundError(
                f"{self.spec} needs {' or '.join(names)} in {self.root / self.spec}, "
                "found none there (another root: VFLOW_DATA or root=)"
            )
        return found
