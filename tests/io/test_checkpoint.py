from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from vflow.io.checkpoint import (
    list_steps,
    newest_checkpoint,
    open_checkpoint,
    remove_leftovers,
    save_checkpoint,
)

STATE = {"seed": 3, "window": {"steps": 1, "bits_per_dim": 0.1 + 0.2}}


def _tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    values = torch.arange(12.0).view(3, 4).t() + step  # not contiguous
    return {
        "model": {"weight": values, "flag": torch.tensor(True)},
        "optimizer": {"step.weight": torch.tensor(float(step))},
    }


def _save(folder: Path, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, step, _tensors(step), STATE, keep)


def test_round_trip_is_exact(tmp_path):
    path = _save(tmp_path / "checkpoints", 12)
    assert path.name == "step-00000012"
    checkpoint = newest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 12
    assert checkpoint.state == {"step": 12, **STATE}
    for file, tensors in _tensors(12).items():
        loaded = checkpoint.tensors(file)
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(loaded[name], tensor)
            assert loaded[name].dtype == tensor.dtype


def test_no_folder_and_empty_folder_mean_none(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_newest_are_kept(tmp_path, keep):
    for step in (1, 9, 10, 100):
        _save(tmp_path, step, keep)
    assert list(list_steps(tmp_path)) == [1, 9, 10, 100][-keep:]
    assert len(list(tmp_path.iterdir())) == keep


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _remove(path: Path) -> None:
    path.unlink()


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0]}))


def _torch_pickle(path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, path)


DAMAGE = [_truncate, _empty, _flip_a_bit, _remove, _pickle, _torch_pickle]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.strip("_"))
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys, damage, name):
    _save(tmp_path, 10)
    path = _save(tmp_path, 20)
    damage(path / name)
    with pytest.raises((ValueError, OSError), match=name) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 10
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(path / name) in warning


def test_checkpoint_whose_files_begin_like_a_pickle_is_none(tmp_path):
    # A safetensors file begins with the length of its header, which may well end in 0x80.
    starts = set()
    for length in range(1, 300, 8):
        tensors = {"model": {"x" * length: torch.ones(1)}}
        path = save_checkpoint(tmp_path, length, tensors, {}, keep=1)
        starts.add((path / "model.safetensors").read_bytes()[:1])
        assert open_checkpoint(path).step == length
    assert b"\x80" in starts


@pytest.mark.parametrize("damage", [_pickle, _torch_pickle])
def test_pickle_is_called_one(tmp_path, damage):
    path = _save(tmp_path, 1)
    damage(path / "model.safetensors")
    with pytest.raises(ValueError, match="must be a safetensors file, got a pickle"):
        open_checkpoint(path)


def test_wrong_digit_in_the_state_is_noticed(tmp_path):
    path = _save(tmp_path, 1) / "state.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ValueError, match="must match its own digest"):
        open_checkpoint(path.parent)


def test_renamed_checkpoint_is_refused(tmp_path):
    path = _save(tmp_path, 1).rename(tmp_path / "step-00000002")
    with pytest.raises(ValueError, match="named after its step, which is 1"):
        open_checkpoint(path)


def test_empty_checkpoint_folder_is_passed_over(tmp_path, capsys):
    _save(tmp_path, 10)
    (tmp_path / "step-00000020").mkdir()
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert "step-00000020" in capsys.readouterr().err


def test_none_intact_is_an_error(tmp_path):
    for step in (1, 2):
        _truncate(_save(tmp_path, step) / "model.safetensors")
    with pytest.raises(ValueError, match="each of its 2 is damaged"):
        newest_checkpoint(tmp_path)


def test_damaged_newer_checkpoint_never_pushes_out_a_good_one(tmp_path):
    _save(tmp_path, 10, keep=1)
    good = newest_checkpoint(tmp_path)
    (tmp_path / "step-00000020").mkdir()  # damaged: the run goes on from 10
    assert good is not None
    _save(tmp_path, 15, keep=1)
    assert list(list_steps(tmp_path)) == [15]


def test_saving_over_a_damaged_checkpoint_of_the_same_step(tmp_path):
    _truncate(_save(tmp_path, 5) / "model.safetensors")
    assert open_checkpoint(_save(tmp_path, 5)).step == 5


def test_leftovers_of_a_crash_are_no_checkpoints_and_go(tmp_path):
    _save(tmp_path, 5)
    leftover = tmp_path / ".tmp-step-00000010"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-abc.json").write_text("{")
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 5
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_failing_to_write_leaves_the_older_checkpoint_alone(tmp_path, monkeypatch):
    _save(tmp_path, 5)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vflow.io.weights.save_file", no_space)
    with pytest.raises(OSError, match="No space left"):
        _save(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    assert open_checkpoint(tmp_path / "step-00000005").step == 5


def test_state_is_plain_json_and_nothing_is_pickled(tmp_path):
    path = _save(tmp_path, 5)
    assert sorted(file.name for file in path.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    content = json.loads((path / "state.json").read_text())
    assert content["files"].keys() == {"model.safetensors", "optimizer.safetensors"}
