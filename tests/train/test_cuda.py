"""The training step on a GPU: a CUDA graph does what the eager step does, bit for bit."""

from __future__ import annotations

import pytest
import torch

from vflow.train import ModelOverrides, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"precision": "bf16"}])
@pytest.mark.parametrize("preset", ["flowpp-tiny", "vflow-tiny"])
def test_a_graphed_run_is_bit_identical_to_an_eager_one(
    make_config, fingerprint, tmp_path, preset, changes
):
    found = []
    for graph in (False, True):
        out = tmp_path / f"graph-{graph}"
        steps = {"preset": preset, "out": out, "device": "cuda", "eval_every": 0, **changes}
        train(make_config(steps=8, cuda_graph=graph, **steps))  # captured after three steps
        train(make_config(steps=12, cuda_graph=graph, **steps))  # goes on, captured anew
        found.append(fingerprint(out))
    assert found[0] == found[1]


def test_recomputation_without_dropout_can_be_captured(make_config):
    model = ModelOverrides(filters=4, components=2, dropout=0.0)
    train(make_config(device="cuda", cuda_graph=True, recompute=True, model=model, eval_every=0))


def test_tf32_changes_the_products_only_a_little(make_config, tmp_path):
    losses = []
    for precision in ("fp32", "tf32"):
        config = make_config(device="cuda", precision=precision, out=tmp_path / precision)
        train(config)
        losses.append((config.out / "metrics.jsonl").read_text())
    assert losses[0] != losses[1] or torch.cuda.get_device_capability() < (8, 0)
