"""Loading the authors' variables: every mistake listed, nothing half-loaded."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

import vflow
from tests import golden
from vflow.interop import layer_variables, load_tf_variables, model_variables


@pytest.fixture(
    params=[
        *("vflow-tiny", "flowpp-tiny", "vflow-4m-c6"),
        *("vflow-imagenet32", "vflow-imagenet64", "flowpp-imagenet64"),
    ]
)
def model(request: pytest.FixtureRequest) -> vflow.models.ImageFlow:
    torch.manual_seed(0)
    name, size = request.param, 16 if "imagenet" in request.param else 8
    return vflow.create_model(name, filters=8, blocks=1, components=2, image_size=size)


def arrays_of(model: vflow.models.ImageFlow) -> dict[str, np.ndarray]:
    return {v.name: v.to_tf(v.parameter.detach()).numpy() for v in model_variables(model)}


def test_round_trip(model: vflow.models.ImageFlow) -> None:
    arrays = {name: value + 0.01 for name, value in arrays_of(model).items()}
    load_tf_variables(model, arrays)
    assert model.initialized
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, arrays[name])
    assert len(arrays) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["flowpp-imagenet32", "flowpp-imagenet64"])
def test_the_names_are_those_that_localbitsback_loads(name: str) -> None:
    with torch.device("meta"):
        model = vflow.create_model(name)
    lines = sorted(f"{variable.name} {variable.shape}" for variable in model_variables(model))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == str(golden.load("flowpp_peer")[f"{name}/variables"])


def test_names_of_vflow_for_imagenet() -> None:
    with torch.device("meta"):
        names = {
            size: {v.name for v in model_variables(vflow.create_model(f"vflow-imagenet{size}"))}
            for size in (32, 64)
        }
    for name in (
        *("context_proc/pos_emb_dq", "q_context_proc/dqattn7/proj2/V", "Pointwise_12/W1"),
        *("Norm_28/norm1/g", "MixLogisticAttnCoupling_28/block19/attn/proj1/g"),
    ):
        assert name in names[32]
    assert "Pointwise_13/W0" not in names[32]  # r and q have none
    for name in ("q_context_proc/q_proj/W", "q_context_proc/q_dqln4/b", "context_proc/c4/c2/W"):
        assert name in names[64]


def test_averaged_variables_and_those_that_nothing_reads() -> None:
    model = vflow.create_model(
        "flowpp-imagenet64", filters=8, blocks=1, components=2, image_size=16
    )
    arrays = {f"{k}/ExponentialMovingAverage": v + 0.01 for k, v in arrays_of(model).items()}
    arrays["MixLogisticCoupling_3/pos_emb/ExponentialMovingAverage"] = np.zeros((16, 8, 8))
    load_tf_variables(model, arrays)
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, arrays[f"{name}/ExponentialMovingAverage"])
    arrays["MixLogisticCoupling_4/pos_emb/ExponentialMovingAverage"] = np.zeros((16, 8, 8))
    with pytest.raises(ValueError, match="not of this model MixLogisticCoupling_4/pos_emb"):
        load_tf_variables(model, arrays)


def test_every_problem_is_listed_and_nothing_is_loaded() -> None:
    model = vflow.create_model("vflow-tiny")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    arrays = {name: value + 1 for name, value in arrays_of(model).items()}
    del arrays["Norm/norm0/g"]
    arrays["Norm_99/norm0/g"] = np.ones(3)
    arrays["Pointwise/W0"] = np.ones((2, 3))
    arrays["context_proc/proj/b"] = np.full(32, np.nan)
    with pytest.raises(ValueError, match="4 variables do not fit") as error:
        load_tf_variables(model, arrays)
    for problem in (
        "missing Norm/norm0/g",
        "not of this model Norm_99/norm0/g",
        "Pointwise/W0 must have shape (3, 3), got (2, 3)",
        "context_proc/proj/b must be finite",
    ):
        assert problem in str(error.value)
    assert not model.initialized
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_layer_the_authors_do_not_have() -> None:
    with pytest.raises(TypeError, match="no TensorFlow counterpart of ReLU"):
        list(layer_variables(torch.nn.ReLU(), "relu"))
