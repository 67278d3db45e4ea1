from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vflow.report import model_folder
from vflow.train import ModelOverrides, OptimConfig, TrainConfig, train

TIMINGS = ("seconds", "images_per_second")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Several processes share the machine, and bit-identity wants one number of threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Curves take a third of a tiny run; `whole_run` has them, and tests/test_plots.py."""
    monkeypatch.setattr(model_folder, "save_curves", lambda runs, path: path.touch())


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """80 smooth 8x8 training images and 20 test images."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 256, (100, 2, 2, 3)).astype(np.float64)
    smooth = corners.repeat(4, axis=1).repeat(4, axis=2) + rng.normal(0, 8, (100, 8, 8, 3))
    values = smooth.clip(0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "smooth.npz"
    np.savez(path, train=values[:80], test=values[80:])
    return path


def _config(images: Path, out: Path, **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "out": out,
        "preset": "flowpp-tiny",
        "data": f"npy:{images}",
        "batch_size": 8,
        "steps": 12,
        "log_every": 2,
        "checkpoint_every": 4,
        "eval_every": 6,
        "sample_every": 0,
        "model": ModelOverrides(filters=4, components=2, dropout=0.1),
        "optim": OptimConfig(warmup=4, ema=0.9),
    }
    return TrainConfig(**{**fields, **changes})


@pytest.fixture
def make_config(images, tmp_path):
    """The config of a run of a tenth of a second a step; keyword arguments change it."""
    return lambda **changes: _config(images, **{"out": tmp_path / "run", **changes})


@pytest.fixture(scope="session")
def whole_run(images, tmp_path_factory) -> Path:
    """What the run of `make_config()` leaves when nothing interrupts it."""
    torch.set_num_threads(1)
    config = _config(images, tmp_path_factory.mktemp("whole") / "run")
    assert train(config) == config.out / "model"
    return config.out


@pytest.fixture
def to_flags():
    """The command line of a config."""

    def flags(config: TrainConfig) -> list[str]:
        fields = config.to_json()
        fields.update({f"model.{k}": v for k, v in fields.pop("model").items()})
        fields.update({f"optim.{k}": v for k, v in fields.pop("optim").items()})
        line = []
        for name, value in fields.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool) and "." not in name:
                line.append(f"--{flag}" if value else f"--no-{flag}")
            elif value is not None:
                values = value if isinstance(value, list) else [value]
                line += [f"--{flag}", *map(str, values)]
        return line

    return flags


@pytest.fixture
def losses():
    """What a run's metrics say of bits/dim: a list of numbers, and no timings among them."""

    def of(run: Path) -> list[float]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [record["bits_per_dim"] for record in map(json.loads, lines)]

    return of


@pytest.fixture
def fingerprint():
    """All that a run leaves, but for the time it took: equal if and only if bit-identical."""

    def of(run: Path) -> dict[str, Any]:
        last = max((run / "checkpoints").glob("step-*"))
        files = [*last.glob("*.safetensors"), run / "model" / "model.safetensors"]
        digests = {
            str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.exists()
        }
        lines = (run / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        metrics = [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]
        return {"files": digests, "metrics": metrics}

    return of
