"""An evaluation goes on when its data or its model have another path: their contents count."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.small import IMAGES, held_out_images
from vflow.cli import main
from vflow.evaluate import evaluation, importance_sample


@pytest.fixture
def interrupted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[list[int]]]:
    """A folder with a model, with data by relative path, and with three of the images evaluated.

    And a list of the batches that are evaluated afterwards.
    """
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copytree(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    calls: list[list[int]] = []

    def counted(model: Any, images: Any, indices: list[int], *rest: Any) -> Any:
        if indices == [3] and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        calls.append(indices)
        return importance_sample(model, images, indices, *rest)

    stopped: list[bool] = []
    monkeypatch.setattr(evaluation, "importance_sample", counted)
    with pytest.raises(SystemExit) as stop:
        go_on("npy:data")
    assert stop.value.code == 130
    calls.clear()
    return tmp_path, calls


def go_on(data: str, *flags: str, model: str = "model") -> None:
    main(["evaluate", model, "--samples", "2", "--max-rows", "2", "--data", data, *flags])


def test_an_absolute_path_and_a_moved_folder(interrupted: tuple[Path, list[list[int]]]) -> None:
    where, calls = interrupted
    go_on(f"npy:{where / 'data'}")
    assert calls == [[3], [4], [5], [6]]
    (where / "data").rename(where / "renamed")
    go_on("npy:./renamed")
    assert len(calls) == 4, "evaluated again"
    results = [json.loads(path.read_text()) for path in where.glob("model/evaluation-*-2.json")]
    assert len(results) == 2
    assert results[0]["bits_per_dim"] == results[1]["bits_per_dim"]
    assert {each["data"] for each in results} == {f"npy:{where / 'data'}", "npy:./renamed"}


def test_with_results_in_a_place_of_their_own(interrupted: tuple[Path, list[list[int]]]) -> None:
    where, calls = interrupted
    go_on("npy:data", "--images", "4", "--out", "own/a.json")
    assert calls == [[0], [1], [2], [3]], "only those beside it in the default place count"
    shutil.move(where / "data", where / "elsewhere")
    shutil.move(where / "model", where / "other-model")
    go_on("npy:elsewhere", "--out", "own/a.json", model="other-model")
    assert calls[4:] == [[4], [5], [6]]


def test_other_images_are_another_evaluation(
    interrupted: tuple[Path, list[list[int]]], capsys: pytest.CaptureFixture[str]
) -> None:
    where, calls = interrupted
    images = np.load(where / "data" / "test.npy")
    images[-1, -1, -1, -1] ^= 1
    np.save(where / "data" / "test.npy", images)
    with pytest.raises(SystemExit) as stop:
        go_on("npy:data")
    assert stop.value.code == 1
    assert "is of images " in capsys.readouterr().err
    go_on("npy:./data")  # by a name of its own, from the first image on
    assert calls[0] == [0]
    go_on("npy:data", "--restart")
    assert len(calls) == 2 * IMAGES


def test_one_of_an_earlier_version_goes_on(interrupted: tuple[Path, list[list[int]]]) -> None:
    where, calls = interrupted
    (path,) = where.glob("model/*.images.jsonl")
    header, *lines = path.read_text().splitlines(keepends=True)
    fingerprint = json.loads(header)["fingerprint"]
    bare = hashlib.sha256(held_out_images(where).numpy().tobytes()).hexdigest()
    old = {**fingerprint, "data": "npy:data", "images": bare}
    path.write_text(json.dumps({"fingerprint": old}) + "\n" + "".join(lines))
    go_on("npy:data")
    assert calls == [[3], [4], [5], [6]]
