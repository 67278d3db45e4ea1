"""Exact arithmetic: right, and the same bits in any batch, thread count and instruction set."""

from __future__ import annotations

import hashlib
import os

import pytest
import torch
from torch.nn import functional as F

from tests.forks import run_fork
from vflow import ops
from vflow.flows import COUPLINGS
from vflow.flows.couplings import Coupling
from vflow.models.builders.glow import GlowSpec
from vflow.nets import Conv3x3, GatedAttention, Pointwise, Trunk
from vflow.nets.gated import apply_gate
from vflow.ops import exact, native
from vflow.ops.coder import CELL_BITS, GRID, GRID_BITS, Coder


def net(context: bool = True) -> Trunk:
    torch.manual_seed(3)
    trunk = Trunk(
        3,
        10,
        filters=24,
        blocks=2,
        heads=2,
        size=(6, 5),
        context_channels=64 if context else None,
    )
    return trunk.eval()


@pytest.mark.parametrize("channels", [(1, 1), (3, 17), (40, 5), (64, 33)])
@pytest.mark.parametrize("width", [1, 2, 7, 16])
@torch.no_grad()
def test_convolutions(channels, width):
    for layer in (Conv3x3(*channels), Pointwise(*channels)):
        torch.nn.init.normal_(layer.bias)
        x = torch.randn(3, 9, width, channels[0])
        expected = layer.double()(x.double())
        layer.float()
        with ops.use_backend("exact"):
            found = layer(x)
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("features", [1, 5, 8, 16, 33, 96])
def test_elementwise_parts(features):
    x, ab = torch.randn(50, features) * 3, torch.randn(50, 2 * features) * 3
    weight, bias = torch.randn(features), torch.randn(features)
    with ops.use_backend("exact"):
        elu, normed = ops.concat_elu(x), ops.gated_residual_norm(x, ab, weight, bias)
        gated = apply_gate(x, ab)
    x, ab = x.double(), ab.double()
    assert (elu - F.elu(torch.cat([x, -x], -1))).abs().max() < 1e-6
    true = apply_gate(x, ab)
    assert (gated - true).abs().max() < 1e-5
    true = F.layer_norm(true, (features,), weight.double(), bias.double())
    assert (normed - true).abs().max() < (1e-4 if features > 1 else 1e-5)


@pytest.mark.parametrize("positions", [1, 3, 17, 64])
@torch.no_grad()
def test_attention(positions):
    layer = GatedAttention(24, 3)
    x, position = torch.randn(2, positions, 1, 24), torch.randn(positions, 1, 24)
    expected = layer.double()(x.double(), position.double())
    layer.float()
    with ops.use_backend("exact"):
        found = layer(x, position)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid"])
def test_functions(name):
    x = torch.linspace(-20, 20, 1001, dtype=torch.float64)
    x = x.exp() if name == "log" else x
    expected = getattr(torch, name)(x)
    assert torch.allclose(exact.function(name, x), expected, rtol=1e-14, atol=1e-15)


@torch.no_grad()
def test_the_same_bits_in_any_batch_and_number_of_threads():
    trunk, x, context = net(), torch.randn(65, 6, 5, 3), torch.randn(65, 6, 5, 64)
    found = []
    with ops.use_backend("exact"):
        for threads, batch in ((1, 7), (2, 64), (3, 1), (1, 65)):
            torch.set_num_threads(threads)
            parts = zip(x.split(batch), context.split(batch), strict=True)
            found.append(torch.cat([trunk(*part) for part in parts]))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert (found[0] - trunk(x, context)).abs().max() < 1e-4


def test_no_gradient_without_a_word():
    trunk = net(context=False)
    with ops.use_backend("exact"), pytest.raises(ValueError, match="has no gradients"):
        trunk(torch.randn(1, 6, 5, 3))
    x = torch.randn(3, 4, requires_grad=True)
    with ops.use_backend("exact"):
        y = ops.concat_elu(x)
    with pytest.raises(ValueError, match="backend 'exact' has no concat_elu_backward"):
        y.sum().backward()


@torch.no_grad()
def test_other_types_are_refused():
    layer = Pointwise(3, 4).double()
    with ops.use_backend("exact"):
        for x in (torch.randn(2, 3).double(), torch.randn(2, 3, dtype=torch.bfloat16)):
            with pytest.raises(ValueError, match=r"backend 'exact' cannot run"):
                layer(x)


