"""Loading the authors' variables: every mistake listed, nothing half-loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vflow
from vflow.interop import layer_variables, load_tf_variables, model_variables


@pytest.fixture(params=["vflow-tiny", "flowpp-tiny", "vflow-4m-c6"])
def model(request: pytest.FixtureRequest) -> vflow.models.ImageFlow:
    torch.manual_seed(0)
    return vflow.create_model(request.param, filters=8, blocks=1, components=2, image_size=8)


def arrays_of(model: vflow.models.ImageFlow) -> dict[str, np.ndarray]:
    return {v.name: v.to_tf(v.parameter.detach()).numpy() for v in model_variables(model)}


def test_round_trip(model: vflow.models.ImageFlow) -> None:
    arrays = {name: value + 0.01 for name, value in arrays_of(model).items()}
    load_tf_variables(model, arrays)
    assert model.initialized
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, arrays[name])
    assert len(arrays) == len(list(model.parameters()))


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
