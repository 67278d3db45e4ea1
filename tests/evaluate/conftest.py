"""A small model, small images, and an evaluation of the one on the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from tests.evaluate.small import IMAGES, SAMPLES, TINY, held_out_images
from vflow.evaluate import EvaluateConfig, evaluate


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x8 images in model/, and images of that size in data/."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 256, (40, 2, 2, 3))
    images = (corners.repeat(4, 1).repeat(4, 2) + rng.normal(0, 8, (40, 8, 8, 3))).clip(0, 255)
    (folder / "data").mkdir()
    np.save(folder / "data" / "train.npy", images[IMAGES:].astype(np.uint8))
    np.save(folder / "data" / "test.npy", images[:IMAGES].astype(np.uint8))
    torch.manual_seed(0)
    model = vflow.create_model("vflow-tiny", **TINY)
    model.initialize(held_out_images(folder))
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def make_config(folder: Path, tmp_path: Path) -> Callable[..., EvaluateConfig]:
    fields: dict[str, Any] = {
        "model": str(folder / "model"),
        "data": f"npy:{folder / 'data'}",
        "samples": SAMPLES,
        "out": tmp_path / "results.json",
    }
    return lambda **changes: EvaluateConfig(**{**fields, **changes})


@pytest.fixture(scope="session")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of an evaluation without incidents."""
    out = tmp_path_factory.mktemp("whole") / "results.json"
    data = f"npy:{folder / 'data'}"
    return evaluate(
        EvaluateConfig(model=str(folder / "model"), data=data, samples=SAMPLES, out=out)
    )
