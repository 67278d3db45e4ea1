"""Sampling: what decides a sample, what is written, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vflow
from vflow.cli import main
from vflow.plots import save_image_grid
from vflow.sample import SampleConfig, draw_samples, sample


@pytest.fixture(scope="module", params=["vflow-tiny", "flowpp-tiny", "glow-tiny"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    small = {} if request.param.startswith("glow") else {"filters": 4, "components": 2}
    model: Any = vflow.create_model(request.param, image_size=8, **small)
    model.initialize(torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8))
    return model.eval()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "model"
    torch.manual_seed(0)
    model = vflow.create_model("vflow-tiny", filters=4, components=2, image_size=8)
    model.initialize(torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8))
    model.save_pretrained(path)
    return path


@pytest.fixture
def make_config(model_path: Path, tmp_path: Path) -> Callable[..., SampleConfig]:
    fields: dict[str, Any] = {"model": str(model_path), "n": 6, "out": tmp_path / "grid.png"}
    return lambda **changes: SampleConfig(**{**fields, **changes})


def test_a_sample_depends_on_its_seed_and_number_alone(model: Any) -> None:
    images = draw_samples(model, 7, seed=3)
    assert images.dtype == torch.uint8
    assert images.shape == (7, 3, 8, 8)
    assert len(images.unique(dim=0)) == 7
    assert torch.equal(images, draw_samples(model, 7, seed=3))
    assert not torch.equal(images, draw_samples(model, 7, seed=4))
    for other in (draw_samples(model, 7, seed=3, batch_size=2), draw_samples(model, 9, seed=3)[:7]):
        # Other batches round otherwise, which now and then takes a pixel over an edge.
        difference = (images.int() - other.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.01


def test_low_temperature_draws_near_the_latents_centre(model: Any) -> None:
    latent = model.encode(torch.zeros(1, 3, 8, 8).byte())
    parts = latent if isinstance(latent, tuple) else (latent,)
    zeros = tuple(torch.zeros_like(part) for part in parts)
    centre = model.decode(zeros if isinstance(latent, tuple) else zeros[0])
    cold = draw_samples(model, 4, temperature=1e-4).float()
    assert (cold - centre).abs().max() < 2
    mode = draw_samples(model, 3, temperature=0)
    assert torch.equal(mode, centre.floor().clamp(0, 255).byte().expand(3, -1, -1, -1))
    assert (draw_samples(model, 4).float() - centre).abs().max() > 20


def test_writes_the_picture_and_the_array(
    make_config: Callable[..., SampleConfig], tmp_path: Path
) -> None:
    images = sample(make_config(temperature=0.9))
    with np.load(tmp_path / "grid.npz", allow_pickle=False) as file:
        assert file.files == ["images"]
        array = file["images"]
    assert array.dtype == np.uint8
    assert np.array_equal(array, images.permute(0, 2, 3, 1).numpy())
    save_image_grid(images, tmp_path / "expected.png")
    with Image.open(tmp_path / "grid.png") as shown, Image.open(tmp_path / "expected.png") as grid:
        assert np.array_equal(np.asarray(shown), np.asarray(grid))
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "grid.npz", "expected.png"}


def test_places_of_its_own(make_config: Callable[..., SampleConfig], tmp_path: Path) -> None:
    sample(make_config(n=1, out=tmp_path / "new" / "a.png", npz=tmp_path / "b.npz"))
    assert (tmp_path / "new" / "a.png").is_file()
    assert (tmp_path / "b.npz").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, r"^n must be an integer of at least 1, got 0$"),
        ({"n": -3}, r"^n must be an integer of at least 1, got -3$"),
        ({"batch_size": 0}, r"^batch_size must be an integer of at least 1, got 0$"),
        ({"temperature": -1.0}, r"^temperature must be a number of at least 0, got -1\.0$"),
        ({"temperature": math.nan}, r"^temperature must be a number of at least 0, got nan$"),
        ({"temperature": math.inf}, r"^temperature must be a number of at least 0, got inf$"),
        ({"temperature": "hot"}, r"^temperature must be a number of at least 0, got 'hot'$"),
        ({"seed": -1}, r"^seed must be an integer of at least 0, got -1$"),
        ({"device": "gpu"}, r"^device must be one of auto, cpu, cuda, got 'gpu'$"),
        ({"out": "{folder}/a.jpg"}, r"^out must end in \.png, got .*a\.jpg$"),
        ({"out": "{folder}/folder.png"}, r"^out must be a file, but .* is a folder$"),
        ({"out": "{folder}/file/a.png"}, r"^out must be in a folder, but .*file is a file$"),
        ({"out": "/proc/a.png"}, r"^out must be in a writable folder, but /proc is not: "),
        ({"npz": "{folder}/a.npy"}, r"^npz must end in \.npz, got .*a\.npy$"),
        ({"model": "{folder}"}, r"must hold a config\.json, but there is none$"),
        ({"model": "{folder}/file"}, r"^model must be a folder or .*file is a file$"),
    ],
    ids=lambda value: (
        "-".join(f"{k}-{v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_bad_arguments(
    make_config: Callable[..., SampleConfig],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "inputs"
    (folder / "folder.png").mkdir(parents=True)
    (folder / "file").write_text("")
    for key, value in changes.items():
        if isinstance(value, str):
            value = value.format(folder=folder)
            changes = {key: Path(value) if key in ("out", "npz") else value}
    with pytest.raises((ValueError, OSError), match=message) as caught:
        sample(make_config(**changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("grid*"))
    assert {path.name for path in folder.iterdir()} == {"folder.png", "file"}


@pytest.mark.parametrize(
    "number", [np.int64, np.uint8, torch.tensor], ids=["int64", "uint8", "0-d"]
)
def test_numbers_of_numpy_and_torch(model: Any, number: Any) -> None:
    images = draw_samples(model, number(2), seed=number(3), batch_size=number(1))
    assert torch.equal(images, draw_samples(model, 2, seed=3, batch_size=1))
    for temperature in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert torch.equal(draw_samples(model, 1, temperature), draw_samples(model, 1, 0.5))


def test_functions_check_too(model: Any) -> None:
    with pytest.raises(ValueError, match=r"^n must be"):
        draw_samples(model, 0)
    with pytest.raises(ValueError, match=r"^temperature must be"):
        draw_samples(model, 1, temperature=math.nan)
    with pytest.raises(ValueError, match=r"^batch_size must be"):
        draw_samples(model, 1, batch_size=True)
    with pytest.raises(ValueError, match=r"^seed must be"):
        draw_samples(model, 1, seed=-1)
    with pytest.raises(ValueError, match=r"^n must be an integer of at least 1, got 2\.5$"):
        draw_samples(model, np.float64(2.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_any_number_of_channels(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The array holds them all, and the picture what can be shown; likelihoods count them all."""
    tiny = {"filters": 4, "components": 2, "image_size": 8, "in_channels": channels}
    made: Any = vflow.create_model("vflow-tiny", **tiny)
    images = torch.randint(0, 256, (20, channels, 8, 8), dtype=torch.uint8)
    made.initialize(images)
    made.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "images.npy", images.permute(0, 2, 3, 1).numpy())
    main(["sample", str(tmp_path / "model"), "-n", "3", "--out", str(tmp_path / "grid.png")])
    with np.load(tmp_path / "grid.npz") as file:
        assert file["images"].shape == (3, 8, 8, channels)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.mode == ("RGB" if channels > 2 else "L")
    data, out = f"npy:{tmp_path / 'images.npy'}", tmp_path / "results.json"
    main(["evaluate", str(tmp_path / "model"), "--data", data, "--out", str(out)])
    assert 5 < json.loads(out.read_text())["bits_per_dim"]["mean"] < 12
