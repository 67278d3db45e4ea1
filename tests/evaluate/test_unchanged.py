"""Batches, interruptions and processes change no number of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.small import IMAGES, SAMPLES, numbers
from tests.forks import run_command
from vflow.evaluate import EvaluateConfig, evaluate, evaluation, importance_sample


@pytest.mark.parametrize("max_rows", [1, 2, 13], ids=lambda rows: f"{rows}-rows")
def test_batches_change_nothing(
    make_config: Callable[..., EvaluateConfig], whole: dict[str, Any], max_rows: int
) -> None:
    # float32 likelihoods of 9 bits/dim are good to 1e-6, and so is their much smaller spread.
    assert numbers(evaluate(make_config(max_rows=max_rows))) == pytest.approx(
        numbers(whole), rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_evaluation_goes_on(
    make_config: Callable[..., EvaluateConfig],
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    config = make_config(max_rows=2 * SAMPLES, precision=precision)
    calls: list[list[int]] = []

    def interrupted(model: Any, images: Any, indices: list[int], *rest: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(indices)
        return importance_sample(model, images, indices, *rest)

    monkeypatch.setattr(evaluation, "importance_sample", interrupted)
    with pytest.raises(KeyboardInterrupt, match="run the same command to go on"):
        evaluate(config)
    assert not config.results_path().exists()
    progress = config.results_path().with_name("results.images.jsonl")
    assert len(progress.read_text().splitlines()) == 1 + 4
    with progress.open("a") as file:
        file.write('{"image": 4, "elbo": -1')  # what a process killed while writing leaves

    calls.clear()

    def counted(model: Any, images: Any, indices: list[int], *rest: Any) -> Any:
        calls.append(indices)
        return importance_sample(model, images, indices, *rest)

    monkeypatch.setattr(evaluation, "importance_sample", counted)
    results = evaluate(config)
    assert calls == [[4, 5], [6]]
    assert numbers(results) == pytest.approx(
        numbers(whole), rel=1e-6 if precision == "fp32" else 0.01
    )
    assert json.loads(config.results_path().read_text()) == results

    assert numbers(evaluate(config)) == numbers(results)  # done already
    assert len(calls) == 2


def test_more_images_make_use_of_what_is_there(
    make_config: Callable[..., EvaluateConfig],
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = evaluate(make_config(images=3))
    assert first["images"] == 3
    monkeypatch.setattr(
        evaluation,
        "importance_sample",
        lambda model, images, indices, *rest: (
            pytest.fail("evaluated again")
            if {0, 1, 2} & set(indices)
            else importance_sample(model, images, indices, *rest)
        ),
    )
    assert numbers(evaluate(make_config())) == pytest.approx(numbers(whole), rel=1e-6)
    assert numbers(evaluate(make_config(images=3))) == numbers(first)  # and fewer, of more
    assert evaluate(make_config())["images"] == IMAGES


def test_two_processes_come_to_the_same(
    make_config: Callable[..., EvaluateConfig], whole: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(images=5)
    evaluate(config)  # two images are left for two processes
    # What a process of an earlier, interrupted evaluation has left behind is made use of.
    lines = config.results_path().with_name("results.images.jsonl").read_text().splitlines(True)
    config.results_path().with_name("results.images.jsonl").write_text("".join(lines[:3]))
    config.results_path().with_name("results.images.rank2.jsonl").write_text(lines[0] + lines[4])
    flags = ["--data", config.data, "--samples", str(SAMPLES), "--out", str(config.out)]
    command = ["evaluate", config.model, *flags, "--max-rows", "6"]
    done = run_command(command, "from vflow.cli import main; main()")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bits/dim on 7 test images") == 1
    results = json.loads(config.results_path().read_text())
    assert results["processes"] == 2
    assert numbers(results) == pytest.approx(numbers(whole), rel=1e-6)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["results.images.jsonl", "results.json"]
    records = (tmp_path / "results.images.jsonl").read_text().splitlines()[1:]
    assert [json.loads(record)["image"] for record in records] == list(range(IMAGES))
