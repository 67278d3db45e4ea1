"""The training run, from its config to the finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vflow.kinds import leaves
from vflow.models.tree import config_of_run
from vflow.train.checkpoint import Checkpoint, list_steps, open_checkpoint
from vflow.train.config import TrainConfig, fixed_fields
from vflow.train.distributed import Ranks
from vflow.train.folder import RunFolder
from vflow.train.inputs import load_inputs, shape_text
from vflow.train.run import Run
from vflow.train.trainer import Trainer

DEFAULT_EPOCHS = 2000


def train(config: TrainConfig) -> Path:
    """Train a model, or go on with a run from its newest intact checkpoint.

    Under torchrun every process calls it; the run folder must be one that all of them see.

    Args:
        config: The run.

    Returns:
        The folder of the finished model, for `vflow.load_model`.

    Raises:
        ValueError: If the config does not fit the data, the machine or the run in the folder.
        OSError: If the data cannot be read or the folder cannot be written.
        RunStopped: If the loss or the gradient is not finite ten times in a row.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
        SystemExit: After SIGTERM likewise, with code 143.
    """
    ranks = Ranks.from_environment()
    ranks.share_of(config.batch_size, config.accumulate)
    device = ranks.device(config.device)
    with ranks.group(device):
        with ranks.together(device):
            folder = RunFolder(config.out)
        try:
            _train(config, folder, ranks, device)
        finally:
            folder.close()
    return folder.model


def _train(config: TrainConfig, folder: RunFolder, ranks: Ranks, device: torch.device) -> None:
    # Whatever can be refused is refused before anything is written.
    checkpoint: Checkpoint | None = None
    with ranks.together(device):
        if ranks.is_main:
            if folder.path.exists():
                folder.lock()
            checkpoint = folder.newest_checkpoint()
            _require_same_run(checkpoint, fixed_fields(config))
    step = ranks.from_main(checkpoint.step if checkpoint else -1, device)
    with ranks.together(device):
        if ranks.is_main:
            inputs = load_inputs(config, device)  # the others wait, for it may download
    with ranks.together(device):
        if not ranks.is_main:
            inputs = load_inputs(config, device)
            if step >= 0:
                checkpoint = open_checkpoint(list_steps(folder.checkpoints)[step])
        trainer = Trainer(config, inputs, ranks, device)
        facts = {**fixed_fields(config), **_resolved(trainer)}
        _require_same_run(checkpoint, facts)
        total = config.steps or (config.epochs or DEFAULT_EPOCHS) * trainer.order.steps_per_epoch
        if step > total:
            raise ValueError(f"steps must be at least the {step} the run has taken, got {total}")
    with ranks.together(device):
        if ranks.is_main:
            folder.lock()
            folder.write_config(config.to_json())
            if inputs.shape_overrides:
                print(f"{config.preset} takes the shape of the data: {shape_text(inputs.train)}")
            print(_opening(trainer, step, total), flush=True)
            if trainer.reason_for_no_graph is not None:
                print(f"cuda_graph is left out: {trainer.reason_for_no_graph}", flush=True)
    trainer.begin(checkpoint)
    with ranks.together(device):
        run = Run(trainer, folder, inputs.test, total, facts)
    run.run(saved_step=step)


def _resolved(trainer: Trainer) -> dict[str, Any]:
    """What a run must keep beside its flags: the model they came to, and the number of images."""
    return {
        "model": trainer.model.config.to_tree(),
        "number of training images": len(trainer.images),
    }


def _require_same_run(checkpoint: Checkpoint | None, facts: dict[str, Any]) -> None:
    """Raise ValueError if a run went by other facts than these, naming each that differs."""
    if checkpoint is None:
        return
    before = _leaves(checkpoint.state["fixed"], checkpoint.path)
    facts = _leaves(facts, checkpoint.path)
    odd = [f"{k} {before[k]!r}" for k, v in facts.items() if k in before and before[k] != v]
    if odd:
        came = [f"{k} {v!r}" for k, v in facts.items() if k in before and before[k] != v]
        raise ValueError(
            f"out must be a new folder where the run differs: {checkpoint.path.parent.parent} has "
            f"{', '.join(odd)}, got {', '.join(came)}"
        )


def _leaves(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """The facts, with the model's config value by value, whatever format it is in."""
    found = {k: v for k, v in facts.items() if k != "model" and not k.startswith("model.")}
    if len(found) < len(facts):
        found.update(leaves(config_of_run(facts, str(path)).to_tree(), "model"))
    return found


def _opening(trainer: Trainer, step: int, total: int) -> str:
    config = trainer.config
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    if step < 0:
        beginning = "starting"
    else:
        beginning = "finished" if step == total else f"going on from step {step}"
    return (
        f"{config.out}: {config.preset} ({parameters:,} parameters) on {len(trainer.images)} "
        f"images of {config.data}; {total} steps of {config.batch_size}; "
        f"{trainer.ranks.size} x {trainer.device.type}; {beginning}"
    )
