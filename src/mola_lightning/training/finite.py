"""What happens when a loss is not finite."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mola_lightning.core import MolaError
from mola_lightning.core.errors import one_of

log = logging.getLogger(__name__)

MODES = ("stop", "skip_batch")
DEVICE_EVERY = 25  # steps between looks at values on an accelerator in mode "stop": each look waits for it


class TrainingDiverged(MolaError, ArithmeticError):
    """A loss or a weight is NaN or infinite."""


class FiniteGuard:
    """Looks at the losses of each step.

    Args:
        mode: ``stop``: raise; on an accelerator some steps later, and before anything is saved. ``skip_batch``: leave
            the batch out, weights and optimiser untouched, and tell it; it waits for the device at each step.

    Attributes:
        skipped: batches left out so far.
    """

    def __init__(self, mode: str = "stop") -> None:
        one_of("on_nan", mode, MODES)
        self.mode = mode
        self.skipped = 0
        self._steps = 0
        self._waiting: Tensor | None = None
        self._buffers: list[tuple[Tensor, Tensor]] = []  # and what they were before the step

    def begin(self, module: nn.Module) -> None:
        """A step begins; a batch that is skipped must not leave its mark on buffers, norm statistics among them."""
        if self.mode == "skip_batch":
            self._buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def refuses(self, values: Tensor, names: Sequence[str], epoch: int, batch: int) -> bool:
        """Whether the batch is to be left out.

        Args:
            values: (n,) losses.
            names: what each of them is.
            epoch: for the message, from 0.
            batch: of the epoch, for the message.

        Raises:
            TrainingDiverged: for a value that is not finite, in mode ``stop``.
        """
        finite = values.detach().isfinite()
        if self.mode == "stop" and values.device.type != "cpu":
            self._steps += 1
            if self._waiting is None or len(self._waiting) != len(finite):
                self._waiting = finite
            self._waiting = self._waiting & finite
            if self._steps % DEVICE_EVERY:
                return False
            finite, self._waiting = self._waiting, None
        if bool(finite.all()):
            return False
        bad = [name for name, ok in zip(names, finite.tolist(), strict=True) if not ok]
        what = f"the loss of {', '.join(bad)} is not finite (epoch {epoch + 1}, batch {batch + 1})"
        if self.mode == "stop":
            raise TrainingDiverged(
                f"{what}. Checkpoints written before stay. Look at the data of that batch, try a lower learning rate "
                "or trainer.gradient_clip_val=1, or leave such batches out with on_nan=skip_batch."
            )
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        self.skipped += 1
        log.warning("%s; batch left out, the %d. of this run", what, self.skipped)
        return True
