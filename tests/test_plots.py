"""Pictures: what they show, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vflow.plots import CELL, GAP, save_curves, save_image_grid, save_side_by_side


def random_images(count: int, channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def write_metrics(path: Path, steps: int = 100, level: float = 4.0) -> Path:
    records = []
    for step in range(1, steps + 1):
        records.append({"step": step, "kind": "train", "bits_per_dim": level + 1 / step})
        if step % 25 == 0:
            records.append({"step": step, "kind": "eval", "bits_per_dim": level, "split": "test"})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("size", [16, 32, 200])
def test_grid_shows_every_image(tmp_path: Path, channels: int, size: int) -> None:
    images = random_images(7, channels, size)
    save_image_grid(images, tmp_path / "grid.png", columns=3)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.atleast_3d(np.asarray(picture))
    scale = max(1, round(CELL / size))
    cell = size * scale + GAP
    assert pixels.shape == (3 * cell + GAP, 3 * cell + GAP, channels)
    for index, image in enumerate(images):
        top, left = GAP + index // 3 * cell, GAP + index % 3 * cell
        shown = pixels[top : top + cell - GAP : scale, left : left + cell - GAP : scale]
        assert np.array_equal(shown, image.permute(1, 2, 0).numpy())
    assert (pixels[:GAP] == 255).all()
    assert (pixels[-cell:, -cell:] == 255).all()  # the two places of the last row left empty


@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (4, 3), (5, 3)])
def test_of_other_channels_the_first_are_shown(tmp_path: Path, channels: int, shown: int) -> None:
    images = random_images(4, channels)
    save_image_grid(images, tmp_path / "some.png")
    save_image_grid(images[:, :shown], tmp_path / "shown.png")
    assert (tmp_path / "some.png").read_bytes() == (tmp_path / "shown.png").read_bytes()
    with Image.open(tmp_path / "some.png") as picture:
        assert picture.mode == {1: "L", 3: "RGB"}[shown]


def test_grid_is_about_square_by_default(tmp_path: Path) -> None:
    save_image_grid(random_images(64), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width == picture.height


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        (random_images(2).float(), None, r"^images must be a uint8 tensor, got torch\.float32$"),
        (random_images(2).numpy(), None, r"^images must be a uint8 tensor, got ndarray$"),
        (random_images(2)[0], None, r"got \(3, 32, 32\)$"),
        (random_images(2)[:, :0], None, r"^images must .* none of them 0, got \(2, 0, 32, 32\)$"),
        (random_images(2)[:0], None, r"got \(0, 3, 32, 32\)$"),
        (random_images(2), 0, r"^columns must be an integer of at least 1, got 0$"),
        (random_images(2), 1.5, r"^columns must be an integer of at least 1, got 1\.5$"),
    ],
    ids=["float", "numpy", "3-d", "no-channels", "none", "columns-0", "columns-1.5"],
)
def test_grid_refuses(tmp_path: Path, images: object, columns: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_image_grid(images, tmp_path / "grid.png", columns)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_grid_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_image_grid(random_images(1), tmp_path / "file" / "grid.png")
    with pytest.raises(ValueError, match="unknown file extension"):
        save_image_grid(random_images(1), tmp_path / "grid.nonsense")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_side_by_side_shows_both(tmp_path: Path) -> None:
    path = tmp_path / "both.png"
    black, white = torch.zeros(4, 1, 16, 16), torch.full((4, 1, 16, 16), 200)
    save_side_by_side(black.byte(), white.byte(), path, ("left ones", "right ones"))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    middle = pixels.shape[1] // 2
    assert (pixels[:, :middle] == 0).sum() == 4 * 96**2
    assert (pixels[:, middle:] == 200).sum() == 4 * 96**2
    assert (pixels[:30] < 100).sum() > 50  # captions


def test_curves_are_drawn_and_repeat_exactly(tmp_path: Path) -> None:
    runs = {
        "one": write_metrics(tmp_path / "one.jsonl", level=4.0),
        "two": write_metrics(tmp_path / "two.jsonl", level=3.5),
    }
    save_curves(runs, tmp_path / "curves.png", title="two runs")
    first = (tmp_path / "curves.png").read_bytes()
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"step": 101, "kind": "tra')  # what a run in progress may leave
    save_curves(runs, tmp_path / "curves.png", title="two runs")
    assert (tmp_path / "curves.png").read_bytes() == first
    with Image.open(tmp_path / "curves.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(31, 119, 180), (255, 127, 14)} <= colors  # the first two of matplotlib's cycle


def test_levels_are_drawn_and_in_view(tmp_path: Path) -> None:
    runs = {"one": write_metrics(tmp_path / "one.jsonl", level=4.0)}
    save_curves(runs, tmp_path / "curves.png", levels={"PNG": 6.0})
    with Image.open(tmp_path / "curves.png") as picture:
        grey = np.asarray(picture.convert("L"))
    dashed = (np.abs(grey.astype(int) - 115) < 12).sum(1)  # 0.45 of 255
    assert dashed.max() > 0.4 * grey.shape[1]
    assert dashed.argmax() < grey.shape[0] / 2  # above the curve


def test_curves_of_a_short_run_with_a_lost_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "kind": "train", "bits_per_dim": NaN}\n'
        '{"step": 2, "kind": "train", "bits_per_dim": null}\n'
        '{"step": 2, "kind": "changes", "changes": {}}\n'
        '{"step": 3, "kind": "train", "bits_per_dim": 5.0}\n'
    )
    save_curves({"short": path}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"metrics\.jsonl must hold a record of training, but there is none$"),
        ("not json\n", r"metrics\.jsonl must hold JSON lines .* line 1 is none$"),
        ('{"step": 1}\n', r"line 1 is none$"),
        ('{"step": 1, "kind": "eval", "bits_per_dim": 4.0}\n', r"there is none$"),
    ],
    ids=["empty", "no-json", "no-kind", "no-training"],
)
def test_curves_refuse(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        save_curves({"run": path}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_curves_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^runs must hold at least one run, got none$"):
        save_curves({}, tmp_path / "curves.png")
    with pytest.raises(FileNotFoundError):
        save_curves({"run": tmp_path / "none.jsonl"}, tmp_path / "curves.png")
