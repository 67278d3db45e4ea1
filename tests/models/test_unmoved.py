"""Models, runs and losses from before configs were trees: `tests/unmoved.py` tells how recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

import vflow
from tests import unmoved

VALUE, TRAINING = 1e-12, 1e-6
DECODED = 1e-4
"""Where a mixture's CDF is flat, its inverse amplifies the rounding of the latent that it is given:
processors with AVX2 and with AVX-512 differ by 5e-6 of the scale."""
FLOAT32_RUN = 1e-3


def recorded(part: str) -> tuple[Any, bool]:
    """What was recorded, and whether this machine should give the same bits."""
    content = json.loads((unmoved.FOLDER / f"{part}.json").read_text())
    return content[part], content["machine"] == unmoved.machine()


def assert_unmoved(actual: list[str], expected: list[str], same: bool, relative: float) -> None:
    if same:
        assert actual == expected
        return
    values = [float.fromhex(value) for value in expected]
    scale = max(map(abs, values))
    assert [float.fromhex(v) for v in actual] == pytest.approx(values, abs=relative * scale)


@pytest.mark.parametrize("case", unmoved.SAVED)
def test_a_model_saved_before_gives_what_it_gave(case: str, tmp_path) -> None:
    models, same = recorded("models")
    index = models[case]
    model = vflow.load_model(unmoved.write_model(index, tmp_path / case))
    actual = unmoved.outcome(model)
    assert actual.keys() == index["outcome"].keys()
    for name, expected in index["outcome"].items():
        if name == "sample" and hasattr(model, "data_shape") and not same:
            continue  # rounding can take a pixel to the next whole number
        within = DECODED if name == "decode" else VALUE
        assert_unmoved(actual[name], expected, same, within)


def test_an_evaluation_begun_before_goes_on(tmp_path) -> None:
    """What an evaluation knows a model by is what it was."""
    from vflow.evaluate.evaluation import model_digest

    models, _ = recorded("models")
    digests = {case: index["digest"] for case, index in models.items() if "digest" in index}
    assert len(digests) == 4
    for case, digest in digests.items():
        model = vflow.load_model(unmoved.write_model(models[case], tmp_path / case))
        assert model_digest(model) == digest


@pytest.mark.parametrize("name", unmoved.LOSSES)
def test_twenty_steps_of_training(name: str) -> None:
    losses, same = recorded("losses")
    assert_unmoved(unmoved.losses(name), losses[name], same, TRAINING)


def test_a_run_interrupted_before_goes_on(tmp_path, monkeypatch) -> None:
    run, same = recorded("run")
    monkeypatch.chdir(tmp_path)
    unmoved.write_run(run)
    actual = unmoved.run_on()
    for name, expected in run["outcome"].items():
        assert_unmoved(actual[name], expected, same, FLOAT32_RUN)
