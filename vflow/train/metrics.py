"""What a run says of itself: metrics.jsonl, TensorBoard, and a line or a bar on the terminal."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflow.io.evaluations import with_stderr
from vflow.runtime.files import atomic_path


@dataclass(kw_only=True)
class Window:
    """Sums over the steps since the last line of metrics.jsonl; part of a checkpoint."""

    steps: int = 0
    bits_per_dim: float = 0.0
    grad_norm: float = 0.0

    def add(self, bits_per_dim: float, grad_norm: float) -> None:
        """Count a step that was not skipped."""
        self.steps += 1
        self.bits_per_dim += bits_per_dim
        self.grad_norm += grad_norm

    def means(self) -> dict[str, float]:
        """Means over the steps; NaN, which metrics.jsonl has as null, if every one was skipped."""
        steps = self.steps or math.nan
        return {"bits_per_dim": self.bits_per_dim / steps, "grad_norm": self.grad_norm / steps}


class Monitor:
    """Writes a run's metrics. Going on from a step, it first drops what came after it.

    Args:
        folder: The run folder.
        step: Steps taken so far.
        total: Steps to take.
        batch_size: Images a step.
        seconds: Seconds trained so far.
    """

    def __init__(
        self, folder: Path, step: int, total: int, batch_size: int, seconds: float
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self._path = folder / "metrics.jsonl"
        kept = _records_up_to(self._path, step)
        self._evaluated = {record["step"] for record in kept if record["kind"] == "eval"}
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._bar = tqdm(total=total, initial=step, unit="step", disable=not sys.stderr.isatty())
        self._total, self._batch_size = total, batch_size
        self._started = time.monotonic() - seconds
        self._logged = (step, time.monotonic())

    @property
    def seconds(self) -> float:
        """Seconds trained, over all the times the run was started."""
        return time.monotonic() - self._started

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation of a step is in metrics.jsonl."""
        return step in self._evaluated

    def step(self, bits_per_dim: float, lr: float, grad_norm: float) -> None:
        """Move the progress bar on by a step."""
        if not self._bar.disable:
            rate = self._bar.format_dict["rate"] or 0.0
            self._bar.set_postfix_str(
                f"{bits_per_dim:.3f} bits/dim, {rate * self._batch_size:.0f} images/s, "
                f"lr {lr:.2e}, grad norm {grad_norm:.2g}",
                refresh=False,
            )
            self._bar.update()

    def train(self, step: int, window: Window, lr: float, skipped: int) -> None:
        """Write the means over the steps up to `step`."""
        last_step, last_time = self._logged
        self._logged = (step, time.monotonic())
        rate = (step - last_step) * self._batch_size / max(1e-9, time.monotonic() - last_time)
        values = {**window.means(), "lr": lr, "skipped": skipped, "images_per_second": rate}
        self._record(step, "train", values)
        if self._bar.disable:
            print(
                f"step {step}/{self._total}: {values['bits_per_dim']:.4f} bits/dim, "
                f"{rate:.1f} images/s, lr {lr:.2e}, grad norm {values['grad_norm']:.3g}",
                flush=True,
            )

    def evaluation(
        self,
        step: int,
        bits_per_dim: Mapping[str, float | None],
        images: int,
        estimated: bool = False,
    ) -> None:
        """Write an evaluation on the test images with the averaged parameters.

        Args:
            step: After which step.
            bits_per_dim: Their mean and its standard error, {"mean", "stderr"}.
            images: How many there are.
            estimated: Whether it is an unbiased estimate of the bound, and not the bound.
        """
        values: dict[str, Any] = {"bits_per_dim": bits_per_dim["mean"], "images": images}
        if bits_per_dim["stderr"] is not None:
            values["stderr"] = bits_per_dim["stderr"]
        if estimated:
            values["estimated"] = True
        self._record(step, "eval", values, split="test")
        self._evaluated.add(step)
        how = " (an unbiased estimate)" if estimated else ""
        self.say(f"step {step}: {with_stderr(bits_per_dim)} bits/dim{how} on {images} test images")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the time spent within out of images/s."""
        started = time.monotonic()
        yield
        step, logged = self._logged
        self._logged = (step, logged + time.monotonic() - started)

    def changes(self, record: dict[str, Any]) -> None:
        """Write what is changed after a step, as `facts.history` tells."""
        self._file.write(_line({"step": record["step"], "kind": "changes", **record}))
        self._file.flush()

    def say(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def sync(self) -> None:
        """Flush the metrics to the disk, before a checkpoint that counts on them."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Close the files and the bar."""
        self._bar.close()
        self._board.close()
        self._file.close()

    def _record(self, step: int, kind: str, values: dict[str, Any], **labels: str) -> None:
        record = {"step": step, "kind": kind, **labels, **values, "seconds": self.seconds}
        self._file.write(_line(record))
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)


def _line(record: dict[str, Any]) -> str:
    # JSON has no number for what is not finite.
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _records_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """The records of steps up to `step`; a line that a crash tore is dropped with the rest.

    So are changes made after `step` itself: no checkpoint knows of them yet.
    """
    records: list[dict[str, Any]] = []
    if not path.is_file():
        return records
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["step"] < step + (record["kind"] != "changes"):
                records.append(record)
        except (ValueError, TypeError, KeyError):
            break
    return records
