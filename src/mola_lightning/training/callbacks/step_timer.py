"""How long a training step takes."""

import statistics
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class StepTimer(Callback):
    """Times whole steps (forward, backward, optimiser), without loading data.

    On an accelerator only every tenth step is timed, since each timing waits for the device.

    Args:
        warmup: steps at the start that do not count.

    Attributes:
        seconds: durations of the timed steps.
    """

    def __init__(self, warmup: int = 5) -> None:
        self.warmup = warmup
        self.seconds: list[float] = []
        self._started: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        on_device = pl_module.device.type != "cpu"
        self._started = None
        if trainer.global_step >= self.warmup and (not on_device or trainer.global_step % 10 == 0):
            self._wait(pl_module)
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        if self._started is not None:
            self._wait(pl_module)
            self.seconds.append(time.perf_counter() - self._started)

    def state_dict(self) -> dict[str, Any]:
        """The durations, for a run that goes on later."""
        return {"seconds": torch.tensor(self.seconds, dtype=torch.float64)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after those of a checkpoint."""
        self.seconds = state_dict["seconds"].tolist()

    @staticmethod
    def _wait(pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)

    def statistics(self) -> dict[str, float | None]:
        """Median and mean in seconds; None when no step was timed."""
        if not self.seconds:
            return {"median": None, "mean": None}
        return {"median": statistics.median(self.seconds), "mean": statistics.fmean(self.seconds)}
