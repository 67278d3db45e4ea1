"""The training run, from its config to the finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vflow.io.checkpoint import Checkpoint, list_steps, open_checkpoint
from vflow.ops import backend
from vflow.runtime.determinism import deterministic
from vflow.runtime.distributed import Ranks
from vflow.runtime.extras import require
from vflow.train.config import TrainConfig
from vflow.train.facts import (
    INIT_FROM,
    WEIGHTS,
    data_facts,
    describe,
    fixed_fields,
    history,
    model_facts,
    require_same_run,
)
from vflow.train.folder import RunFolder
from vflow.train.initial import read_weights, weights_digest
from vflow.train.inputs import load_inputs, shape_text
from vflow.train.run import Run
from vflow.train.trainer import Trainer

DEFAULT_EPOCHS = 2000
NEEDED = ("matplotlib", "tensorboard", "tqdm")
"""What a run needs by its end, of the extra cli."""


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
        MissingExtra: If something of the extra cli is not installed.
        RunStopped: If the loss or the gradient is not finite ten times in a row.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
        SystemExit: After SIGTERM likewise, with code 143.
    """
    for module in NEEDED:
        require(module, "training")
    ranks = Ranks.from_environment()
    ranks.share_of(config.batch_size, config.accumulate)
    with deterministic(config.deterministic):
        return _train_in_group(config, ranks)


def _train_in_group(config: TrainConfig, ranks: Ranks) -> Path:
    device = ranks.device(config.device)
    backend.require_usable(device.type)
    with ranks.group(device):
        with ranks.together(device):
            folder = RunFolder(config.out_path)
        try:
            _train(config, folder, ranks, device)
        finally:
            folder.close()
    return folder.model


def _train(config: TrainConfig, folder: RunFolder, ranks: Ranks, device: torch.device) -> None:
    # Whatever can be refused is refused before anything is written.
    checkpoint: Checkpoint | None = None
    weights: dict[str, Tensor] | None = None
    begun_with: dict[str, Any] = {}
    facts = fixed_fields(config)
    allow = config.resume_with_changes
    with ranks.together(device):
        if ranks.is_main:
            if folder.path.exists():
                folder.lock()
            checkpoint = folder.newest_checkpoint()
            require_same_run(checkpoint, facts, allow)
    step = ranks.from_main(checkpoint.step if checkpoint else -1, device)
    with ranks.together(device):
        if ranks.is_main:  # the others wait, for it may download
            weights, begun_with = _beginning(config, checkpoint)
            inputs = load_inputs(config, device)
    with ranks.together(device):
        if not ranks.is_main:
            inputs = load_inputs(config, device)
            if step >= 0:
                checkpoint = open_checkpoint(list_steps(folder.checkpoints)[step])
            elif config.init_from is not None:
                weights = read_weights(config.init_from, config.model_config(), tell=False)
        trainer = Trainer(config, inputs, ranks, device)
        facts.update(begun_with, **model_facts(trainer.model))
        if ranks.is_main:
            facts.update(data_facts(config, inputs, checkpoint))
        changes = require_same_run(checkpoint, facts, allow)
        if checkpoint is None and weights is not None:
            trainer.require_weights(weights)
        trainer.resume_order(checkpoint)
        total = config.steps or trainer.steps_of(config.epochs or DEFAULT_EPOCHS)
        if step > total:
            raise ValueError(f"steps must be at least the {step} the run has taken, got {total}")
    with ranks.together(device):
        if ranks.is_main:
            folder.lock()
            folder.write_config(config.to_json())
            if inputs.shape_overrides:
                print(f"{config.preset} takes the shape of the data: {shape_text(inputs.train)}")
            print(_opening(trainer, step, total), flush=True)
            if changes:
                print(f"from step {step} on: {describe(changes)}", flush=True)
            if trainer.reason_for_no_graph is not None:
                print(f"cuda_graph is left out: {trainer.reason_for_no_graph}", flush=True)
    trainer.begin(checkpoint, weights)
    with ranks.together(device):
        test = None if inputs.test is None else inputs.test[: config.eval_images]
        run = Run(trainer, folder, test, total, facts, history(checkpoint, changes))
    run.run(saved_step=step)


def _beginning(
    config: TrainConfig, checkpoint: Checkpoint | None
) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """The weights that a run is to begin with, and what is to be remembered of them."""
    before = {} if checkpoint is None else checkpoint.state["fixed"]
    known = {name: before[name] for name in (INIT_FROM, WEIGHTS) if name in before}
    if config.init_from is None or config.init_from == known.get(INIT_FROM):
        return None, known  # a run that goes on needs them no more
    weights = read_weights(config.init_from, config.model_config())
    return weights, {INIT_FROM: config.init_from, WEIGHTS: weights_digest(weights)}


def _opening(trainer: Trainer, step: int, total: int) -> str:
    config = trainer.config
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    if step < 0:
        beginning = "starting" + (f" from {config.init_from}" if config.init_from else "")
    else:
        beginning = "finished" if step == total else f"going on from step {step}"
    return (
        f"{config.out_path}: {config.preset} ({parameters:,} parameters) on {len(trainer.images)} "
        f"images of {config.data}; {total} steps of {config.batch_size}; "
        f"{trainer.ranks.size} x {trainer.device.type}; {beginning}"
    )