def numbers_of_every_function() -> str:
    """A digest of what each exact function makes of numbers made by integers alone."""

    def numbers(*shape: int) -> torch.Tensor:
        count = 1
        for size in shape:
            count *= size
        n = torch.arange(count, dtype=torch.int64)
        return (((n * n * 7919 + n * 104729) % 8191 - 4095).float() / 1024).view(shape)

    trunk = net()
    for parameter in trunk.parameters():
        parameter.data = numbers(*parameter.shape) / 8
    digest = hashlib.sha256()
    with torch.no_grad(), ops.use_backend("exact"):
        digest.update(trunk(numbers(3, 6, 5, 3), numbers(3, 6, 5, 64)).numpy().tobytes())
    for name in ("exp", "tanh", "sigmoid"):
        digest.update(exact.function(name, numbers(999).double() * 4).numpy().tobytes())
    digest.update(exact.function("log", numbers(999).double().abs() + 1e-3).numpy().tobytes())
    x = (numbers(50, 3).double() * GRID).long()
    for squash in (True, False):
        params = numbers(50, 3, 14)
        for array in (
            *exact.mixture_cells(x, params, squash, GRID_BITS, CELL_BITS),
            *exact.mixture_find(x, params, squash, GRID_BITS, CELL_BITS),
        ):
            digest.update(array.numpy().tobytes())
    matrix = numbers(3, 3).double()
    digest.update(exact.lift(x, matrix, upper=True).numpy().tobytes())
    return digest.hexdigest()


def numbers_of_couplings() -> str:
    """A digest of what every kind of coupling, with Glow's network, codes."""
    x = torch.arange(4 * 4 * 4 * 12, dtype=torch.int64)
    x = (((x * x * 7919 + x * 104729) % 8191 - 4095) << 21).view(4, 4, 4, 12)
    digest = hashlib.sha256()
    for kind in sorted(COUPLINGS.names):
        spec = COUPLINGS[kind].tiny()
        flow = GlowSpec(scales=(1,), width=24, coupling=spec).build((8, 8, 3), 0).eval()
        for tensor in flow.state_dict().values():
            if tensor.is_floating_point():
                n = torch.arange(tensor.numel())
                numbers = ((n * n * 31 + n * 17) % 127 - 63).to(tensor.dtype) / 512
                tensor.copy_(numbers.view(tensor.shape))
        coupling = next(f for f in flow.modules() if isinstance(f, Coupling))
        coder = Coder(lend=True)
        with torch.no_grad(), ops.use_backend("exact"):
            halves = x[..., :6].contiguous(), x[..., 6:].contiguous()
            y = coupling.code(halves, coder)
            digest.update(y[1].numpy().tobytes())
            digest.update(str([(lane.state, lane.words.tolist()) for lane in coder.lanes]).encode())
            assert torch.equal(coupling.code_inverse(y, coder)[1], halves[1])
    return digest.hexdigest()


RECORDED = "584f36c25739469375c6cac52f99a135152b00a7a524e4204fc6c4aa6ba4783d"
RECORDED_COUPLINGS = "f4babc9f73955e4d61274d743615600df91f6d9be5249f59b4bdb0858bcfa8e8"


@pytest.mark.parametrize(
    ("target", "of_torch"),
    [
        ("generic", "default"),
        ("x86-64-v2", "default"),
        ("x86-64-v3", "avx2"),
        ("x86-64-v4", "avx512"),
    ],
)
def test_the_recorded_bits_on_every_instruction_set(target, of_torch):
    code = (
        "import vflow, torch; torch.set_num_threads(2); import tests.ops.test_exact as t; "
        "from vflow.ops import native; print(torch.backends.cpu.get_cpu_capability().lower()); "
        "print(native.cpu_target(), t.numbers_of_every_function(), t.numbers_of_couplings())"
    )
    variables = {native.TARGET_VARIABLE: target, "ATEN_CPU_CAPABILITY": of_torch}
    done = run_fork(code, {**os.environ, **variables})
    if f"{native.TARGET_VARIABLE} must be an instruction set of this processor" in done.stderr:
        pytest.skip(f"this processor or build has no {target}")
    found = [of_torch, target, RECORDED, RECORDED_COUPLINGS]
    assert done.stdout.split() == found, done.stderr
