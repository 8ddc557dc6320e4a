"""Training new tasks into a finished run, whose own tasks stay as they are."""

import json
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import BEST, CHECKPOINTS, SUMMARY
from mola_lightning.training.checkpoints import load_checkpoint
from mola_lightning.training.growing import OldRows, check_growth, grow, rest_norms

log = logging.getLogger(__name__)

REPORT = "added_tasks.json"


class AddedTasks(Callback):
    """Starts a training from a base run with fewer tasks, and trains nothing but what the new tasks bring.

    Backbone, norms, the base's experts and heads are frozen. Under MoLA-Grad the predictions of the base's tasks stay
    the same bit for bit. Under a learned router the new expert takes a part of the mixture of old tasks' images, too:
    what that costs them is measured by the test and written to ``<folder>/added_tasks.json``.

    Args:
        base: folder of the base run; its best checkpoint is taken.
        folder: of this run.
    """

    def __init__(self, base: str | Path | None, folder: str | Path) -> None:
        self.base, self.folder = None if base is None else Path(base), Path(folder)
        self._rows: list[OldRows] = []
        self._old: list[str] = []
        self._new: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the base and freeze it, before there is an optimiser."""
        if self.base is None:
            raise ConfigError("to which run are tasks to be added? Say base_run=<folder of a finished run>")
        checkpoint = load_checkpoint(self.base / CHECKPOINTS / BEST)
        self._old = list(checkpoint["tasks"])
        self._new = check_growth(pl_module, self._old)
        if stage != "fit":  # a test by itself, of a run that was trained before
            return
        self._rows = grow(pl_module, checkpoint["state_dict"], self._old)
        log.info("%s added to %s of %s", ", ".join(self._new), ", ".join(self._old), self.base)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Validation and Lightning itself put everything in training mode."""
        rest_norms(pl_module, self._new)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the base's experts back."""
        for rows in self._rows:
            rows.restore()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the old tasks have lost, against the test that the base run's summary records."""
        if not (trainer.is_global_zero and self._old and self.base is not None):
            return
        try:
            before = json.loads((self.base / SUMMARY).read_text(encoding="utf-8"))["test"]
        except (OSError, ValueError, KeyError) as error:
            raise RunFolderError(f"{self.base} has no test results to compare with: {error}") from error
        monitors = {task.name: task.monitor for task in pl_module.tasks}
        now = {n: float(trainer.callback_metrics[f"test/{n}/{monitors[n]}"]) for n in (*self._old, *self._new)}
        old = {n: {"before": before.get(n, {}).get(monitors[n]), "after": now[n]} for n in self._old}
        content = {"base": str(self.base), "old": old, "new": {n: now[n] for n in self._new}}
        with atomic_write(self.folder / REPORT) as file:
            json.dump(content, file, indent=1)
        known = {n: "?" if pair["before"] is None else f"{pair['before']:.4f}" for n, pair in old.items()}
        told = ", ".join(f"{n} {known[n]} -> {pair['after']:.4f}" for n, pair in old.items())
        log.info("test of the old tasks, before and after: %s", told)
