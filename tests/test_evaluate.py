"""Evaluation: its numbers, and that nothing but seed, model and data changes them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from vflow.console import RunStopped
from vflow.evaluate import EvaluateConfig, evaluate, evaluation, importance_sample, open_model
from vflow.evaluate.evaluation import summary
from vflow.train import ModelOverrides, TrainConfig, train
from vflow.train.randomness import Stream, mix

IMAGES, SAMPLES = 7, 5
TINY: dict[str, Any] = {"filters": 4, "components": 2, "image_size": 8}


@pytest.fixture(scope="module")
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
    model.initialize(test_images(folder))
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


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of an evaluation without incidents."""
    out = tmp_path_factory.mktemp("whole") / "results.json"
    data = f"npy:{folder / 'data'}"
    return evaluate(
        EvaluateConfig(model=str(folder / "model"), data=data, samples=SAMPLES, out=out)
    )


def test_images(folder: Path) -> torch.Tensor:
    array = np.load(folder / "data" / "test.npy")
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


test_images.__test__ = False  # type: ignore[attr-defined]


def numbers(results: dict[str, Any]) -> list[float]:
    return [
        results[kind][figure]
        for kind in ("elbo_bits_per_dim", "bits_per_dim")
        for figure in ("mean", "stderr")
    ]


# The numbers


@pytest.mark.parametrize("max_rows", [1, 3, 1000], ids=lambda rows: f"{rows}-rows")
def test_streaming_equals_the_direct_sum(folder: Path, max_rows: int) -> None:
    model = vflow.load_model(folder / "model").double()
    images, indices = test_images(folder)[:3], [4, 9, 2]
    elbo, log_prob = importance_sample(model, images, indices, 6, max_rows, seed=3)
    for row, index in enumerate(indices):
        sources = [
            torch.Generator().manual_seed(mix(3, Stream.EVALUATION, index, sample))
            for sample in range(6)
        ]
        with torch.no_grad():
            terms = torch.cat(
                [model.elbo(images[row : row + 1], generator=source) for source in sources]
            )
        assert terms.std() > 0.1
        torch.testing.assert_close(elbo[row], terms.mean(), rtol=1e-12, atol=0)
        expected = terms.logsumexp(0) - math.log(6)
        torch.testing.assert_close(log_prob[row], expected, rtol=1e-12, atol=0)


def test_estimates_a_known_likelihood() -> None:
    """Terms whose exponentials average to exp(-50), and which themselves average to -50.5."""

    class Known:
        device = torch.device("cpu")

        def draw_noise(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"eps_u": torch.randn(batch, generator=generator)}

        def elbo(self, images: torch.Tensor, eps_u: torch.Tensor, generator: None) -> torch.Tensor:
            assert len(images) <= 100
            return eps_u - 50.5

    elbo, log_prob = importance_sample(Known(), torch.zeros(2), [0, 1], 20_000, 100)  # type: ignore[arg-type]
    assert elbo.tolist() == pytest.approx([-50.5, -50.5], abs=0.03)
    assert log_prob.tolist() == pytest.approx([-50, -50], abs=0.05)
    assert elbo[0] != elbo[1]


def test_results_are_means_and_standard_errors(
    folder: Path, whole: dict[str, Any], make_config: Callable[..., EvaluateConfig]
) -> None:
    config = make_config()
    assert evaluate(config) == {**json.loads(config.out_path.read_text())}
    model = vflow.load_model(folder / "model")
    elbo, log_prob = importance_sample(model, test_images(folder), range(IMAGES), SAMPLES)
    for values, kind in ((elbo, "elbo_bits_per_dim"), (log_prob, "bits_per_dim")):
        bits = -values.numpy() / (192 * math.log(2))
        stderr = bits.std(ddof=1) / math.sqrt(IMAGES)
        assert whole[kind] == pytest.approx({"mean": bits.mean(), "stderr": stderr}, rel=1e-6)
    assert whole["bits_per_dim"]["mean"] < whole["elbo_bits_per_dim"]["mean"]
    assert whole["class"] == "VFlow"
    assert whole["images"] == IMAGES
    assert whole["versions"]["torch"] == torch.__version__
    assert "±" in summary(whole)


def test_agrees_with_the_models_own_estimate(folder: Path, whole: dict[str, Any]) -> None:
    model = vflow.load_model(folder / "model")
    source = torch.Generator().manual_seed(1)
    own = model.bits_per_dim(test_images(folder), samples=SAMPLES, generator=source).mean().item()
    assert own == pytest.approx(whole["bits_per_dim"]["mean"], abs=0.1)


def test_one_image_has_no_standard_error(make_config: Callable[..., EvaluateConfig]) -> None:
    results = evaluate(make_config(images=1, samples=1))
    assert results["bits_per_dim"] == results["elbo_bits_per_dim"]
    assert results["bits_per_dim"]["stderr"] is None
    assert "±" not in summary(results)


