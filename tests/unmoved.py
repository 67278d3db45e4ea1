"""What must not move: models, runs and losses recorded before configs were trees (format 1).

`tests/data/format1` holds the configs as that code wrote them, the names and shapes of the tensors,
and what came out. The tensors' values are functions of their names, so that they need not be kept.

    python -m tests.unmoved     # records; only ever run on the code whose behaviour is to be kept

Values are float64 and kept as hex. The same machine and torch must give the same bits; another
processor's libraries round otherwise, so that there 1e-12 is asked of a value, 1e-4 of one that is
decoded, and 1e-6 of the losses of a training, which amplifies rounding from step to step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import vflow
from vflow.models import Glow, GlowConfig, ResidualFlow, ResidualFlowConfig, VectorVFlow
from vflow.models import VectorVFlowConfig as VectorConfig
from vflow.ops import use_backend
from vflow.train import ModelOverrides, OptimConfig, TrainConfig, train

FOLDER = Path(__file__).parent / "data" / "format1"
STEPS = 20
TINY: dict[str, Any] = {"filters": 4, "blocks": 1, "components": 2, "heads": 2, "image_size": 8}

SAVED: dict[str, Callable[[], Any]] = {
    "vflow": lambda: vflow.create_model("vflow-tiny", **TINY),
    "flowpp": lambda: vflow.create_model("flowpp-tiny", **TINY),
    "vflow-shared-context": lambda: vflow.create_model("vflow-4m-c4", **TINY),
    "vflow-uniform-normal": lambda: vflow.create_model(
        "vflow-demo", filters=4, components=2, image_size=(8, 12), in_channels=2
    ),
    "glow": lambda: Glow(GlowConfig(dims=3, hidden=6)),
    "glow-conditional": lambda: Glow(GlowConfig(dims=3, hidden=6, context_dims=2)),
    "residual": lambda: ResidualFlow(ResidualFlowConfig(dims=3, hidden=6)),
    "vector-vflow": lambda: VectorVFlow(VectorConfig(extra_dims=3, hidden=6)),
    "vector-vflow-residual": lambda: VectorVFlow(
        VectorConfig(extra_dims=1, hidden=6, flow="residual", posterior_steps=0)
    ),
}


def machine() -> dict[str, str]:
    """What bits depend on."""
    model = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line for line in lines if line.startswith("model name")), model)
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "processor": model, "capability": capability}


def numbers(values: Tensor | Iterable[float]) -> list[str]:
    values = values.flatten().tolist() if isinstance(values, Tensor) else values
    return [float(value).hex() for value in values]


def uniform(name: str, shape: Iterable[int]) -> Tensor:
    """Values in [-1, 1) that a name determines, exactly the same everywhere; float64."""
    source = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(np.asarray(2 * source.random(tuple(shape)) - 1))


def value_of(name: str, shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """The value of a saved tensor."""
    shape, last = tuple(shape), name.split(".")[-1]
    if last == "_initialized":
        return torch.tensor(True)
    value = uniform(name, shape)
    if last == "scale":
        value = 1 + 0.3 * value
    elif last == "weight" and len(shape) == 2 and shape[0] == shape[1]:
        value = torch.eye(shape[0]) + 0.3 * value
    elif last == "weight" and len(shape) == 1:
        value = 1 + 0.1 * value
    elif last == "weight":
        value = value / np.sqrt(np.prod(shape[1:]))
    else:
        value = 0.2 * value
    return value.to(dtype)


def images_of(n: int, shape: tuple[int, ...]) -> Tensor:
    """uint8 [n, *shape]."""
    return (128 + 127 * uniform("images", (n, *shape))).to(torch.uint8)


def write_model(index: dict[str, Any], folder: Path) -> Path:
    """The folder that the old code saved."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(index["config"]))
    tensors = {
        name: value_of(name, shape, getattr(torch, dtype))
        for name, (shape, dtype) in index["tensors"].items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def outcome(model: Any) -> dict[str, list[str]]:
    """What a saved model gives, through every method."""
    model = model.double().eval()
    source = torch.Generator().manual_seed(5)
    found: dict[str, Tensor] = {}
    with use_backend("reference"):
        if hasattr(model, "data_shape"):
            images = images_of(3, model.data_shape)
            noise = model.draw_noise(3, source)
            found["elbo"] = model.elbo(images, **noise)
            found["drawn"] = model.elbo(images, generator=source)
            latent = model.encode(images, **noise)
            found["decode"] = model.decode(latent)[:, :, :2]
            found["log_prob"] = model.log_prob(images, samples=3, generator=source)
            found["bits"] = model.bits_per_dim(images, generator=source)
        elif isinstance(model, VectorVFlow):
            x, eps = uniform("x", (5, 2)), uniform("eps", (5, model.config.extra_dims))
            found["elbo"] = model.elbo(x, eps)
            found["drawn"] = model.elbo(x, generator=source)
            latent, _ = model.encode(x, eps)
            with torch.no_grad():
                found["decode"] = torch.cat(model.decode(latent), 1)
            found["log_prob"] = model.log_prob(x, samples=3, generator=source)
        else:
            x = uniform("x", (5, 3))
            context = uniform("context", (5, model.context_dims)) if model.context_dims else None
            found["log_prob"] = model.log_prob(x, context)
            latent, found["logdet"] = model.encode(x, context)
            with torch.no_grad():  # with gradients the fixed point is polished once more
                found["decode"] = model.decode(latent, context)[0]
        if not getattr(model, "context_dims", 0):
            found["sample"] = model.sample(2, generator=source).double()[..., :4]
        found["latent"] = latent[..., :4]
    return {name: numbers(value.detach()) for name, value in found.items()}


def losses(name: str) -> list[str]:
    """Losses of 20 steps of training from a seed, in float64."""
    torch.manual_seed(0)
    if name == "toy":
        model: Any = VectorVFlow(VectorConfig(extra_dims=2, hidden=8)).double()
        x = 3 * uniform("toy", (64, 2))
        model.initialize(x, torch.Generator().manual_seed(0))
    else:
        model = vflow.create_model(name).double()
        model.to(memory_format=torch.channels_last)  # as the trainer does
        x = images_of(4, model.data_shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    source = torch.Generator().manual_seed(1)
    found = []
    with use_backend("reference"):
        for _ in range(STEPS):
            loss = -model.elbo(x, generator=source).mean() / x[0].numel()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            found.append(loss.item())
    return numbers(found)


LOSSES = ("vflow-tiny", "flowpp-tiny", "toy")


def run_config(steps: int) -> TrainConfig:
    """A run in the current folder, which holds its data."""
    return TrainConfig(
        out=Path("run"),
        preset="vflow-tiny",
        data="npy:smooth.npz",
        batch_size=4,
        steps=steps,
        log_every=1,
        checkpoint_every=3,
        eval_every=0,
        sample_every=0,
        model=ModelOverrides(filters=4, components=2),
        optim=OptimConfig(warmup=2, ema=0.9),
    )


def write_run(index: dict[str, Any]) -> None:
    """The interrupted run that the old code left, and its data, in the current folder."""
    write_data()
    run = Path("run")
    folder = run / "checkpoints" / "step-00000003"
    folder.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(index["config"]))
    (run / "metrics.jsonl").write_text(index["metrics"])
    files = {}
    for stem, tensors in index["files"].items():
        path = folder / f"{stem}.safetensors"
        values = {}
        for name, (shape, dtype) in tensors.items():
            values[name] = value_of(name, shape, getattr(torch, dtype))
            if name.startswith("step."):
                values[name] = torch.tensor(3.0)
            elif stem == "optimizer":
                values[name] = (0.01 * uniform(name, shape)).abs().float()
        save_file(values, path, metadata={"format": "pt"})
        content = path.read_bytes()
        files[path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    state = {"state": index["state"], "files": files}
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps({**state, "sha256": digest}))


def write_data() -> None:
    pixels = images_of(12, (8, 8, 3)).numpy()
    np.savez("smooth.npz", train=pixels[:8], test=pixels[8:])


def run_on() -> dict[str, list[str]]:
    """The bits/dim of the steps after the interruption, and the averaged model at the end."""
    with use_backend("reference"):
        train(run_config(6))
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    bits = [r["bits_per_dim"] for r in records if r.get("kind") == "train" and r["step"] > 3]
    model = vflow.load_model("run/model").double()
    images = images_of(2, model.data_shape)
    with use_backend("reference"):
        elbo = model.elbo(images, generator=torch.Generator().manual_seed(2))
    return {"bits_per_dim": numbers(bits), "elbo": numbers(elbo.detach())}


def index_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in tensors.items()}


