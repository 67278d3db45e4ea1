"""The command line: every command, and every error in one line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from vflow.cli import COMMANDS, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x8 images in saved/, and images in images.npy."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    np.save(folder / "images.npy", images.permute(0, 2, 3, 1).numpy())
    model = vflow.create_model("vflow-tiny", filters=4, components=2, image_size=8)
    model.initialize(images)
    model.save_pretrained(folder / "saved")
    return folder


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vflow", *args],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def one_line_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail; its one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code not in (0, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vflow: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_as_a_module() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stderr == ""


def test_an_error_in_a_process_of_its_own() -> None:
    done = run("sample", "nowhere/at/all", "--n", "2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("vflow: error: ")
    assert "nowhere/at/all" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: vflow {command}" in out


def test_no_command_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 1
    assert "usage: vflow COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--version", "-V", "version"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([flag])
    assert capsys.readouterr().out == f"{vflow.__version__}\n"


@pytest.mark.parametrize("args", [["help"], ["help", "train"], ["train", "-h"]], ids=" ".join)
@pytest.mark.parametrize("columns", ["1", "20", "200"])
def test_help(
    args: list[str], columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: vflow")
    assert len(out) < 20_000, "in narrow columns, words come letter by letter"
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("columns", ["1", "30", "200"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_hints_survive_frames_of_any_kind(
    columns: str,
    encoding: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(SystemExit):
        main(["train", "--lr", "0.1", "--out", "r"])
    assert capsys.readouterr().err == (
        "vflow: error: Unrecognized options: --lr, 0.1; perhaps you meant --optim.lr or "
        "--optim.min-lr (vflow train --help lists the flags)\n"
    )


def test_in_ascii(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    data = f"npy:{folder / 'images.npy'}"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    main(["evaluate", str(folder / "saved"), "--data", data, "--out", str(tmp_path / "a.json")])
    assert " +- 0." in content.getvalue().decode("ascii")


@pytest.mark.parametrize(
    "command", ["evaluate", "sample", "train", "toy", "demo", "models", "info"]
)
def test_ctrl_c_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, command, (interrupted, ""))
    with pytest.raises(SystemExit) as stop:
        main([command])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "vflow: interrupted\n"


def test_ctrl_c_in_the_toy_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vflow.toy import training

    monkeypatch.setattr(training, "CHUNK", 2)
    chunk = training._chunk

    def interrupting(experiment: Any, number: int) -> Any:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return chunk(experiment, number)

    monkeypatch.setattr(training, "_chunk", interrupting)
    size = ["--dims", "2", "--steps", "1", "--hidden", "4"]
    flags = [*size, "--iterations", "6", "--seeds", "1", "--points", "5"]
    with pytest.raises(SystemExit) as stop:
        main(["toy", *flags, "--out", str(tmp_path)])
    assert stop.value.code == 130
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vflow: ")]
    assert error == ["vflow: stopped by SIGINT at iteration 4; the same command goes on from there"]


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "vflow-4m-*"])
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("presets")
    assert [line.split()[0] for line in lines] == vflow.list_models("vflow-4m-*")
    assert all("published: 3.1" in line for line in lines)
    assert "4,206,094" in lines[1]
    assert lines[1].split()[1] == "3x32x32"
    assert len({line.index("VFlow with") for line in lines[:2]}) == 1


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out
    assert "mixlogistic: " in out
    assert "concat_elu: reference" in out


def test_train_evaluate_sample(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "run", f"npy:{folder / 'images.npy'}"
    flags = "--preset vflow-tiny --steps 2 --batch-size 4 --model.filters 4 --model.components 2"
    main(["train", "--out", str(out), "--data", data, *flags.split(), "--sample-every", "0"])
    capsys.readouterr()
    main(["evaluate", str(out), "--data", data, "--samples", "2", "--images", "3"])
    path = next(out.glob("evaluation-*.json"))
    results = json.loads(path.read_text())
    text = capsys.readouterr().out
    assert f"{results['bits_per_dim']['mean']:.4f}" in text
    assert f"written to {path}" in text
    main(["sample", str(out), "-n", "3", "--temperature", "0.9", "--out", str(tmp_path / "a.png")])
    assert (
        capsys.readouterr().out
        == f"3 samples in {tmp_path / 'a.npz'}, shown in {tmp_path / 'a.png'}\n"
    )
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (3, 8, 8, 3)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("smaple model", "command must be one of train, evaluate, .* got 'smaple' (did you mean"),
        ("sample", "error: missing MODEL (vflow sample --help lists the flags)"),
        ("evaluate", "error: missing MODEL, --data STR (vflow evaluate --help lists the flags)"),
        ("sample {model} -n 0", "n must be an integer of at least 1, got 0"),
        ("sample {model} -n two", "'two'"),
        ("sample {model} --temperature nan", "temperature must be a number of at least 0, got nan"),
        (
            "sample {model} --temprature 1",
            "--temprature, 1; perhaps you meant --temperature (vflow",
        ),
        (
            "train --out r --lr 0.1",
            "--lr, 0.1; perhaps you meant --optim.lr or --optim.min-lr (vflow",
        ),
        ("train --out r --batch 3", "--batch, 3; perhaps you meant --batch-size ("),
        ("train --out r --optim.warm 3", "perhaps you meant --optim.warmup"),
        (
            "train --out r --seeed 1 --stps 3",
            "for --seeed perhaps you meant --seed; for --stps perhaps you meant --steps (",
        ),
        (
            "train --out r --precision fp8",
            "'fp8' .* '--precision'. Expected one of ('fp32', 'tf32'",
        ),
        ("train --out r --steps", "Missing value for argument '--steps'"),
        ("train --out r --steps two", "--steps must be {None}|INT, got 'two' ("),
        ("train --out r --optim.lr high", "--optim.lr must be FLOAT, got 'high' ("),
        ("train --out r --optim.betas 0.9", "'--optim.betas'. Expected 2 values"),
        ("toy --dim 3", "perhaps you meant --dims or --study-dims ("),
        ("demo --image 3", "perhaps you meant --images ("),
        ("sample {model} --device tpu", "'tpu'"),
        ("sample {folder}/none", "none"),
        ("sample {folder}", "must hold a config.json"),
        ("sample {model} --out {folder}", "out must end in .png"),
        ("evaluate {model}", "--data"),
        ("evaluate {model} --data nothing", "data must be one of photos"),
        ("evaluate {model} --data photos --split valid", "'valid'"),
        ("evaluate {model} --data npy:{folder}/none.npy", "none.npy"),
        ("evaluate {model} --data cifar10 --data-root {folder}", "cifar10"),
        ("evaluate {model} --data photos --samples 0", "samples must be an integer of at least 1"),
        ("evaluate {model} --data photos --out {folder}/x.txt", "out must end in .json"),
        ("evaluate {model} --data photos --images 0", "images must be an integer of at least 1"),
        ("evaluate {model} --data npy:{folder}/images.npy --out {folder}", "out must end in .json"),
        ("evaluate {folder}/images.npy --data photos", "images.npy is a file of data"),
        ("help smaple", "did you mean sample?"),
        ("models no-such-*", "pattern must match one of cifar10-mini"),
        ("info --verbose", "Unrecognized options: --verbose"),
        ("train --out {folder}/run --preset vflow-cifar11", "did you mean vflow-cifar10?"),
        ("train --preset vflow-tiny --optim.lr 0", "optim.lr must be a number above 0"),
        ("train --out {folder}/run --preset vflow-tiny --data none", "data must be one of"),
    ],
    ids=lambda value: value.replace("{", "").replace("}", ""),
)
def test_errors_in_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(folder.rglob("*"))
    error = one_line_error(capsys, *command.format(model=folder / "saved", folder=folder).split())
    parts = message.split(".*")
    assert all(part.strip() in error for part in parts), error
    assert sorted(folder.rglob("*")) == before
    assert not list(tmp_path.iterdir())
