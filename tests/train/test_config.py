from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.forks import run_fork
from vflow.runtime.distributed import Ranks
from vflow.train import ModelOverrides, OptimConfig, TrainConfig
from vflow.train.__main__ import main, parse

# (flags, what the error must say)
BAD_FLAGS = [
    ("--preset vflow-cifar", "preset must be one of"),
    ("--nonsense 3", "nonsense"),
    ("--steps 10 --epochs 2", "steps must be left out where epochs is given, got 10 and 2"),
    ("--steps 0", "steps must be an integer of at least 1, got 0"),
    ("--steps many", "steps"),
    ("--epochs -1", "epochs must be an integer of at least 1, got -1"),
    ("--batch-size 1", "batch_size must be an integer of at least 2, got 1"),
    ("--batch-size 2.5", "batch-size"),
    ("--seed -1", "seed must be an integer of at least 0, got -1"),
    (f"--seed {2**63}", "seed must be below 2^63"),
    ("--keep 0", "keep must be an integer of at least 1, got 0"),
    ("--log-every 0", "log_every must be an integer of at least 1, got 0"),
    ("--checkpoint-every 0", "checkpoint_every must be an integer of at least 1, got 0"),
    ("--eval-every -5", "eval_every must be an integer of at least 0, got -5"),
    ("--sample-every -1", "sample_every must be an integer of at least 0, got -1"),
    ("--eval-images 0", "eval_images must be an integer of at least 1, got 0"),
    ("--image-size 0", "image_size must be a positive integer or HEIGHTxWIDTH, got '0'"),
    ("--precision fp16", "precision"),
    ("--device tpu", "device"),
    ("--model.filters 0", "filters must be an integer of at least 1, got 0"),
    ("--model.heads 7", "filters must be a multiple of heads, got filters 96 and heads 7"),
    ("--model.image-size 30", "image_size must have a height and width divisible by 4, got 30x30"),
    ("--model.dropout 1.0", "dropout must be a number in [0, 1), got 1.0"),
    ("--preset flowpp-tiny --model.posterior-blocks 1", "must be left out for flowpp-tiny"),
    ("--model.set squish=1", "override must be one of"),
    ("--model.set weight_std", "model.set must be NAME=VALUE, got 'weight_std'"),
    ("--model.set blocks=3 --model.blocks 2", "model.set must leave blocks to --model.blocks"),
    ("--model.set flow.filters=7", "filters must be a multiple of heads"),
    ("--model.coupling splin", "did you mean spline?"),
    ("--optim.lr 0", "optim.lr must be a number above 0, got 0.0"),
    ("--optim.lr nan", "optim.lr must be a number above 0, got nan"),
    ("--optim.warmup -1", "optim.warmup must be an integer of at least 0, got -1"),
    ("--optim.hold 10", "optim.hold must be an integer of at least optim.warmup 2000, got 10"),
    ("--optim.decay 1.5", "optim.decay must be a number above 0 and at most 1, got 1.5"),
    ("--optim.min-lr 1", "optim.min_lr must be a number of at least 0 and at most optim.lr 0.0012"),
    ("--optim.fall 0", "optim.fall must be an integer of at least 1, got 0"),
    (
        "--optim.fall 9 --optim.decay 0.9",
        "optim.decay must be left out where optim.fall is given, got 0.9 and 9",
    ),
    ("--optim.fall 9 --optim.min-lr 0", "optim.min_lr must be above 0 where optim.fall is given"),
    ("--optim.clip 0", "optim.clip must be a number above 0, got 0.0"),
    ("--optim.ema 1", "optim.ema must be a number of at least 0 and below 1, got 1.0"),
    ("--optim.betas 0.9 1.0", "optim.betas must be a number of at least 0 and below 1, got 1.0"),
    ("--data nowhere", "data must be one of"),
    ("--data npy:missing.npy", "missing.npy"),
    ("--preset vflow-tiny --data npy:IMAGES --image-size 16", "image_size must be"),
    ("--preset vflow-tiny --data npy:IMAGES --model.image-size 16", "image_size must be"),
    ("--preset vflow-tiny --data npy:IMAGES --model.in-channels 1", "model.in_channels must be"),
    ("--preset vflow-tiny --data npy:IMAGES --batch-size 81", "batch_size must be at most"),
]