def record() -> None:
    import os
    import tempfile

    from safetensors.torch import load_file

    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(), "models": {}, "losses": {}}
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        for case, make in SAVED.items():
            model = make()
            model.save_pretrained(f"made-{case}")
            index = {
                "config": json.loads(Path(f"made-{case}/config.json").read_text()),
                "tensors": index_of(model.state_dict()),
            }
            write_model(index, Path(case))
            found["models"][case] = {**index, "outcome": outcome(vflow.load_model(case))}
        for case in LOSSES:
            found["losses"][case] = losses(case)
        write_data()
        train(dataclasses.replace(run_config(3)))
        folder = Path("run/checkpoints/step-00000003")
        run = {
            "config": json.loads(Path("run/config.json").read_text()),
            "metrics": Path("run/metrics.jsonl").read_text(),
            "state": json.loads((folder / "state.json").read_text())["state"],
            "files": {p.stem: index_of(load_file(p)) for p in folder.glob("*.safetensors")},
        }
        os.rename("run", "old-run")
        write_run(run)
        found["run"] = {**run, "outcome": run_on()}
    for part in ("models", "losses", "run"):
        content = {"machine": found["machine"], part: found[part]}
        (FOLDER / f"{part}.json").write_text(json.dumps(content, indent=None) + "\n")


if __name__ == "__main__":
    record()
