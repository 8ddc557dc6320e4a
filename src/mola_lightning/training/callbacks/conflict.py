"""How much the tasks' gradients disagree while a training goes on."""

from itertools import combinations
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mola_lightning.analysis.conflict import conflict_statistics, task_gradients
from mola_lightning.core import Batch
from mola_lightning.core.errors import positive_int
from mola_lightning.training.second_pass import second_pass


class ConflictMonitor(Callback):
    """Every N steps, before the step: the gradients of the tasks' losses on the batch that is about to be trained on.

    Logged: ``conflict/mean_cosine``, ``conflict/share_negative`` (of task pairs) and
    ``conflict/mean_magnitude_similarity``, over the pairs of tasks that are in the batch; with ``pairs`` also
    ``conflict/<task>~<task>/cosine``. The figure ``conflict`` of a run shows them over its steps.

    Costs one forward pass and T backward passes every N steps, and the memory of T gradients of the shared parameters.
    Changes nothing of the training: gradients in ``.grad``, norm statistics and random numbers are as they were.

    Args:
        every_n_steps: N, optimiser steps.
        pairs: whether each pair of tasks is logged too.
    """

    def __init__(self, every_n_steps: int = 50, pairs: bool = True) -> None:
        positive_int("every_n_steps", every_n_steps)
        self.every_n_steps, self.pairs = every_n_steps, pairs

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Measure, if it is time to."""
        first_of_step = batch_idx % trainer.accumulate_grad_batches == 0
        if trainer.global_step % self.every_n_steps or not first_of_step:
            return
        shared = pl_module.architecture.shared_parameters()
        if not shared or len(pl_module.names) < 2:
            return
        found = conflict_statistics(self._gradients(trainer, pl_module, batch, shared), pl_module.names)
        values = {f"conflict/{name}": value for name, value in found.items() if isinstance(value, float)}
        if self.pairs:
            values |= _pairs(found["cosine"], pl_module.names)
        # Not pl_module.log: its rows are written every log_every_n_steps only.
        for logger in trainer.loggers if values else ():
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)

    @staticmethod
    def _gradients(trainer: Trainer, module: LightningModule, batch: Batch, shared: list[Tensor]) -> Tensor:
        """(T, P), mean over processes; zeros for tasks that are in no process's batch."""
        with (
            second_pass(batch.images.device, module),
            torch.enable_grad(),
            trainer.precision_plugin.forward_context(),
        ):
            losses, units = module.task_losses(module(batch.images, batch.rows), batch.targets)
            gradients = task_gradients(dict(zip(module.names, losses.unbind(), strict=True)), shared)
        gradients = gradients.float() * (units > 0)[:, None]
        return trainer.strategy.reduce(gradients, reduce_op="mean") if trainer.world_size > 1 else gradients


def _pairs(cosine: Any, names: tuple[str, ...]) -> dict[str, float]:
    """The cosines of the pairs that have one, by the names they are logged under."""
    found = {f"conflict/{names[a]}~{names[b]}/cosine": cosine[a][b] for a, b in combinations(range(len(names)), 2)}
    return {name: value for name, value in found.items() if value is not None}
