"""Every registered flow in processes and interrupted runs; `test_kinds.py` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import kinds
from tests.forks import run_ranks
from vflow.models import presets
from vflow.models.builders import FLOWS
from vflow.train import OptimConfig, TrainConfig, train


def test_two_processes_have_the_gradients_of_one() -> None:
    first, second = run_ranks("from tests.models.ddp_of_kinds import main; main()")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    same = [line.removeprefix("same: ") for line in first.stdout.splitlines() if "same: " in line]
    assert same == [*kinds.MODELS]


IMAGE_FLOWS = [kind for kind in FLOWS.names if kinds.is_image(kind)]


@pytest.mark.parametrize("widened", [False, True], ids=["plain", "widened"])
@pytest.mark.parametrize("kind", IMAGE_FLOWS)
def test_an_interrupted_run_ends_like_a_whole_one(
    kind: str, widened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{kind}, normal" if widened else kind
    monkeypatch.setitem(presets._PRESETS, "tiny-kind", lambda: kinds.MODELS[name])
    pixels = (255 * np.random.default_rng(0).random((12, 8, 8, 3))).astype(np.uint8)
    np.savez(tmp_path / "images.npz", train=pixels[:8], test=pixels[8:])

    def run(out: str, steps: int) -> Path:
        options: dict[str, Any] = {"eval_every": 2, "sample_every": 0, "log_every": 1}
        config = TrainConfig(
            out=tmp_path / out,
            preset="tiny-kind",
            data=f"npy:{tmp_path / 'images.npz'}",
            batch_size=4,
            steps=steps,
            optim=OptimConfig(warmup=1, ema=0.9),
            **options,
        )
        return train(config)

    whole = run("whole", 4)
    run("interrupted", 2)
    resumed = run("interrupted", 4)
    ours, theirs = (load_file(path / "model.safetensors") for path in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