def test_seeds_differ(make_config: Callable[..., EvaluateConfig], whole: dict[str, Any]) -> None:
    other = evaluate(make_config(seed=1))
    assert numbers(other) != numbers(whole)
    assert numbers(other) == pytest.approx(numbers(whole), abs=0.1)


# What must not change them


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
    capsys: pytest.CaptureFixture[str],
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
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    assert "run the same command to go on" in capsys.readouterr().err
    assert not config.out_path.exists()
    progress = config.out_path.with_name("results.images.jsonl")
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
    assert json.loads(config.out_path.read_text()) == results

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
    lines = config.out_path.with_name("results.images.jsonl").read_text().splitlines(True)
    config.out_path.with_name("results.images.jsonl").write_text("".join(lines[:3]))
    config.out_path.with_name("results.images.rank2.jsonl").write_text(lines[0] + lines[4])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "vflow"]
    flags = ["--data", config.data, "--samples", str(SAMPLES), "--out", str(config.out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [*command, "evaluate", config.model, *flags, "--max-rows", "6"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bits/dim on 7 test images") == 1
    results = json.loads(config.out_path.read_text())
    assert results["processes"] == 2
    assert numbers(results) == pytest.approx(numbers(whole), rel=1e-6)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["results.images.jsonl", "results.json"]
    records = (tmp_path / "results.images.jsonl").read_text().splitlines()[1:]
    assert [json.loads(record)["image"] for record in records] == list(range(IMAGES))


# What is evaluated


def test_a_training_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    data = f"npy:{folder / 'data'}"
    config = TrainConfig(
        out=run,
        preset="vflow-tiny",
        data=data,
        batch_size=4,
        steps=3,
        checkpoint_every=2,
        eval_every=0,
        sample_every=0,
        device="cpu",
        model=ModelOverrides(filters=4, components=2),
    )
    train(config)
    evaluation_config = EvaluateConfig(model=str(run), data=data)
    finished = evaluate(evaluation_config)
    assert evaluation_config.out_path.parent == run
    assert evaluation_config.out_path.is_file()
    model = open_model(run)

    (run / "model").rename(tmp_path / "model")
    unfinished = evaluate(replace(evaluation_config, restart=True))
    assert numbers(unfinished) == numbers(finished)

    newest = run / "checkpoints" / "step-00000003" / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    before = open_model(run)
    assert "step-00000003 is passed over" in capsys.readouterr().err
    assert any(
        not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True)
    )
    assert before.initialized
    assert not before.training

    for checkpoint in (run / "checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    with pytest.raises(FileNotFoundError, match=r"must hold a finished model or a checkpoint"):
        open_model(run)


def test_the_default_place_of_results(tmp_path: Path) -> None:
    data = "folder:/some/where"
    model = tmp_path / "model"
    model.mkdir()
    beside = EvaluateConfig(model=str(model), data=data, samples=3)
    assert beside.out_path == model / "evaluation-folder-some-where-test-3.json"
    hub = EvaluateConfig(model="someone/model", data="photos", split="train")
    assert hub.out_path == Path("someone-model/evaluation-photos-train-1.json")


# What is refused


def test_results_of_another_evaluation_are_not_mixed_in(
    make_config: Callable[..., EvaluateConfig], folder: Path
) -> None:
    evaluate(make_config(images=2))
    before = make_config().out_path.read_bytes()
    with pytest.raises(
        ValueError, match=r"is of samples 5, seed 0, got samples 6, seed 2; --restart replaces it$"
    ):
        evaluate(make_config(samples=6, seed=2))
    with pytest.raises(ValueError, match=r"is of split test, images \w{12}, got split train"):
        evaluate(make_config(split="train"))
    assert make_config().out_path.read_bytes() == before
    results = evaluate(make_config(samples=6, images=2, restart=True))
    assert results["samples"] == 6

    progress = make_config().out_path.with_name("results.images.jsonl")
    progress.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"must begin with the fingerprint .* --restart"):
        evaluate(make_config())


def test_a_diverged_model_is_named(
    make_config: Callable[..., EvaluateConfig], folder: Path, tmp_path: Path
) -> None:
    model = vflow.load_model(folder / "model")
    with torch.no_grad():
        next(model.parameters()).fill_(1e30)
    model.save_pretrained(tmp_path / "diverged")
    config = make_config(model=str(tmp_path / "diverged"))
    with pytest.raises(
        RunStopped, match=r"^log P must be finite, got (nan|-inf) for image 0 of npy:"
    ):
        evaluate(config)
    assert not config.out_path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, r"^samples must be an integer of at least 1, got 0$"),
        ({"samples": 1.5}, r"^samples must be an integer of at least 1, got 1\.5$"),
        ({"images": 0}, r"^images must be an integer of at least 1, got 0$"),
        ({"images": 8}, r"^images must be at most the 7 test images of .*, got 8$"),
        ({"max_rows": 0}, r"^max_rows must be an integer of at least 1, got 0$"),
        ({"seed": -1}, r"^seed must be an integer of at least 0, got -1$"),
        ({"seed": 1 << 63}, r"^seed must be below 2\^63, got 9223372036854775808$"),
        ({"split": "validation"}, r"^split must be one of train, test, got 'validation'$"),
        ({"precision": "fp16"}, r"^precision must be one of fp32, bf16, got 'fp16'$"),
        ({"device": "tpu"}, r"^device must be one of auto, cpu, cuda, got 'tpu'$"),
        ({"data": "photographs"}, r"^data must be one of photos, .* got 'photographs'"),
        ({"data": "npy:none.npy"}, r"none\.npy"),
        ({"data": "npy:{folder}/large.npy"}, r"^data must hold 3x8x8 images .* are 3x12x12$"),
        ({"data": "npy:{folder}/empty.npy"}, r"empty\.npy"),
        ({"data": "npy:{folder}/floats.npy"}, r"uint8"),
        ({"out": "{folder}"}, r"^out must end in \.json, got "),
        ({"out": "{folder}/folder.json"}, r"^out must be a file, but .* is a folder$"),
        ({"out": "{folder}/file/out.json"}, r"^out must be in a folder, but .*file is a file$"),
        ({"out": "/proc/out.json"}, r"^out must be in a writable folder, but /proc is not: "),
    ],
    ids=lambda value: (
        next(iter(f"{k}-{v}" for k, v in value.items())) if isinstance(value, dict) else ""
    ),
)
def test_bad_arguments(
    make_config: Callable[..., EvaluateConfig],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "large.npy", np.zeros((20, 12, 12, 3), np.uint8))
    np.save(folder / "empty.npy", np.zeros((0, 8, 8, 3), np.uint8))
    np.save(folder / "floats.npy", np.zeros((20, 8, 8, 3)))
    (folder / "file").write_text("")
    (folder / "folder.json").mkdir()
    changes = {
        key: value.format(folder=folder) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    if "out" in changes:
        changes["out"] = Path(changes["out"])
    with pytest.raises((ValueError, OSError), match=message) as caught:
        evaluate(make_config(**changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("results*"))


def break_model(folder: Path, kind: str) -> str:
    """Spoil a copy of a model; what the error must say."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    if kind == "no config":
        config.unlink()
        return r"must hold a config\.json"
    if kind == "no weights":
        weights.unlink()
        return r"must hold a model\.safetensors"
    if kind == "torch weights instead":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
        return r"must hold a model\.safetensors"
    if kind == "corrupt config":
        config.write_text(config.read_text()[:40])
        return r"config\.json must be a JSON file, but it does not parse"
    if kind == "config of something else":
        config.write_text("[1, 2]")
        return r"config\.json must be a JSON object"
    if kind == "unknown class":
        config.write_text(config.read_text().replace('"VFlow"', '"VGG"'))
        return r"config\.json must name a model of .*, got 'VGG'"
    if kind == "unknown field":
        config.write_text(config.read_text().replace('"filters"', '"filtres"'))
        return r"filtres"
    if kind == "value out of range":
        config.write_text(config.read_text().replace('"heads": 2', '"heads": 0'))
        return r"config\.json: heads must be an integer of at least 1, got 0"
    if kind == "weights of another size":
        config.write_text(config.read_text().replace('"blocks": 1', '"blocks": 2', 1))
        return r"model\.safetensors must hold the tensors of its config"
    if kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
        return r"model\.safetensors must be a whole safetensors file"
    if kind == "empty weights":
        weights.write_bytes(b"")
        return r"model\.safetensors must be a whole safetensors file"
    if kind == "pickle":
        torch.save({"weight": torch.zeros(3)}, weights)
        return r"model\.safetensors must be a whole safetensors file \(never a pickle\)"
    assert kind == "vectors"
    for file in folder.iterdir():
        file.unlink()
    vflow.Glow(vflow.models.GlowConfig()).save_pretrained(folder)
    return r"^model must be one of images, but .* is a Glow$"


@pytest.mark.parametrize(
    "kind",
    [
        *("no config", "no weights", "torch weights instead", "corrupt config", "vectors"),
        *("config of something else", "unknown class", "unknown field", "value out of range"),
        *("weights of another size", "truncated weights", "empty weights", "pickle"),
    ],
)
def test_broken_models(folder: Path, tmp_path: Path, kind: str) -> None:
    vflow.load_model(folder / "model").save_pretrained(tmp_path / "model")
    message = break_model(tmp_path / "model", kind)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        open_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none"):
        open_model(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^model must be a folder or .*file is a file$"):
        open_model(tmp_path / "file")
