"""A trainer with its folder: logs, evaluations, samples, checkpoints, and how it all ends."""

from __future__ import annotations

import signal
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from vflow.io.checkpoint import list_steps, save_checkpoint
from vflow.runtime.console import RunStopped
from vflow.runtime.randomness import Stream, generator
from vflow.runtime.signals import StopSignals
from vflow.runtime.tf32 import tf32
from vflow.train.evaluation import mean_bits_per_dim
from vflow.train.folder import RunFolder
from vflow.train.metrics import Monitor, Window
from vflow.train.optim import MAX_SKIPS_IN_A_ROW, learning_rate
from vflow.train.trainer import Trainer

SAMPLES = 64


class Run:
    """Takes a trainer through its steps.

    Args:
        trainer: Begun, anew or from a checkpoint.
        folder: Locked by the first process, the only one that writes.
        test: Test images, uint8 [N, C, H, W]; None if none are evaluated.
        total: Steps to take, counting those taken.
        facts: What the run must keep when it goes on; goes into the checkpoints.
        changes: What of it has been changed and after which step, as `facts.history` tells.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        test: Tensor | None,
        total: int,
        facts: dict[str, Any],
        changes: list[dict[str, Any]],
    ) -> None:
        self.trainer, self.folder, self.test, self.total = trainer, folder, test, total
        self.config, self.ranks, self.facts = trainer.config, trainer.ranks, facts
        self.monitor: Monitor | None = None
        if self.ranks.is_main:
            self.monitor = Monitor(
                folder.path, trainer.step, total, self.config.batch_size, trainer.seconds
            )
            if changes and changes[-1]["step"] == trainer.step:
                self.monitor.changes(changes[-1])
        self.changes = changes
        self._stop_later = False
        self._written = time.monotonic()
        self.signals = StopSignals()
        self.stopping = False  # agreed between the processes, unlike signals.received

    def run(self, saved_step: int) -> None:
        """Train to the last step, or to a signal.

        Args:
            saved_step: Step of the checkpoint it began from, -1 if there is none.

        Raises:
            RunStopped: If the loss or gradient is not finite, or the processes differ.
            KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
            SystemExit: After SIGTERM likewise, with code 143.
        """
        trainer = self.trainer
        try:
            with self.signals:
                while True:
                    # Before the step and not after it, so that a run killed within an evaluation
                    # makes up for it when it goes on.
                    with self._aside(), tf32(False):
                        self._look(trainer.step)
                    if self.stopping or trainer.step == self.total:
                        break
                    trainer.take_step(lambda: self.signals.received is not None)
                    due = self._due(trainer.step, self.config.checkpoint_every)
                    self._read_outcomes(due or self._due(trainer.step, self.config.eval_every))
                    if due:
                        with self._aside():
                            self._save()
                        saved_step = trainer.step
                    elif self._late():
                        with self._aside():
                            self._write_alone()
                self._read_outcomes(True)
                if saved_step != trainer.step:
                    self._save()
                if not self.stopping:
                    with self.ranks.together(trainer.device), tf32(False):
                        self._finish()
            if self.stopping:
                self._leave()
        finally:
            self.trainer.batches.close()
            if self.monitor:
                self.monitor.close()

    def _aside(self) -> AbstractContextManager[None]:
        return self.monitor.aside() if self.monitor else nullcontext()

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and step > 0 and (step % every == 0 or step == self.total)

    def _late(self) -> bool:
        """Whether this process writes, and the last checkpoint is too long ago."""
        limit = 60 * self.config.checkpoint_minutes
        return self.monitor is not None and 0 < limit <= time.monotonic() - self._written

    def _read_outcomes(self, all_of_them: bool) -> None:
        trainer = self.trainer
        self.stopping = self.stopping or self._stop_later
        for step, (bits, norm, skip, streak, stops) in trainer.outcomes(all_of_them):
            self.stopping = self.stopping or stops > 0
            lr = learning_rate(step - 1, self.config.optim)
            if skip:
                trainer.skipped += 1
            else:
                trainer.window.add(bits, norm)
            if self.monitor:
                self.monitor.step(bits, lr, norm)
            if streak >= MAX_SKIPS_IN_A_ROW:
                self._diverged(step, bits, norm)
            if self._due(step, self.config.log_every):
                if self.monitor:
                    self.monitor.train(step, trainer.window, lr, trainer.skipped)
                trainer.window = Window()

    def _look(self, step: int) -> None:
        """Evaluate and draw samples where due, and not done before a restart."""
        trainer, config = self.trainer, self.config
        model = trainer.averaged_model
        if self.test is not None and self._evaluation_due(step):
            bits = mean_bits_per_dim(
                model,
                self.test,
                config.batch_size,
                config.seed,
                self.ranks,
                lambda: self.signals.received is not None,
            )
            if bits is None:
                self.stopping = True
            elif self.monitor:
                estimated = bool(model.density.estimate_shapes())
                self.monitor.evaluation(step, bits, len(self.test), estimated)
        if self._due(step, config.sample_every) and not self.stopping:
            with self.ranks.together(trainer.device):  # a collective would not wait for it long
                self._draw_samples(self.folder.sample_path(step))

    def _draw_samples(self, path: Path) -> None:
        if self.monitor is None or path.exists():
            return
        from vflow.plots import save_image_grid  # Pillow is slow to import

        source = generator(self.trainer.device, self.config.seed, Stream.SAMPLES)
        save_image_grid(self.trainer.averaged_model.sample(SAMPLES, generator=source), path)

    def _evaluation_due(self, step: int) -> bool:
        if self.stopping or not self._due(step, self.config.eval_every):
            return False
        done = self.monitor is not None and self.monitor.evaluated(step)
        return not self.ranks.from_main(int(done), self.trainer.device)

    def _save(self) -> None:
        trainer = self.trainer
        if self.config.check_ranks:
            self.ranks.require_same(trainer.model, "parameters")
            self.ranks.require_same(trainer.ema, "averaged parameters")
        with self.ranks.together(trainer.device):
            self._write()

    def _write_alone(self) -> None:
        """Write a checkpoint that the other processes do not know of.

        They have not read what the newest step came to: if it says to stop, all do when they have.
        """
        stopping = self.stopping
        self._read_outcomes(True)
        self._stop_later, self.stopping = self.stopping, stopping
        self._write()

    def _write(self) -> None:
        if self.monitor is None:
            return
        trainer = self.trainer
        self.monitor.sync()
        trainer.seconds = self.monitor.seconds
        save_checkpoint(
            self.folder.checkpoints,
            trainer.step,
            trainer.tensors(),
            self._state(),
            self.config.keep,
        )
        self._written = time.monotonic()

    def _state(self) -> dict[str, Any]:
        """What the checkpoint of this step holds beside tensors."""
        return {**self.trainer.state(), "fixed": self.facts, "changes": self.changes}

    def _finish(self) -> None:
        if self.monitor is None:
            return
        self.folder.write_model(self.trainer.averaged_model, self._describe)
        self.monitor.say(f"finished: {self.folder.model} after step {self.trainer.step}")

    def _describe(self, folder: Path) -> None:
        """Write the model's card with its pictures."""
        from vflow.report.model_folder import draw_pictures, facts_of, write_card
        from vflow.report.runs import read_run

        run, model = read_run(self.folder.path), self.trainer.averaged_model
        facts = facts_of(run, model, self._state(), name=run.name, path=self.folder.model.name)
        draw_pictures(folder, run, model, run.name)
        write_card(folder, run, facts)

    def _diverged(self, step: int, bits: float, norm: float) -> None:
        cause = "bits/dim" if not abs(bits) < float("inf") else "the gradient's norm"
        value = bits if cause == "bits/dim" else norm
        steps = list_steps(self.folder.checkpoints)
        good = f"the last good checkpoint is {steps[max(steps)]}" if steps else "no checkpoint yet"
        raise RunStopped(
            f"{cause} must be finite, got {value} at step {step} and {MAX_SKIPS_IN_A_ROW} steps in "
            f"a row were skipped for the like; {good}"
        )

    def _leave(self) -> None:
        received = self.signals.received or signal.SIGTERM
        if self.monitor:
            steps = list_steps(self.folder.checkpoints)
            self.monitor.say(
                f"stopped at step {self.trainer.step} by {received.name}; checkpoint "
                f"{steps[max(steps)]}; run the same command to go on"
            )
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received)
