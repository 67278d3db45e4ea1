"""What a run's folder tells of the run."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vflow.io.evaluations import draws_of
from vflow.runtime.files import read_json

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its files have it."""

    name: str
    folder: Path
    config: Json
    """Its config.json."""
    settings: dict[str, str]
    """Its config, flat: "optim.lr" -> "0.0012"."""
    train: list[Json]
    """The training records of metrics.jsonl."""
    tests: list[Json]
    """The evaluations along the way."""
    samples: dict[int, Path] = field(default_factory=dict)
    """Grids of samples by step."""
    evaluations: list[Json] = field(default_factory=list)
    """What `vflow evaluate` left in the run's folder or its model's."""

    @property
    def metrics(self) -> Path:
        """The run's metrics.jsonl."""
        return self.folder / "metrics.jsonl"

    @property
    def test_is_estimated(self) -> bool:
        """Whether the bits of the last evaluation along the way are an unbiased estimate."""
        return bool(self.tests) and bool(self.tests[-1].get("estimated"))

    @property
    def step(self) -> int:
        """The last step of which there is a record."""
        return int(max(record["step"] for record in [*self.train, *self.tests]))

    @property
    def hours(self) -> float:
        """Time trained."""
        return float(max(record["seconds"] for record in [*self.train, *self.tests])) / 3600

    @property
    def images_per_second(self) -> float:
        """Median over the training records."""
        return statistics.median(record["images_per_second"] for record in self.train)

    def evaluation_at(self, step: int) -> Json | None:
        """The evaluation along the way after a step, in the form of `vflow evaluate`'s files."""
        found = next((record for record in self.tests if record["step"] == step), None)
        if found is None or found["bits_per_dim"] is None:
            return None
        bits = {"mean": found["bits_per_dim"], "stderr": found.get("stderr")}
        return {
            "data": self.settings.get("data", ""),
            "split": found.get("split", "test"),
            "images": found["images"],
            "samples": 1,
            "elbo_bits_per_dim": bits,
            "bits_per_dim": bits,
            "estimate": {"draws": 1} if found.get("estimated") else None,
        }

    def last(self, kind: str) -> float | None:
        """Bits/dim of the last record, "train" or "test", that is a number."""
        for record in reversed(self.train if kind == "train" else self.tests):
            value = record["bits_per_dim"]
            if value is not None and math.isfinite(value):
                return float(value)
        return None


def read_run(folder: str | Path) -> RunRecord:
    """Read a run, finished or not.

    Raises:
        FileNotFoundError: If the folder is none of a run.
        ValueError: If a file of it is damaged, or nothing has been recorded yet.
    """
    folder = Path(folder)
    for name in ("config.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} must be a run's folder, but holds no {name}")
    records = _records(folder / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    if not train:
        raise ValueError(f"{folder} must hold a record of training, but there is none yet")
    config = read_json(folder / "config.json")
    evaluations = [
        read_json(path)
        for place in (folder, folder / "model")
        for path in sorted(place.glob("evaluation-*.json"))
    ]
    samples = {
        int(path.stem.rpartition("-")[2]): path
        for path in sorted((folder / "samples").glob("step-*.png"))
    }
    return RunRecord(
        name=folder.resolve().name,
        folder=folder,
        config=config,
        settings=flat_settings(config),
        train=train,
        tests=[record for record in records if record["kind"] == "eval"],
        samples=samples,
        evaluations=evaluations,
    )


def differing_settings(runs: list[RunRecord]) -> list[str]:
    """The settings in which the runs differ, where their results go left out."""
    names = {name for run in runs for name in run.settings} - {"out"}
    return sorted(name for name in names if len({run.settings.get(name) for run in runs}) > 1)


def what_differs(evaluations: list[Json]) -> list[str]:
    """What stands in the way of comparing evaluations: images, their number, samples, precision.

    The images are the same where their digests are; earlier versions wrote none, and the names of
    data and split stand in for them.
    """
    with_digests = all("digests" in found for found in evaluations)
    facts = {
        "images": lambda found: (
            found["digests"]["images"] if with_digests else (found["data"], found["split"])
        ),
        "number of images": lambda found: found["images"],
        "samples": lambda found: found["samples"],
        "how the bound is estimated": draws_of,
        "precision": lambda found: found.get("precision"),
    }
    return [name for name, fact in facts.items() if len(set(map(fact, evaluations))) > 1]


def _records(path: Path) -> list[Json]:
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break  # a line that a running or killed process has not finished
        try:
            record = json.loads(line)
            record["step"]
            if record["kind"] != "changes":  # of settings, on purpose: config.json has the newest
                record["bits_per_dim"], record["seconds"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} must hold records of a run, but line {number} is none") from (
                error
            )
        records.append(record)
    return records


def flat_settings(value: Any, prefix: str = "") -> dict[str, str]:
    """A config by dotted names: {"optim": {"lr": 0.1}} -> {"optim.lr": "0.1"}."""
    if isinstance(value, dict):
        parts = (
            flat_settings(part, f"{prefix}.{name}".lstrip(".")) for name, part in value.items()
        )
        return {name: text for part in parts for name, text in part.items()}
    return {prefix: "" if value is None else str(value)}
