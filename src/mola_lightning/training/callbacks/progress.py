"""What runs, how far it is, and how long it will take."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)


class Progress(Callback):
    """One live line in a terminal; one log line an epoch elsewhere."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the line."""
        console = Console(stderr=True)
        if not (trainer.is_global_zero and console.is_terminal):
            return
        columns = (BarColumn(), TextColumn("epoch"), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
        score = TextColumn("{task.fields[score]}")
        self._bar = Bar(TextColumn("{task.description}"), *columns, TimeRemainingColumn(), score, console=console)
        self._bar.start()
        name = pl_module.architecture.method
        self._line = self._bar.add_task(str(name), total=trainer.max_epochs, completed=trainer.current_epoch, score="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on."""
        if self._bar is not None and trainer.num_training_batches:
            done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            self._bar.update(self._line, completed=round(done, 2))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the validation score."""
        score = trainer.callback_metrics.get("val/score")
        if score is None or trainer.sanity_checking:
            return
        if self._bar is not None:
            self._bar.update(self._line, score=f"val score {float(score):.4f}")
        elif trainer.is_global_zero:
            log.info("epoch %d/%s: val score %.4f", trainer.current_epoch + 1, trainer.max_epochs, float(score))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished line standing."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
