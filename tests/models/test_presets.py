"""Parameter counts of the papers' models, and what create_model accepts."""

from __future__ import annotations

import json

import pytest
import torch

import vflow
from vflow.flows.couplings import AdditiveSpec
from vflow.models import OVERRIDES, describe_model, model_config

PARAMETERS = {
    "flowpp-cifar10": 31_443_440,
    "vflow-cifar10": 39_700_096,
    "vflow-cifar10-64": 17_064_960,
    "vflow-cifar10-56": 12_519_116,
    "flowpp-4m": 4_241_808,
    "vflow-4m-c4": 4_220_606,
    "vflow-4m-c6": 4_206_094,
    "vflow-4m-q6": 4_251_022,
    "vflow-4m-q8": 4_196_878,
    "glow-cifar10": 44_052_816,
    # The peer's, less the two of each of its 52 blocks that no gradient reaches (25,174,233).
    "residual-cifar10": 25_174_129,
    # Flow++'s are localbitsback's, less the position embeddings that nothing reads (64x64).
    "flowpp-imagenet32": 168_955_724,
    "flowpp-imagenet64": 72_703_528,
    "vflow-imagenet32": 221_625_456,
    "vflow-imagenet64": 97_908_176,
    "flowpp-1m": 998_272,
    "vflow-1m-c4": 1_002_782,
    "vflow-1m-c6": 1_000_382,
    "flowpp-350k": 348_220,
    "vflow-350k-c4": 358_000,
    "vflow-350k-c6": 338_128,
    "vflow-photos": 1_280_136,
    "flowpp-photos": 1_273_072,
}
POSTERIOR_PARAMETERS = {"vflow-4m-c6": 374_000, "vflow-4m-q6": 671_216, "vflow-4m-q8": 869_360}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = vflow.create_model(name)
    assert count(model) == PARAMETERS[name]
    if name in POSTERIOR_PARAMETERS:
        assert count(model.posterior) == POSTERIOR_PARAMETERS[name]


def test_every_preset_is_listed_and_described() -> None:
    assert set(PARAMETERS) < set(vflow.list_models())
    assert vflow.list_models("vflow-4m-*") == [
        "vflow-4m-c4",
        "vflow-4m-c6",
        "vflow-4m-q6",
        "vflow-4m-q8",
    ]
    assert vflow.list_models("nothing") == []
    assert all(describe_model(name).endswith(".") for name in vflow.list_models())


FLOWPP = [name for name in vflow.list_models() if model_config(name).flow.kind == "flowpp"]


@pytest.mark.parametrize("name", FLOWPP)
def test_overrides_reach_the_config(name: str) -> None:
    values = {
        "filters": 6,
        "blocks": 1,
        "components": 3,
        "heads": 3,
        "extra_dims": 2,
        "posterior_blocks": 1,
        "dequantizer_blocks": 1,
        "posterior_attention": False,
        "in_channels": 1,
        "image_size": (8, 12),
        "dropout": 0.5,
        "scales": ((("checkerboard", 2),), (("checkerboard", 1), ("channel", 1))),
        "attention": False,
        "squash": False,
        "weight_std": 0.02,
        "conv1x1": False,
        "weight_norm": True,
        "final_elu": True,
        "posterior_conv1x1": True,
        "posterior_steps": 1,
        "posterior_context_blocks": 1,
        "posterior_context_layers": "conv-norm",
        "dequantizer_conv1x1": False,
        "dequantizer_steps": 2,
        "dequantizer_context_blocks": 2,
        "dequantizer_context_layers": "conv-norm-attention",
        "affine_blocks": 1,
        "coupling": "mixlogistic",
        "posterior": "flow",
        "posterior_context": "own",
        "posterior_coupling": "mixlogistic",
        "dequantizer": "flow",
        "dequantizer_attention": False,
        "dequantizer_coupling": "mixlogistic",
        "dequantizer_preprocess": "centre",
    }
    assert set(values) == set(OVERRIDES)
    config = model_config(name)
    values = {k: v for k, v in values.items() if hasattr(config, k) and "coupling" not in k}
    model = vflow.create_model(name, **values)
    read = {k: getattr(model.config, k) for k in values}
    assert json.loads(json.dumps(read)) == json.loads(json.dumps(values))
    assert model.data_shape == (1, 8, 12)
    assert model.elbo(torch.zeros(2, 1, 8, 12, dtype=torch.uint8)).shape == (2,)
    # The couplings of r and q follow filters and components.
    widths = {m.conv_in.weight.shape[0] for m in model.modules() if hasattr(m, "conv_out")}
    assert widths == {6}


def test_a_config_does_for_a_name() -> None:
    model = vflow.create_model("vflow-tiny", filters=4)
    assert vflow.create_model(model.config).config == model.config
    deeper = vflow.create_model(model.config, blocks=3)
    assert deeper.config == vflow.model_config("vflow-tiny", filters=4, blocks=3)
    flat = vflow.FlowPlusPlusConfig(filters=4, heads=2)
    assert vflow.create_model(flat).config == vflow.FlowPlusPlus(flat).config
    with pytest.raises(ValueError, match=r"override must be one of .* \(did you mean blocks\?\)"):
        vflow.create_model(model.config, blocs=3)


