"""The training step on a GPU: a CUDA graph does what the eager step does, bit for bit."""

from __future__ import annotations

import pytest
import torch

from vflow.train import ModelOverrides, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    "changes", [{}, {"accumulate": 2}, {"precision": "bf16"}, {"optimizer": "muon"}]
)
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


# So wide that the library takes tensor cores for the products: they are what rounds to TF32.
WIDE = ModelOverrides(filters=64, components=4, dropout=0.0)


def test_tf32_changes_the_products_only_a_little(make_config, losses, tmp_path):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no TF32 before compute capability 8.0")
    found = {}
    for name, precision in (("fp32", "fp32"), ("again", "fp32"), ("tf32", "tf32")):
        config = make_config(
            device="cuda",
            precision=precision,
            model=WIDE,
            deterministic=True,
            out=tmp_path / name,
        )
        train(config)
        found[name] = losses(config.out)
    assert found["again"] == found["fp32"]  # so that a difference is TF32's
    assert found["tf32"] != found["fp32"]
    assert found["tf32"] == pytest.approx(found["fp32"], rel=0.02)


@pytest.mark.parametrize("preset", ["flowpp-tiny", "vflow-tiny"])
def test_a_deterministic_run_goes_on_bit_identically(make_config, fingerprint, tmp_path, preset):
    changes = {"preset": preset, "device": "cuda", "deterministic": True, "eval_every": 0}
    train(make_config(out=tmp_path / "whole", **changes))
    for steps in (5, 12):
        train(make_config(out=tmp_path / "halved", steps=steps, **changes))
    ours, theirs = (fingerprint(tmp_path / name)["files"] for name in ("halved", "whole"))
    assert ours == theirs
