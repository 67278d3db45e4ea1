"""Residual Flow on images: norms, estimates against the exact, and what errors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vflow
from vflow.flows import ImageResidualBlock, no_logdet
from vflow.nets import LipschitzConvNet
from vflow.nets.lipschitz_images import convolution_norm, spectral_bound
from vflow.train import OptimConfig, TrainConfig, train


def shaken(scale: float = 0.3) -> Any:
    torch.manual_seed(0)
    changes: dict[str, Any] = {"image_size": 4, "width": 4, "dense_width": 4}
    model = vflow.create_model("residual-tiny", **changes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def images(n: int = 2) -> torch.Tensor:
    source = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, 3, 4, 4), generator=source, dtype=torch.uint8)


def test_the_norm_of_a_convolution_is_bounded_closely() -> None:
    torch.manual_seed(0)
    for size, slack in (((3, 5), 1.5), ((12, 12), 1.1)):
        weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
        basis = torch.eye(2 * size[0] * size[1], dtype=torch.float64).view(-1, 2, *size)
        dense = F.conv2d(basis, weight, padding=1).flatten(1)
        norm = torch.linalg.matrix_norm(dense, 2)
        assert norm <= convolution_norm(weight, size) <= slack * norm
    matrix = torch.randn(30, 20, dtype=torch.float64)
    norm = torch.linalg.matrix_norm(matrix, 2)
    assert (1 - 1e-12) * norm <= spectral_bound(matrix) <= 1.002 * norm


def test_a_block_is_a_contraction_whatever_its_weights() -> None:
    torch.manual_seed(0)
    net = LipschitzConvNet((4, 4), 2, width=5, coefficient=0.9).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20)
    x = torch.randn(1, 4, 4, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(net, x).view(32, 32)
    assert torch.linalg.matrix_norm(jacobian, 2) < 0.9**3
    block = ImageResidualBlock(net, 0)
    with torch.no_grad():
        y, logdet = block(x)
        back, inverse_logdet = block.inverse(y)
        assert block(x, no_logdet(x))[1].isnan().all()
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse_logdet, -logdet)


def test_the_estimate_and_its_gradient_are_unbiased() -> None:
    model = shaken()
    data, rows = images(1), 4000
    source = torch.Generator().manual_seed(3)
    eps_u = model.draw_noise(1, source)["eps_u"]
    trace = model.draw_training_noise(rows, source)["eps_trace"]
    exact = model(data, eps_u)
    weight = model.flow.flows[1].net.maps[0].weight
    (expected,) = torch.autograd.grad(exact.sum(), weight)
    same = {"eps_u": eps_u.expand(rows, -1, -1, -1), "eps_trace": trace}
    estimates = model(data.expand(rows, -1, -1, -1), **same)
    error = estimates.std() / rows**0.5
    assert error > 0
    assert (estimates.mean() - exact).abs() < 4 * error
    gradients = torch.stack(
        [
            torch.autograd.grad(part.mean(), weight, retain_graph=True)[0]
            for part in estimates.split(100)
        ]
    )
    errors = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - expected).abs() < 5 * errors + 1e-12).all()


def test_an_estimate_says_its_error() -> None:
    model = shaken()
    mean, error = model.estimate_elbo(images(), 100, torch.Generator().manual_seed(0))
    exact = torch.stack([model.elbo(images()) for _ in range(50)]).detach()
    both = (error.square() + exact.var(0) / 50).sqrt()
    assert ((mean - exact.mean(0)).abs() < 4 * both).all()
    again = model.estimate_elbo(images(), 100, torch.Generator().manual_seed(0))
    assert torch.equal(mean, again[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shaken().estimate_elbo(images(), 1), "draws must be at least 2"),
        (lambda: shaken()(images(), eps_trace=torch.zeros(2)), "eps_trace must have shape (2, "),
        (
            lambda: vflow.create_model("glow-tiny", image_size=4)(images(), eps_trace=1),
            "eps_trace must be None",
        ),
        (
            lambda: vflow.create_model("residual-tiny", coefficient=1.0),
            "coefficient must be a number in (0, 1), got 1.0",
        ),
        (lambda: vflow.create_model("residual-tiny", scales=(1, 0)), "the blocks in scales must"),
        (
            lambda: vflow.create_model("residual-tiny", scales=(1,) * 6),
            "divisible by 32, got 16x16",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert message in str(error.value)


def test_a_run_says_that_its_test_bits_are_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "images.npz", train=pixels[:8], test=pixels[8:])
    for preset in ("residual-tiny", "glow-tiny"):
        train(
            TrainConfig(
                out=tmp_path / preset,
                preset=preset,
                data=f"npy:{tmp_path / 'images.npz'}",
                batch_size=4,
                steps=1,
                eval_every=1,
                sample_every=0,
                optim=OptimConfig(warmup=1),
            )
        )
        lines = (tmp_path / preset / "metrics.jsonl").read_text().splitlines()
        found = [record for record in map(json.loads, lines) if record["kind"] == "eval"]
        estimated = preset == "residual-tiny"
        assert [record.get("estimated", False) for record in found] == [estimated]
        assert ("(an unbiased estimate)" in capsys.readouterr().out) is estimated
