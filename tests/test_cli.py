"""The command line: every command, and every error in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
        timeout=60,
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


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"{vflow.__version__}\n"


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "vflow-4m-*"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == vflow.list_models("vflow-4m-*")
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
        ("sample", "MODEL"),
        ("sample {model} -n 0", "n must be an integer of at least 1, got 0"),
        ("sample {model} -n two", "'two'"),
        ("sample {model} --temperature nan", "temperature must be a positive number, got nan"),
        ("sample {model} --temprature 1", "Unrecognized options: --temprature"),
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
        ("models no-such-*", "pattern must match one of flowpp-cifar10"),
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
