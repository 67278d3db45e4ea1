"""Models on disk: whole round trips, and every way in which a folder can be wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vflow
from tests import unmoved
from vflow.models import Glow, GlowConfig, VectorVFlow, VectorVFlowConfig, load_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = vflow.create_model("vflow-tiny")
    model.initialize(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((saved / name).read_bytes())
    return copy


def test_round_trip(saved: Path) -> None:
    loaded = vflow.VFlow.from_pretrained(saved)
    assert loaded.initialized
    assert not loaded.training
    assert loaded.config == vflow.create_model("vflow-tiny").config
    again = load_model(saved)
    assert isinstance(again, vflow.VFlow)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    noise = loaded.draw_noise(2)
    assert torch.equal(loaded.elbo(images, **noise), again.elbo(images, **noise))
    assert {p.name for p in saved.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_precision_is_kept(tmp_path: Path) -> None:
    model = vflow.create_model("flowpp-tiny").double()
    model.save_pretrained(tmp_path / "double")
    loaded = vflow.FlowPlusPlus.from_pretrained(tmp_path / "double")
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
    )
    assert not loaded.initialized


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=str)
def test_rounded_for_the_file(saved: Path, tmp_path: Path, storage, precision) -> None:
    model = vflow.VFlow.from_pretrained(saved).to(precision)
    model.save_pretrained(tmp_path, storage=storage)
    whole, half = (folder / "model.safetensors" for folder in (saved, tmp_path))
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded = vflow.VFlow.from_pretrained(tmp_path)
    for ours, before in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, before.to(storage).to(precision))
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    noise = loaded.draw_noise(2)
    assert loaded.elbo(images, **noise).dtype == precision
    loaded.save_pretrained(tmp_path / "again", storage=storage)
    again = vflow.VFlow.from_pretrained(tmp_path / "again")
    assert torch.equal(loaded.elbo(images, **noise), again.elbo(images, **noise))


def test_what_cannot_be_rounded_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = vflow.create_model("flowpp-tiny")
    with pytest.raises(ValueError, match=r"storage must be torch.float16 or .*, got torch.int8"):
        model.save_pretrained(tmp_path, storage=torch.int8)
    name, parameter = next(iter(model.named_parameters()))
    parameter.data.view(-1)[0] = 1e6
    with pytest.raises(ValueError, match=rf"storage must hold {name}, of up to 1e\+06, got"):
        model.save_pretrained(tmp_path, storage=torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_precision_that_is_none_is_refused(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors", metadata={"precision": "int4"})
    with pytest.raises(ValueError, match=r"must tell a precision of float32, .*, got 'int4'"):
        load_model(tmp_path)


def edit_config(path: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        *parents, last = path.split(".")
        node = config
        for name in parents:
            node = node[name]
        node[last] = value
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def edit_old_config(**changes: object) -> Callable[[Path], None]:
    """The same model's config as it was saved before configs were trees, with changes."""

    def damage(folder: Path) -> None:
        saved = json.loads((unmoved.FOLDER / "models.json").read_text())["models"]["vflow"]
        config = {**saved["config"], "filters": 8, "image_size": [16, 16], "components": 4}
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return damage


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "model.safetensors")


def poison(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["density.density.density.flow.flows.1.first.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "must hold a config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "must hold a model.safetensors"),
    "config is no JSON": (write("config.json", b"{"), "must be a JSON file"),
    "config is binary": (write("config.json", b"\xff\xfe"), "must be a JSON file"),
    "config is a list": (write("config.json", b"[]"), "must be a JSON object"),
    "no format": (
        write("config.json", b"{}"),
        'must have a "format" or a "model", and has',
    ),
    "a later format": (edit_config("format", 3), "must be of format 2 or older, got 3"),
    "unknown kind": (edit_config("flow.kind", "flopp"), "did you mean flowpp?"),
    "no kind": (edit_config("dequantize", {}), 'dequantize: must be an object with a "kind"'),
    "unknown part": (edit_config("colour", 1), "augment, data, dequantize, flow, format: colour d"),
    "unknown field": (edit_config("flow.colour", 1), "the fields of FlowppSpec: colour differ"),
    "bad field": (edit_config("flow.filters", 7), "flow: filters must be a multiple of heads"),
    "bad type": (edit_config("flow.scales", 3), "scales must hold the stages of at least one"),
    "bad shape": (edit_config("data.shape", [3, 16]), "shape must be [C, H, W] or [D]"),
    "bad data": (edit_config("data", 3), 'data: must be {"shape": [...]}, got 3'),
    "bad augment": (edit_config("augment", 3), "augment: must be an object, got 3"),
    "bad posterior": (edit_config("augment.posterior", 3), "augment.posterior: must be an object"),
    "another size": (edit_config("flow.filters", 16), "must hold the tensors of its config"),
    "old, unknown class": (
        edit_old_config(model="RealNVP"),
        "must name a model of FlowPlusPlus",
    ),
    "old, unknown field": (edit_old_config(colour=1), "the fields of VFlowConfig: colour differ"),
    "old, bad field": (edit_old_config(filters=7), "filters must be a multiple of heads"),
    "old, bad type": (edit_old_config(full_stages=3), "config.json"),
    "old, another size": (edit_old_config(filters=16), "must hold the tensors of its config"),
    "truncated": (truncate, "must be a whole safetensors file"),
    "empty file": (write("model.safetensors", b""), "must be a whole safetensors file"),
    "pickle": (
        write("model.safetensors", pickle.dumps({"weight": 1})),
        "must be a whole safetensors file (never a pickle)",
    ),
    "missing tensor": (drop_tensor, "must hold the tensors of its config"),
    "NaN": (poison, "must hold finite numbers"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folder(folder: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_model(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a folder or a Hub repository"):
        load_model(tmp_path / "nothing" / "here")


def test_another_class(folder: Path) -> None:
    with pytest.raises(ValueError, match="must be of a FlowPlusPlus, got a VFlow"):
        vflow.FlowPlusPlus.from_pretrained(folder)


def test_a_failed_save_keeps_the_old_weights(folder: Path, monkeypatch) -> None:
    model = vflow.VFlow.from_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("vflow.io.weights.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "config",
    [GlowConfig(hidden=8), VectorVFlowConfig(hidden=8, extra_dims=2)],
    ids=lambda config: type(config).__name__,
)
def test_vector_models_saved_before_the_leaky_relu_keep_theirs(config, tmp_path: Path) -> None:
    config = dataclasses.replace(config, negative_slope=0.0)
    model = Glow(config) if isinstance(config, GlowConfig) else VectorVFlow(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = {"model": type(model).__name__, **dataclasses.asdict(config)}
    del fields["negative_slope"]
    path.write_text(json.dumps(fields))
    x, loaded = torch.randn(5, 2), load_model(tmp_path)
    torch.manual_seed(1)  # of the noise of q(z|x)
    expected = model(x)
    torch.manual_seed(1)
    assert torch.equal(loaded(x), expected)
    assert type(config)().negative_slope > 0, "new models have another"
    del fields["hidden"]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="Config: hidden differ"):
        load_model(tmp_path)
