"""NumPy's numbers and tensors of no dimensions are numbers wherever Python's are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

import vflow
from vflow.sample import SampleConfig
from vflow.train import OptimConfig, TrainConfig


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor], ids=lambda n: n.__name__)
def test_counts(number: Any):
    model = vflow.create_model("vflow-tiny", image_size=number(8), extra_dims=number(2)).eval()
    assert model.sample(number(2), chunk=number(1)).shape == (2, 3, 8, 8)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert model.log_prob(images, number(3), number(2)).shape == (2,)
    assert model.draw_noise(number(2))["eps_z"].shape == (2, 2, 8, 8)
    json.dumps(asdict(model.config))
    oblong = vflow.create_model("vflow-tiny", image_size=(number(8), 12))
    assert oblong.data_shape == (3, 8, 12)


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor], ids=lambda n: n.__name__)
def test_temperatures_and_rates(number: Any):
    model = vflow.create_model("vflow-tiny", image_size=8, dropout=number(0.25)).eval()
    assert model.sample(1, number(0.5)).shape == (1, 3, 8, 8)
    json.dumps(OptimConfig(lr=number(0.5)).lr)


def test_configs_hold_plain_numbers():
    config = TrainConfig(out="run", steps=np.int64(3), seed=torch.tensor(4), preset="vflow-tiny")
    assert (type(config.steps), type(config.seed)) == (int, int)
    assert type(SampleConfig(model="m", n=np.int32(2)).n) is int


@pytest.mark.parametrize("wrong", [np.float64(2.0), np.bool_(True), np.array([2]), torch.ones(1)])
def test_what_is_no_count_is_none_in_numpy_either(wrong: Any):
    model = vflow.create_model("vflow-tiny").eval()
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        model.sample(wrong)
