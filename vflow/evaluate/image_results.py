"""The results of an evaluation image by image, in files that survive its interruption.

One JSON object a line: first the fingerprint of the evaluation, then an image each. Every process
appends to a file of its own; the first one merges what it finds when it starts, and when it ends.
"""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vflow.runtime.files import atomic_path, naming, to_json


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What an evaluation found for an image."""

    image: int
    """Its index in the data set."""
    elbo: float
    """Mean of the one-sample bounds, nats."""
    log_prob: float
    """log P by importance sampling, nats."""
    seconds: float
    """Time it took its process."""
    stderr: float | None = None
    """Standard error of an estimate of the bound, nats; None where bounds are exact."""


class ImageResults:
    """The files of an evaluation's results.

    Args:
        out: The evaluation's result file; these stand beside it as STEM.images*.jsonl.
        fingerprint: What the results depend on, JSON.
        rank: Number of this process.
        bare_digest: Gives the digest of the images that evaluations were once told apart by, when
            their fingerprints had the data's spelling in them too. Such a one goes on as well.
    """

    def __init__(
        self,
        out: Path,
        fingerprint: dict[str, Any],
        rank: int = 0,
        bare_digest: Callable[[], str] | None = None,
    ) -> None:
        self._bare_digest = bare_digest
        self.path = out.with_name(f"{out.stem}.images.jsonl")
        self._mine = out.with_name(f"{out.stem}.images.rank{rank}.jsonl") if rank else self.path
        self._fingerprint = fingerprint

    def merge(self, restart: bool = False, beside: Iterable[Path] = ()) -> dict[int, ImageResult]:
        """Bring the files of all processes together in the first one's; only it may do so.

        Args:
            restart: Begin anew instead.
            beside: Files of other names, which may be of the same evaluation: what they hold of it
                is taken too, and they stay as they are.

        Returns:
            The results by image. What an interruption tore is not among them.

        Raises:
            ValueError: If they are those of another evaluation; names what differs.
            OSError: If the files cannot be read or written.
        """
        found: dict[int, ImageResult] = {}
        files = self._files()
        for path in [] if restart else set(beside).difference(files):
            with contextlib.suppress(ValueError):  # another evaluation's
                found.update(self._read(path))
        for path in [] if restart else files:
            found.update(self._read(path))
        self._write(self.path, (found[image] for image in sorted(found)))
        for path in files:
            if path != self.path:
                path.unlink()
        return found

    def begin(self) -> None:
        """Start this process's file, after `merge`."""
        if self._mine != self.path:
            self._write(self._mine, [])

    def append(self, results: Iterable[ImageResult]) -> None:
        """Add results to this process's file."""
        with naming(self._mine), open(self._mine, "a", encoding="utf-8") as file:
            file.write("".join(_line(_fields(result)) for result in results))

    def _files(self) -> list[Path]:
        others = sorted(self.path.parent.glob(f"{glob.escape(self.path.stem)}.rank*.jsonl"))
        return [self.path, *others] if self.path.is_file() else others

    def _read(self, path: Path) -> dict[int, ImageResult]:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        header = _parse(lines[0]) if lines else None
        if header is None or not isinstance(header.get("fingerprint"), dict):
            raise ValueError(
                f"{path} must begin with the fingerprint of an evaluation, but does not; "
                "--restart replaces it"
            )
        before = header["fingerprint"]
        bare = self._bare_digest if "data" in before else None
        if bare is not None and before.get("images") == bare():
            before = {**before, "images": self._fingerprint["images"]}
        odd = [key for key, value in self._fingerprint.items() if before.get(key) != value]
        if odd:
            was, came = (
                ", ".join(f"{key} {_short(source.get(key))}" for key in odd)
                for source in (before, self._fingerprint)
            )
            raise ValueError(
                f"out must be a new file where the evaluation differs: {path} is of {was}, got "
                f"{came}; --restart replaces it"
            )
        results = {}
        for line in lines[1:]:
            try:
                result = ImageResult(**_parse(line) or {})
            except TypeError:
                continue  # torn by an interruption: the image is evaluated again
            results[result.image] = result
        return results

    def _write(self, path: Path, results: Iterable[ImageResult]) -> None:
        with atomic_path(path) as temporary:
            text = [_line({"fingerprint": self._fingerprint})]
            text += [_line(_fields(result)) for result in results]
            temporary.write_text("".join(text), encoding="utf-8")


def _fields(result: ImageResult) -> dict[str, Any]:
    fields = asdict(result)
    if result.stderr is None:  # as ever, for versions that know no estimates
        del fields["stderr"]
    return fields


def _line(value: dict[str, Any]) -> str:
    return to_json(value) + "\n"


def _parse(line: str) -> dict[str, Any] | None:
    if not line.endswith("\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _short(value: Any) -> str:
    """A value as an error shows it; of a digest, the first digits."""
    text = str(value).rpartition(":")[2]
    return text[:12] if isinstance(value, str) and len(text) == 64 else str(value)
