"""Format 1: flat configs, one for each class, and the names that tensors had.

Everything saved before configs were trees passes through here, and nothing else knows of it:
config.json of models, the "fixed" facts of runs, and the tensors of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

IMAGE_FIELDS = [
    *("in_channels", "image_size", "filters", "blocks", "components", "heads", "attention"),
    *("dropout", "squash", "dequantizer", "dequantizer_blocks", "full_stages", "half_stages"),
]
EXTRA_FIELDS = [
    *("extra_dims", "posterior", "posterior_blocks", "posterior_attention", "shared_context"),
    "affine_blocks",
]
FIELDS: dict[str, list[str]] = {
    "FlowPlusPlus": IMAGE_FIELDS,
    "VFlow": IMAGE_FIELDS + EXTRA_FIELDS,
    "Glow": ["dims", "steps", "context_dims", "hidden", "layers", "negative_slope"],
    "ResidualFlow": ["dims", "steps", "hidden", "layers", "coefficient"],
    "VectorVFlow": [
        *("dims", "extra_dims", "steps", "posterior_steps", "flow", "hidden", "layers"),
        *("negative_slope", "coefficient"),
    ],
}
"""The fields of each class's config."""
BEFORE = {"negative_slope": 0.0}
"""What files that were saved without a field meant."""
WEIGHT_STD = {"FlowPlusPlus": 0.001, "VFlow": 0.01}
LOG_SCALE_BOUND = 4.0


def tree_of(name: str, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tree of a flat config.

    Args:
        name: Class of the model.
        fields: Its config.
        where: What the config is called in errors.

    Raises:
        ValueError: If there is no such class, or a field is unknown or missing.
    """
    if name not in FIELDS:
        raise ValueError(f"{where} must name a model of {', '.join(FIELDS)}, got {name!r}")
    wanted = FIELDS[name]
    fields = {**{key: value for key, value in BEFORE.items() if key in wanted}, **fields}
    odd = ", ".join(sorted(fields.keys() ^ set(wanted)))
    if odd:
        raise ValueError(f"{where} must have just the fields of {name}Config: {odd} differ")
    try:
        tree = _image(name, fields) if name in WEIGHT_STD else _vector(name, fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error
    return {"format": 2, **tree}


def _image(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    size = fields["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    common = {
        "filters": fields["filters"],
        "heads": fields["heads"],
        "dropout": fields["dropout"],
        "coupling": {
            "kind": "mixlogistic",
            "components": fields["components"],
            "squash": fields["squash"],
        },
        "weight_std": WEIGHT_STD[name],
    }
    flow = {
        "kind": "flowpp",
        "scales": [_stages(fields["full_stages"]), _stages(fields["half_stages"])],
        "blocks": fields["blocks"],
        "attention": fields["attention"],
        "affine_blocks": fields.get("affine_blocks", 0),
        **common,
    }
    dequantize: dict[str, Any] = {"kind": fields["dequantizer"]}
    if fields["dequantizer"] == "flow":
        dequantize["blocks"] = fields["dequantizer_blocks"]
        dequantize["attention"] = fields["attention"]
        dequantize.update(common)
    augment = None
    if name == "VFlow":
        posterior: dict[str, Any] = {"kind": fields["posterior"]}
        if fields["posterior"] == "flow":
            posterior["blocks"] = fields["posterior_blocks"]
            posterior["attention"] = fields["posterior_attention"]
            posterior["context"] = "shared" if fields["shared_context"] else "own"
            posterior.update(common)
        augment = {"channels": fields["extra_dims"], "posterior": posterior}
    shape = [fields["in_channels"], height, width]
    return {"data": {"shape": shape}, "flow": flow, "augment": augment, "dequantize": dequantize}


def _stages(stages: Any) -> list[list[Any]]:
    return [list(stage) for stage in stages]


def _vector(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    size = {key: fields[key] for key in ("steps", "hidden", "layers")}
    glow = {
        **size,
        "kind": "vector-glow",
        "negative_slope": fields.get("negative_slope"),
        "coupling": {"kind": "affine", "bound": LOG_SCALE_BOUND},
    }
    residual = {**size, "kind": "vector-residual", "coefficient": fields.get("coefficient")}
    is_glow = name == "Glow" or fields.get("flow") == "glow"
    flow = {**glow, "context_dims": fields.get("context_dims", 0)} if is_glow else residual
    augment = None
    if name == "VectorVFlow":
        posterior = {**glow, "steps": fields["posterior_steps"]}
        if not fields["posterior_steps"]:
            posterior = {"kind": "normal"}
        augment = {"channels": fields["extra_dims"], "posterior": posterior}
    data = {"shape": [fields["dims"]]}
    return {"data": data, "flow": flow, "augment": augment, "dequantize": None}


def renaming(tree: Mapping[str, Any]) -> Callable[[str], str]:
    """The function from a tensor's name in format 1 to that of today; today's stay.

    Args:
        tree: The model's config.
    """
    return _replacing(_prefixes(tree))


def renaming_back(tree: Mapping[str, Any]) -> Callable[[str], str]:
    """The function from a tensor's name of today to that in format 1."""
    return _replacing({new: old for old, new in _prefixes(tree).items()})


def _prefixes(tree: Mapping[str, Any]) -> dict[str, str]:
    image = tree["dequantize"] is not None
    outer = "density.density." if image else "density."
    prefixes = {"flow.": f"{outer}flow." if tree["augment"] is None else f"{outer}density.flow."}
    if image:
        prefixes["posterior.conditional.flow."] = f"{outer}posterior.flow."
        prefixes["posterior.context."] = f"{outer}posterior.context."
        prefixes["dequantizer.conditional.flow."] = "density.dequantizer.flow."
        prefixes["dequantizer.context."] = "density.dequantizer.context."
    else:
        prefixes["posterior.flows."] = f"{outer}posterior.flow.flows."
    return prefixes


def _replacing(prefixes: Mapping[str, str]) -> Callable[[str], str]:
    def rename(name: str) -> str:
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return rename