def test_a_flow_is_widened_by_its_config() -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    for name in ("glow-tiny", "flowpp-tiny"):
        for posterior in ("flow", "gaussian", "normal"):
            model = vflow.create_model(name, extra_dims=2, posterior=posterior)
            assert isinstance(model, vflow.VFlow)
            assert model.config.posterior == posterior
            assert model.config.flow == model_config(name).flow
            model.initialize(images)
            assert model.bits_per_dim(images).isfinite().all()
    assert vflow.create_model("glow-tiny", extra_dims=1).config.posterior == "flow"


def test_other_flows_have_other_names() -> None:
    model = vflow.create_model("glow-tiny", scales=(1, 1, 1), width=6, coupling="additive")
    assert model.config.scales == (1, 1, 1)
    assert model.config.coupling == AdditiveSpec()
    assert model.latent_shapes == ((6, 8, 8), (12, 4, 4), (48, 2, 2))
    with pytest.raises(ValueError, match="override filters must be left out for glow-tiny"):
        vflow.create_model("glow-tiny", filters=8)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("vflow-cifar1", {}, "did you mean vflow-cifar10?"),
        ("vflow-tiny", {"filter": 8}, "override must be one of"),
        ("flowpp-tiny", {"posterior_blocks": 3}, "posterior_blocks must be left out for flowpp-t"),
        ("vflow-tiny", {"posterior": "norml"}, "did you mean normal?"),
        ("vflow-tiny", {"flow.filter": 8}, "override must be one of"),
        ("vflow-tiny", {"scales": []}, "scales must hold the stages of at least one scale"),
        ("vflow-tiny", {"scales": [[["diagonal", 1]]]}, "split in scales[0] must be one of"),
        (
            "flowpp-tiny",
            {"scales": [[["channel", 1]]], "in_channels": 1},
            "must be checkerboard for a single channel",
        ),
        ("vflow-tiny", {"coupling": 3}, 'must be an object with a "kind", got 3'),
        ("vflow-tiny", {"extra_dims": 0}, "extra_dims must be an integer of at least 1, got 0"),
        ("vflow-tiny", {"filters": 9}, "filters must be a multiple of heads"),
        ("vflow-tiny", {"filters": -4}, "filters must be an integer of at least 1, got -4"),
        ("vflow-tiny", {"filters": 8.0}, "filters must be an integer of at least 1, got 8.0"),
        ("vflow-tiny", {"blocks": True}, "blocks must be an integer of at least 1, got True"),
        ("vflow-tiny", {"components": 0}, "components must be an integer of at least 1, got 0"),
        ("vflow-tiny", {"image_size": 30}, "divisible by 4, got 30x30"),
        ("vflow-tiny", {"image_size": (32, 18)}, "divisible by 4, got 32x18"),
        ("vflow-tiny", {"image_size": 0}, "divisible by 4, got 0x0"),
        ("vflow-tiny", {"image_size": (32,)}, "image_size must be an integer or (height, width)"),
        ("vflow-tiny", {"image_size": "32"}, "image_size must be an integer or (height, width)"),
        ("vflow-tiny", {"in_channels": 0}, "in_channels must be an integer of at least 1, got 0"),
        ("vflow-tiny", {"dropout": 1.0}, "dropout must be a number in [0, 1), got 1.0"),
        ("vflow-tiny", {"dropout": float("nan")}, "dropout must be a number in [0, 1), got nan"),
        ("vflow-tiny", {"posterior_attention": 1}, "posterior_attention must be True or False"),
        ("flowpp-tiny", {"weight_norm": 1}, "weight_norm must be True or False"),
        ("flowpp-tiny", {"dequantizer_steps": 0}, "dequantizer_steps must be an integer of at le"),
        (
            "flowpp-tiny",
            {"dequantizer_context_layers": "norm"},
            "dequantizer_context_layers must be one of conv, conv-norm, conv-norm-attention",
        ),
        (
            "vflow-4m-c4",
            {"posterior_context_blocks": 2},
            "posterior_context_blocks must be left at 3 where context is 'shared', got 2",
        ),
    ],
    ids=str,
)
def test_bad_presets_and_overrides(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        vflow.create_model(name, **overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["vflow-tiny", "flowpp-tiny"])
def test_any_size_and_channels(name: str, channels: int) -> None:
    overrides = {"in_channels": channels, "image_size": (8, 20)}
    if name.startswith("vflow"):
        overrides["extra_dims"] = 2  # odd totals split into unequal halves
    model = vflow.create_model(name, **overrides).double().eval()
    images = torch.randint(0, 256, (2, channels, 8, 20), dtype=torch.uint8)
    latent = model.encode(images)
    assert torch.equal(model.decode(latent).floor(), images.double())