@pytest.fixture
def run_main(monkeypatch, tmp_path, images, capsys):
    """The exit code and the lines on stderr of a command line run in an empty folder."""

    def run(*flags: str) -> tuple[object, list[str]]:
        monkeypatch.chdir(tmp_path)
        flags = tuple(flag.replace("IMAGES", str(images)) for flag in flags)
        monkeypatch.setattr(sys, "argv", ["vflow.train", *flags])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS, ids=[flags for flags, _ in BAD_FLAGS])
def test_bad_flags_are_one_line_and_write_nothing(run_main, tmp_path, flags, message):
    code, lines = run_main("--out", "run", *flags.split())
    assert code not in (0, None)
    assert len(lines) == 1
    assert lines[0].startswith("vflow: error: ")
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("cifar10", "cifar10"),
        ("npy:some/where/my cats.npy", "my-cats"),
        ("npy:/data/cats-{split}.npz", "cats"),
        ("folder:/data/Faces.v2/", "Faces.v2"),
        ("folder:.", "here"),
        ("folder:/", "folder"),
    ],
)
def test_run_folder_is_named_after_preset_and_data(tmp_path, monkeypatch, data, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert TrainConfig(data=data).out_path == Path("runs") / f"vflow-cifar10-{name}"
    assert TrainConfig(data=data, out="mine").out_path == Path("mine")


def test_data_that_are_missing_are_all_that_is_told(run_main, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("VFLOW_DATA", str(tmp_path / "data"))
    code, (line,) = run_main()
    assert code == 1
    assert line.startswith("vflow: error: cifar10 needs cifar-10-binary.tar.gz (or ")
    assert list(tmp_path.iterdir()) == []


GOOD = ("--preset", "vflow-tiny", "--data", "npy:IMAGES", "--batch-size", "8", "--steps", "1")


def test_file_in_the_way_of_the_run_folder(run_main, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/run"):
        code, (line,) = run_main("--out", out, *GOOD)
        assert code == 1
        assert "out must be a folder, but" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_of_something_else_is_left_alone(run_main, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("mine")
    for config in (None, '{"model": "VFlow"}', "[]", "no JSON"):
        if config is not None:
            (folder / "config.json").write_text(config)
        before = {path: path.read_text() for path in folder.iterdir()}
        code, (line,) = run_main("--out", "thesis", *GOOD)
        assert code == 1
        held = "metrics.jsonl" if config is None else "config.json"
        assert f"holds {held} and no config.json of a run" in line
        assert {path: path.read_text() for path in folder.iterdir()} == before


def test_files_that_are_not_ours_are_no_hindrance(run_main, tmp_path, images, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    foreign = ("slurm-1.out", ".DS_Store", "README.md", "log.txt", ".tmp-note", "events.out")
    for name in foreign:
        (folder / name).write_text("mine")
    flags = [flag.replace("IMAGES", str(images)) for flag in GOOD]
    monkeypatch.setattr(sys, "argv", ["vflow.train", "--out", str(folder), *flags])
    main()
    assert (folder / "model").is_dir()
    assert all((folder / name).read_text() == "mine" for name in foreign)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("native", "backend must be one of reference, cpu, triton, cuda, exact, got 'native'"),
        ("cuda", "backend 'cuda'"),
    ],
)
def test_bad_backend_is_refused_before_anything_is_written(tmp_path, images, value, message):
    flags = [flag.replace("IMAGES", str(images)) for flag in GOOD]
    argv = ["vflow.train", "--device", "cpu", "--out", "run", *flags]
    code = f"import sys; sys.argv = {argv!r}; from vflow.train.__main__ import main; main()"
    done = run_fork(code, {**os.environ, "VFLOW_BACKEND": value}, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # what the system says to all but root
    code, (line,) = run_main("--out", "run", *GOOD)
    assert code == 1
    assert "out must be writable" in line
    assert list(tmp_path.iterdir()) == []


def test_batch_not_divisible_by_processes(run_main, tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    code, (line,) = run_main("--out", "run", *GOOD)
    assert code == 1
    assert "batch_size must be divisible by the 3 processes, got 8" in line
    assert list(tmp_path.iterdir()) == []


def test_broken_torchrun_environment(run_main, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    monkeypatch.setenv("RANK", "0")
    code, (line,) = run_main("--out", "run", *GOOD)
    assert code == 1
    assert "WORLD_SIZE must be a number" in line


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK must be a number, as torchrun sets it, got ''"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "LOCAL_RANK must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK must be below WORLD_SIZE 2"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be at least 1, got 0"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE must be a number"),
    ],
    ids=str,
)
def test_processes_that_cannot_be(environment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Ranks.from_environment(environment)


@pytest.mark.parametrize("more", [{}, {"RANK": "0"}, {"RANK": "0", "LOCAL_RANK": "0"}], ids=str)
def test_world_of_one_is_one_process(more):
    assert Ranks.from_environment({"WORLD_SIZE": "1", **more}) == Ranks()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compile": "yes"}, "compile must be True or False, got 'yes'"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"deterministic": None}, "deterministic must be True or False, got None"),
        ({"init_from": ""}, "init_from must be a path or a name, got ''"),
        ({"init_from": 3}, "init_from must be a path or a name, got 3"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes must be a number of at least 0, got -1"),
        ({"batch_size": True}, "batch_size must be an integer of at least 2, got True"),
        ({"batch_size": 8.0}, "batch_size must be an integer of at least 2, got 8.0"),
        ({"precision": "fp64"}, "precision must be one of fp32, tf32, bf16, got 'fp64'"),
        ({"out": ""}, "out must be a path, got ''"),
        ({"out": 3}, "out must be a path, got 3"),
        ({"data": None}, "data must be the name of a data set, got None"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_fields_from_python(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"out": "run", **fields})


def test_flags_and_fields_agree(to_flags):
    config = TrainConfig(
        out=Path("runs/x"),
        preset="vflow-tiny",
        data="photos",
        flip=True,
        init_from="runs/y",
        deterministic=True,
        checkpoint_minutes=0.5,
        epochs=3,
        compile=True,
        precision="bf16",
        model=ModelOverrides(filters=4, posterior_attention=False, dropout=0.0),
        optim=OptimConfig(lr=0.001, betas=(0.5, 0.75)),
    )
    assert parse(to_flags(config)) == config


def test_defaults_are_the_papers_recipe():
    config = TrainConfig(out="run")
    assert (config.preset, config.data, config.batch_size) == ("vflow-cifar10", "cifar10", 64)
    optim = config.optim
    assert (optim.lr, optim.warmup, optim.hold, optim.decay) == (0.0012, 2000, 50_000, 0.99999)
    assert (optim.min_lr, optim.clip, optim.ema) == (0.0003, 1.0, 0.999)


def test_any_field_of_the_preset_is_a_flag(tmp_path, capsys):
    changes = ['scales=[[["channel", 2]]]', "flow.filters=4", "weight_std=0.05", "coupling=spline"]
    config = TrainConfig(out=tmp_path, preset="vflow-tiny", model=ModelOverrides(set=changes))
    model = config.model_config()
    assert model.flow.scales == ((("channel", 2),),)
    assert model.flow.filters == 4
    assert model.augment.posterior.filters == 8
    assert model.augment.posterior.weight_std == model.flow.weight_std == 0.05
    assert model.coupling.kind == "spline"
    widened = TrainConfig(
        out=tmp_path, preset="glow-tiny", model=ModelOverrides(extra_dims=2, posterior="gaussian")
    )
    assert widened.model_config().augment.channels == 2
    assert ModelOverrides(set=("squash=False", "posterior=normal")).given() == {
        "squash": False,
        "posterior": "normal",
    }
