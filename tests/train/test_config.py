from __future__ import annotations

import sys
from pathlib import Path

import pytest

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
    ("--optim.lr 0", "optim.lr must be a number above 0, got 0.0"),
    ("--optim.lr nan", "optim.lr must be a number above 0, got nan"),
    ("--optim.warmup -1", "optim.warmup must be an integer of at least 0, got -1"),
    ("--optim.hold 10", "optim.hold must be an integer of at least optim.warmup 2000, got 10"),
    ("--optim.decay 1.5", "optim.decay must be a number above 0 and at most 1, got 1.5"),
    ("--optim.min-lr 1", "optim.min_lr must be a number of at least 0 and at most optim.lr 0.0012"),
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


def test_missing_out_is_named(run_main):
    code, (line,) = run_main("--preset", "vflow-tiny")
    assert code not in (0, None)
    assert "--out" in line


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
    code, (line,) = run_main("--out", "thesis", *GOOD)
    assert code == 1
    assert "holds metrics.jsonl and no config.json" in line
    assert (folder / "metrics.jsonl").read_text() == "mine"
    assert len(list(folder.iterdir())) == 1


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
    ("fields", "message"),
    [
        ({"compile": "yes"}, "compile must be True or False, got 'yes'"),
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
