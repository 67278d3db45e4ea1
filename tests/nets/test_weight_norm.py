"""Weight normalisation: what acts, what initialisation sets, and the bits of exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vflow.models.initialization import as_made, data_dependent_init
from vflow.nets import Conv3x3, Pointwise, Trunk
from vflow.nets.layers import DataInitialized
from vflow.ops import use_backend

LAYERS: dict[str, Callable[[], DataInitialized]] = {
    "conv3x3": lambda: Conv3x3(3, 5, init_scale=0.1, weight_norm=True),
    "pointwise": lambda: Pointwise(3, 5, weight_norm=True),
}


def batch(n: int = 6) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return 2 + 3 * torch.randn(n, 4, 6, 3, generator=source, dtype=torch.float64)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> DataInitialized:
    torch.manual_seed(0)
    made = LAYERS[request.param]().double()
    assert made.gain is not None
    nn.init.normal_(made.bias)
    nn.init.uniform_(made.gain, -2, 2)
    return made


@torch.no_grad()
def test_it_is_torchs(layer: DataInitialized) -> None:
    kernel = layer.weight.shape[-1] if layer.weight.ndim == 4 else 1
    conv = nn.Conv2d(3, 5, kernel, padding="same").double()
    theirs = torch.nn.utils.parametrizations.weight_norm(conv)
    parts = theirs.parametrizations.weight
    parts.original0.copy_(layer.gain.view_as(parts.original0))
    parts.original1.copy_(layer.weight.view_as(parts.original1))
    theirs.bias.copy_(layer.bias)
    expected = theirs(batch().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(batch()), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_first_batch_sets_gain_and_bias(layer: DataInitialized) -> None:
    made = type(layer)(3, 5, init_scale=layer.init_scale, weight_norm=True).double()
    direction = made.weight.clone()
    assert as_made(made)
    data_dependent_init(made, lambda: made(batch()))
    assert not as_made(made)
    assert torch.equal(made.weight, direction)
    variance, mean = torch.var_mean(made(batch()), (0, 1, 2), correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    expected = torch.full_like(variance, layer.init_scale)
    torch.testing.assert_close(variance.sqrt(), expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_a_direction_of_zeros_gives_the_bias(layer: DataInitialized) -> None:
    layer.weight[1] = 0
    y = layer(batch())
    assert torch.equal(y[..., 1], layer.bias[1].expand(y.shape[:-1]))
    assert y.isfinite().all()


@torch.no_grad()
def test_exact_arithmetic_in_any_batch_and_number_of_threads() -> None:
    torch.manual_seed(0)
    net = Trunk(
        3, 4, filters=8, blocks=1, heads=2, size=(4, 6), weight_norm=True, final_elu=True
    ).eval()
    x, found, threads = batch().float(), [], torch.get_num_threads()
    try:
        for rows, number in ((1, 1), (6, 2), (4, 3)):
            torch.set_num_threads(number)
            with use_backend("exact"):
                found.append(torch.cat([net(part) for part in x.split(rows)]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], net.double()(x.double()).float(), rtol=1e-4, atol=1e-4)
    layer = net.float().conv_out
    with use_backend("exact"):  # sums run in one order, whatever lies where in memory
        usual = layer.acting_weight()
        layer.to(memory_format=torch.channels_last)
        assert torch.equal(layer.acting_weight(), usual)
