"""Whole models under torch.compile: one graph, for any batch size, with our operations inside."""

from __future__ import annotations

import pytest
import torch

from vflow import create_model

SCALES = ((("checkerboard", 1),), (("channel", 1),))


@pytest.mark.parametrize(
    ("preset", "steps"),
    [
        ("vflow-tiny", {"dequantizer_steps": 1, "posterior_steps": 1}),
        ("flowpp-tiny", {"dequantizer_steps": 1}),
    ],
)
def test_the_elbo_and_its_gradients_compile_whole_with_dynamic_batch(preset, steps):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = create_model(preset, scales=SCALES, **steps)
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    model.initialize(images)
    graphs = []

    def keep(module, example_inputs):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=keep)
    for batch in (7, 11, 13):  # no dimension of an image: equal sizes would share a symbol
        images = torch.randint(0, 256, (batch, 3, 16, 16), dtype=torch.uint8)
        noise = model.draw_noise(batch)
        results = []
        for forward in (model, compiled):
            model.zero_grad()
            elbo = forward(images, **noise)
            elbo.mean().backward()
            results.append([elbo, *(p.grad for p in model.parameters())])
        for expected, actual in zip(*results, strict=True):
            assert torch.equal(expected, actual)
    assert len(graphs) == 1, "a new batch size was compiled anew"
    called = {str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"}
    for name in ("mixlogistic", "actnorm_conv1x1", "gated_residual_norm", "concat_elu"):
        assert any(target.startswith(f"vflow.{name}") for target in called), name


def test_inductor_gives_the_elbo_of_eager_mode():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = create_model("flowpp-tiny", scales=SCALES[:1], dequantizer="uniform").eval()
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    model.initialize(images)
    noise = model.draw_noise(3)
    with torch.no_grad():
        expected = model(images, **noise)
        actual = torch.compile(model, fullgraph=True)(images, **noise)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
