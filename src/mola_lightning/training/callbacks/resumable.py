"""Saves a training so that, killed at any moment and started again, it ends as if nothing had happened."""

import logging
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mola_lightning.core import ConfigError, RunFolderError, seed_of
from mola_lightning.core.errors import positive_int, require
from mola_lightning.core.run_files import LAST
from mola_lightning.training.finite import TrainingDiverged
from mola_lightning.training.journal import MetricsJournal
from mola_lightning.training.signals import StopSignals

log = logging.getLogger(__name__)

AGREE_EVERY = 8  # steps between agreements of several processes on whether to save: each is a message to all


class ResumableCheckpoint(Callback):
    """Writes ``last.ckpt``, from which a training goes on bit for bit as the uninterrupted one (on CPU, with
    deterministic algorithms and a fixed number of threads).

    It saves at one place, the start of a batch, where nothing of the batch before is pending: its rows are written,
    a validation after it is over. And it seeds all generators anew for each batch, by (seed, rank, epoch, batch), so
    that dropout and the like need no state. It must be the first callback. The journal of the run is cut back to what
    it held when the checkpoint was written.

    Saved are the start of each epoch, the end of the training, and what the arguments say; then also when SIGINT,
    SIGTERM or SIGUSR2 asks the training to stop (:class:`StopSignals`).

    Args:
        dirpath: folder of the checkpoint.
        seed: of what is random in a training step.
        every_n_steps: optimiser steps between two checkpoints; None: by time and epoch only.
        every_n_minutes: minutes between two checkpoints; None: by steps and epoch only.

    Attributes:
        identity: what the run is, as flat settings; kept in the checkpoint, for whoever resumes it to compare.
        resumes: how often this run was resumed.
    """

    def __init__(
        self,
        dirpath: str | Path,
        seed: int = 0,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 5.0,
    ) -> None:
        if every_n_steps is not None:
            positive_int("every_n_steps", every_n_steps)
        require(every_n_minutes is None or every_n_minutes > 0, f"every_n_minutes must be > 0, got {every_n_minutes!r}")
        self.path = Path(dirpath) / LAST
        self.seed, self.every_n_steps, self.every_n_minutes = seed, every_n_steps, every_n_minutes
        self.identity: Mapping[str, Any] = {}
        self.resumes = 0
        self._signals = StopSignals()
        self._saved_step, self._saved_time = 0, time.monotonic()
        self._started, self._seconds_before = time.monotonic(), 0.0
        self._batch: int | None = None  # that is about to begin, while saving
        self._finished = False
        self._loaded: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    # ----------------------------------------------------------------------------------------------------------- saving

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the journal back to the checkpoint; without one, to nothing."""
        callbacks = trainer.callbacks
        if callbacks[0] is not self:
            raise ConfigError("ResumableCheckpoint must be the first callback: what comes before it is not saved")
        loaded, self._loaded = self._loaded, None
        for logger in trainer.loggers:
            if isinstance(logger, MetricsJournal):
                logger.rewind(loaded["journal"] if loaded else 0)
        if loaded:
            self.resumes += 1
            trainer.callback_metrics.update(loaded["callback_metrics"])  # Lightning has emptied them by now
        self._started = self._saved_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; Lightning and a job launcher have set their handlers by now."""
        self._signals.install()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save if it is time to; then seed."""
        # Half-summed gradients are in no checkpoint.
        if batch_idx % trainer.accumulate_grad_batches == 0:
            due, signum = self._due(trainer, batch_idx)
            if due:
                self._save(trainer, pl_module, batch_idx)
            if signum:
                self._signals.serve(signum, trainer.current_epoch, trainer.global_step)
        self._reseed(trainer, "train", batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed."""
        self._reseed(trainer, "val")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was reached."""
        self._finished = True
        self._save(trainer, pl_module, None)
        self._signals.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._signals.restore()

    def _due(self, trainer: Trainer, batch_idx: int) -> tuple[bool, int]:
        """Whether to save, and the signal that asks the training to stop, else 0."""
        steps = trainer.global_step - self._saved_step
        planned = batch_idx == 0 or (self.every_n_steps is not None and steps >= self.every_n_steps)
        late = self.every_n_minutes is not None and time.monotonic() - self._saved_time >= 60 * self.every_n_minutes
        signum = self._signals.received or 0
        if trainer.world_size > 1:
            # Clocks and signals differ between processes, and all of them must save, and stop, at the same step.
            if not planned and trainer.global_step % AGREE_EVERY:
                return False, 0
            asked = torch.tensor([int(late), signum], device=trainer.strategy.root_device)
            any_late, signum = map(int, trainer.strategy.reduce(asked, reduce_op="max"))
            late = any_late > 0
        return (steps > 0 and (planned or late)) or signum > 0, signum

    def _save(self, trainer: Trainer, module: LightningModule, batch_idx: int | None) -> None:
        broken = [name for name, parameter in module.named_parameters() if not bool(parameter.isfinite().all())]
        if broken:
            raise TrainingDiverged(
                f"{len(broken)} parameters are not finite after step {trainer.global_step}, among them {broken[0]}. "
                "What was saved before stays. Try a lower learning rate, or trainer.gradient_clip_val=1."
            )
        self._saved_step, self._saved_time, self._batch = trainer.global_step, time.monotonic(), batch_idx
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._batch = None

    def _reseed(self, trainer: Trainer, *where: object) -> None:
        seed = seed_of(self.seed, trainer.global_rank, trainer.current_epoch, *where)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the global state, which a user's transform may draw from
        random.seed(seed)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out; checkpoints of other callbacks stay as they are."""
        if self._batch is None and not self._finished:
            return
        loop = checkpoint["loops"]["fit_loop"]
        if self._batch is not None:
            self._rewind_loops(trainer, loop, self._batch)
        loop["state_dict"]["combined_loader"][0]["batch"] = self._batch or 0
        journal = next((logger for logger in trainer.loggers if isinstance(logger, MetricsJournal)), None)
        checkpoint["resume"] = {
            "journal": journal.length() if journal is not None else 0,
            "callback_metrics": dict(trainer.callback_metrics),
            "step": trainer.global_step,
            "seconds": self.seconds,
            "resumes": self.resumes,
            "finished": self._finished,
            "identity": dict(self.identity),
        }

    @staticmethod
    def _rewind_loops(trainer: Trainer, loop: dict[str, Any], batch_idx: int) -> None:
        """Let Lightning's counters say that batch ``batch_idx`` has not begun."""
        batches = loop["epoch_loop.batch_progress"]
        for counter in (batches["total"], batches["current"]):
            counter["ready"] -= 1
        batches["is_last_batch"] = False
        every = trainer.check_val_every_n_epoch
        here = every is None or (trainer.current_epoch + 1) % every == 0
        done = batches["total"]["ready"] if every is None else batch_idx
        if trainer.enable_validation and here and done % trainer.val_check_batch == 0:
            # Where a validation ended, or an epoch begins, Lightning restarts by an empty step, which it counts.
            loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    # ---------------------------------------------------------------------------------------------------------- loading

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` added; refuse to go on from any other checkpoint."""
        if trainer.state.fn != "fit":
            return
        if "resume" not in checkpoint:
            raise RunFolderError(
                "this checkpoint was saved in the midst of an epoch's end, to be evaluated; a training goes on from "
                f"{self.path.name} only"
            )
        self.take_up(checkpoint["resume"])
        self._loaded = checkpoint["resume"]

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on counting where ``state``, the ``resume`` entry of a checkpoint, stopped."""
        self.resumes, self._saved_step = int(state["resumes"]), int(state["step"])
        self._seconds_before = float(state["seconds"])
        self._started = time.monotonic()
