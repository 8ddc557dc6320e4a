"""Collects during a test what the figures of a run are drawn from."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mola_lightning.analysis.collect import (
    GradientCollector,
    RoutingCollector,
    confusion_counts,
    routed_queries,
    task_loss,
)
from mola_lightning.analysis.conflict import conflict_statistics
from mola_lightning.analysis.records import Records, draw_run
from mola_lightning.analysis.routing import conditional, joint_statistics
from mola_lightning.core import Batch, DataError, ModelOutput, Task

log = logging.getLogger(__name__)

MAX_CONFLICT_ROWS = 64  # rows of a task per batch whose gradient is taken: a test batch may be too large for a backward


class TestRecords(Callback):
    """Confusion matrices, mixing weights and gradient conflict of a test, written to ``<folder>/analysis/records.npz``.

    The test step must return its ModelOutput. Reads ``module.tasks``; ``module.architecture.num_experts`` where rows
    are routed by expert id alone; and, for the gradients, ``module(images, rows)`` that gives a ModelOutput and
    ``module.architecture.shared_parameters()``. Counts are summed over ranks; the single rows kept are rank zero's.

    Args:
        folder: the run folder.
        num_conflict_batches: from how many batches of each task its gradient is taken, at most 64 rows of each; 0: no
            gradients.

    Attributes:
        routing_statistics: after a test, the ``routing`` entry of the summary; None when nothing was routed.
        conflict_statistics: after a test, the ``conflict`` entry; None when not measured or no parameter is shared.
    """

    __test__ = False  # its name would make pytest collect it

    def __init__(self, folder: Path | str, num_conflict_batches: int = 4) -> None:
        self.folder = Path(folder)
        self.num_conflict_batches = num_conflict_batches
        self.routing_statistics: dict[str, object] | None = None
        self.conflict_statistics: dict[str, object] | None = None
        self._draws = True
        self._tasks: tuple[Task, ...] = ()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an earlier test left."""
        self.routing_statistics = self.conflict_statistics = None
        self._tasks = tuple(pl_module.tasks)
        discrete = [task for task in self._tasks if task.discrete]
        self._confusion = {t.name: torch.zeros(t.num_outputs, t.num_outputs, dtype=torch.long) for t in discrete}
        self._routing = RoutingCollector(len(self._tasks))
        self._routing_trouble = ""
        self._shared = _shared_parameters(pl_module)
        self._conflict = GradientCollector(
            [task.name for task in self._tasks], self.num_conflict_batches if self._shared else 0
        )

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect from one batch; ``outputs`` is what the test step returned."""
        if not isinstance(outputs, ModelOutput):
            raise TypeError(f"test_step must return its ModelOutput for the records, got {type(outputs).__name__}")
        for name, counts in self._confusion.items():
            if outputs.rows.counts.get(name):
                counts += confusion_counts(outputs.predictions[name], batch.targets[name], len(counts))
        self._collect_routing(pl_module, outputs)
        for task in self._tasks:
            if self._conflict.wants(task.name) and batch.rows.counts.get(task.name):
                self._collect_gradient(trainer, pl_module, batch, task)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum over ranks; rank zero writes the records."""
        for counts in self._confusion.values():
            counts.copy_(_sum_over_ranks(trainer, counts))
        usage, cosine = self._finish_routing(trainer), self._finish_conflict(trainer)
        self._draws = trainer.is_global_zero
        if not trainer.is_global_zero:
            return
        records = Records(
            tuple(task.name for task in self._tasks),
            {name: counts.numpy() for name, counts in self._confusion.items()},
            {task.name: task.class_names for task in self._tasks if task.discrete and task.class_names},
            cosine=cosine,
        )
        if usage is not None:
            records.mean_mixing = conditional(usage)
            records.mixing, records.mixing_task_ids = self._routing.rows()
        records.save(self.folder)

    def draw(self) -> list[Path]:
        """Draw the figures of the run folder as it is now, on rank zero; call it once metrics.csv is complete.

        Returns:
            The PNG files written.
        """
        return draw_run(self.folder) if self._draws else []

    def _collect_routing(self, module: LightningModule, outputs: ModelOutput) -> None:
        queries = routed_queries(outputs, getattr(module.architecture, "num_experts", None))
        if queries is None or self._routing_trouble:
            return
        try:
            self._routing.add(*queries)
        except DataError as error:
            # A diverged router must not cost the user the test results of a finished training.
            self._routing_trouble = str(error)
            log.warning("routing statistics are left out: %s", error)

    def _collect_gradient(self, trainer: Trainer, module: LightningModule, batch: Batch, task: Task) -> None:
        """Add the gradient of one task's loss on its first rows of the batch, as if it were the batch's only task."""
        # A test runs in inference mode, whose tensors no graph may keep: leave it and work on copies.
        with torch.inference_mode(False), torch.enable_grad(), trainer.precision_plugin.forward_context():
            picked = batch.rows[task.name][:MAX_CONFLICT_ROWS].clone()
            images, targets = batch.images.clone()[picked], batch.targets[task.name].clone()[: len(picked)]
            loss, _ = task_loss(module, task, images, targets)
            self._conflict.add(task.name, loss, self._shared)

    def _finish_routing(self, trainer: Trainer) -> np.ndarray | None:
        """(T, E) summed mixing weights of all ranks; None when nothing was routed anywhere, or any rank had trouble."""
        usage = None if self._routing_trouble else self._routing.usage
        experts = _over_ranks(trainer, 0 if usage is None else usage.shape[1], "max")
        if not experts or _over_ranks(trainer, int(bool(self._routing_trouble)), "max"):
            return None
        local = torch.zeros(len(self._tasks), experts) if usage is None else torch.from_numpy(usage)
        total = _sum_over_ranks(trainer, local.double()).numpy()
        self.routing_statistics = joint_statistics(total / total.sum())
        return total

    def _finish_conflict(self, trainer: Trainer) -> np.ndarray | None:
        """(T, T) cosines between the gradients summed over ranks; None when not measured."""
        gradients = self._conflict.matrix()
        size = _over_ranks(trainer, gradients.shape[1], "max")
        if not size:
            return None
        local = gradients if gradients.shape[1] else torch.zeros(len(self._tasks), size)
        names = [task.name for task in self._tasks]
        self.conflict_statistics = conflict_statistics(_sum_over_ranks(trainer, local), names)
        return np.array(self.conflict_statistics["cosine"], dtype=np.float64)


def _shared_parameters(module: LightningModule) -> list[Tensor]:
    """Trainable parameters that several tasks share; none for architectures that share nothing."""
    shared = getattr(module.architecture, "shared_parameters", None)
    return [parameter for parameter in shared() if parameter.requires_grad] if shared else []


def _sum_over_ranks(trainer: Trainer, tensor: Tensor) -> Tensor:
    """The sum on the host; collectives may need the tensor on the rank's device."""
    if trainer.world_size == 1:
        return tensor
    return trainer.strategy.reduce(tensor.to(trainer.strategy.root_device), reduce_op="sum").cpu()


def _over_ranks(trainer: Trainer, value: int, how: str) -> int:
    if trainer.world_size == 1:
        return value
    return int(trainer.strategy.reduce(torch.tensor(value, device=trainer.strategy.root_device), reduce_op=how))
