"""`vflow fid`: torchmetrics' numbers, on features that a test can have."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

import vflow
from vflow.cli import main
from vflow.fid import feature_network, features_of, frechet_distance, kernel_distance
from vflow.runtime.extras import MissingExtra
from vflow.sample import draw_samples

HERE = "tests.test_fid"


class Means(nn.Module):
    """Means of quarters of the image, by channel: 12 features."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


class Flat(nn.Module):
    """No features: what is refused."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float()


not_a_module = dict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fid")
    torch.manual_seed(0)
    model = vflow.create_model("vflow-tiny", filters=4, components=2, image_size=8)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    model.initialize(torch.from_numpy(images).permute(0, 3, 1, 2))
    model.save_pretrained(folder / "model")
    np.savez(folder / "images.npz", train=images[:40], test=images[40:])
    return folder


def gaussians_apart(a: Tensor, b: Tensor) -> float:
    """The definition."""
    means = [np.asarray(x.mean(0)) for x in (a, b)]
    first, second = (np.cov(np.asarray(x), rowvar=False) for x in (a, b))
    root = scipy.linalg.sqrtm(first @ second).real
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * root))


def kernels_apart(a: Tensor, b: Tensor) -> float:
    """The unbiased estimate of KID over all."""
    n, dims = a.shape

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / dims + 1) ** 3

    within = sum((kernel(x, x).sum() - kernel(x, x).trace()) / (n * (n - 1)) for x in (a, b))
    return float(within - 2 * kernel(a, b).mean())


def test_the_distances_are_those_of_their_definitions() -> None:
    source = torch.Generator().manual_seed(0)
    a = torch.randn(60, 5, generator=source, dtype=torch.float64)
    b = 0.5 + 1.5 * torch.randn(60, 5, generator=source, dtype=torch.float64)
    assert frechet_distance(a, b) == pytest.approx(gaussians_apart(a, b), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    state = torch.get_rng_state()
    # All of both in each subset, so that the draw of subsets does not count.
    assert kernel_distance(a, b) == pytest.approx(kernels_apart(a, b), rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = f"--samples 20 --sets 2 --features {HERE}:Means --seed 4 --batch-size 7 --images 30"
    data, out = f"npy:{folder / 'images.npz'}", folder / "fid.json"
    main(["fid", str(folder / "model"), "--data", data, *flags.split(), "--out", str(out)])
    results = json.loads(out.read_text())
    model = vflow.load_model(folder / "model")
    pixels = np.load(folder / "images.npz")["train"][:30]
    known = features_of(Means(), torch.from_numpy(pixels).permute(0, 3, 1, 2), 64)
    expected = [
        frechet_distance(known, features_of(Means(), draw_samples(model, 20, seed=seed), 64))
        for seed in (4, 5)
    ]
    assert results["fid"]["values"] == pytest.approx(expected, rel=1e-4)
    assert results["fid"]["mean"] == pytest.approx(sum(expected) / 2)
    assert results["fid"]["std"] == pytest.approx(abs(expected[0] - expected[1]) / 2**0.5)
    assert (results["images"], results["samples"], results["split"]) == (30, 20, "train")
    assert capsys.readouterr().out.startswith(f"FID  {results['fid']['mean']:.2f} ± ")


def test_grey_images_are_shown_as_grey() -> None:
    grey = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(
        features_of(Means(), grey, 3), features_of(Means(), grey.repeat(1, 3, 1, 1), 4)
    )
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        features_of(Means(), grey.repeat(1, 2, 1, 1), 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet", "features must be inception, timm:NAME or MODULE:NAME, got 'resnet'"),
        ("no_such_module:x", "features must name a function that is there: No module"),
        (f"{HERE}:nothing", "features must name a function that is there"),
        (f"{HERE}:not_a_module", "features must give a module"),
        (f"{HERE}:Flat", r"features must be [8, D], got (8, 3, 8, 8)"),
    ],
)
def test_features_that_are_none(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    expected: str,
) -> None:
    data, out = f"npy:{folder / 'images.npz'}", tmp_path / "fid.json"
    flags = ["--samples", "4", "--images", "8", "--features", name, "--out", str(out)]
    with pytest.raises(SystemExit):
        main(["fid", str(folder / "model"), "--data", data, *flags])
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_a_network_of_timm_sees_what_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: its size, mean and deviation."""
    wanted = {"input_size": (3, 4, 4), "mean": (0.5, 0.25, 0.0), "std": (0.5, 0.5, 0.25)}
    timm = types.SimpleNamespace(
        create_model=lambda name, pretrained, num_classes: nn.Flatten(),
        data=types.SimpleNamespace(resolve_data_config=lambda config, model: wanted),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    white = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    found = features_of(feature_network("timm:some"), white, 2).unflatten(1, (3, 4, 4))
    expected = torch.tensor([1.0, 1.5, 4.0], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(found, expected.expand(2, 3, 4, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("missing", "name"), [("torch_fidelity", "inception"), ("timm", "timm:resnet18")]
)
def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=rf"{name} needs {missing.replace('_', '.')}"):
        feature_network(name)
