"""Measurements that grow batch by batch, on the host: confusions, routing, task gradients."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.analysis.conflict import task_gradients
from mola_lightning.analysis.routing import joint_distribution
from mola_lightning.core import DataError, ModelOutput, Task, TaskRows


def confusion_counts(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """(classes, classes) int64 counts on the host; rows are true classes.

    Args:
        predictions: (n, classes, ...) scores.
        targets: (n, ...) class indices; those outside 0..classes-1 (void pixels) are left out.
        num_classes: the number of classes.
    """
    predicted, true = predictions.argmax(dim=1).flatten().cpu(), targets.flatten().cpu()
    valid = (true >= 0) & (true < num_classes)
    cells = torch.bincount(true[valid] * num_classes + predicted[valid], minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def routed_queries(output: ModelOutput, num_experts: int | None = None) -> tuple[Tensor, Tensor] | None:
    """The mixing weights (Q, E) and task ids (Q,) of each (row, task) query of a batch; None when nothing was routed.

    Args:
        output: of a model.
        num_experts: E; needed where routing says expert ids only.
    """
    routing = output.routing
    if routing is None:
        return None
    if routing.mixing is not None:
        mixing = routing.mixing.detach().float()
    elif routing.expert_ids is not None and num_experts is not None:
        mixing = F.one_hot(routing.expert_ids, num_experts).float()
    else:
        raise DataError("routing by expert ids says no number of experts; give num_experts")
    routed = output.rows if output.routed is None else output.routed
    if len(mixing) != routed.batch_size:
        raise DataError(f"routing has {len(mixing)} rows, but {routed.batch_size} rows ran through the backbone")
    rows, task_ids = routed.queries
    return mixing[rows].cpu(), task_ids.cpu()


def task_loss(module: nn.Module, task: Task, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of one task on images that are all its own, and its number of units.

    Args:
        module: gives a ModelOutput for (images, rows), and has ``tasks``.
        task: one of them.
        images: (n, C, H, W).
        targets: (n, ...).
    """
    return task.criterion(module(images, rows_of(module.tasks, task, images)).predictions[task.name], targets)


def rows_of(tasks: Sequence[Task], task: Task, images: Tensor) -> TaskRows:
    """All ``images`` as rows of ``task``."""
    every = torch.arange(len(images), device=images.device)
    return TaskRows({other.name: every if other is task else every[:0] for other in tasks}, len(images))


class RoutingCollector:
    """Sums mixing weights per task, and keeps some rows of each task as they are.

    Args:
        num_tasks: T.
        max_rows: how many rows to keep in all; each task gets an equal share, as test loaders often go task by task.
    """

    def __init__(self, num_tasks: int, max_rows: int = 2000) -> None:
        self.num_tasks = num_tasks
        self.quota = max_rows // num_tasks
        self.usage: NDArray[np.float64] | None = None
        self._kept: list[list[NDArray[np.float32]]] = [[] for _ in range(num_tasks)]

    def add(self, mixing: Tensor, task_ids: Tensor) -> None:
        """Add queries: weights (Q, E), task ids (Q,).

        Raises:
            DataError: when weights are not finite, negative or all zero in a row.
        """
        if not len(mixing):
            return
        sums = joint_distribution(mixing, task_ids, self.num_tasks) * len(mixing)
        self.usage = sums if self.usage is None else self.usage + sums
        for t, kept in enumerate(self._kept):
            room = self.quota - sum(map(len, kept))
            if room > 0 and len(rows := mixing[task_ids == t][:room].numpy()):
                kept.append(rows)

    def rows(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows kept, (n, E), and their task ids (n,); grouped by task."""
        experts = self.usage.shape[1] if self.usage is not None else 0
        kept = [np.concatenate(rows) if rows else np.empty((0, experts), np.float32) for rows in self._kept]
        return np.concatenate(kept), np.repeat(np.arange(self.num_tasks), [len(rows) for rows in kept])


class GradientCollector:
    """Sums the gradient of each task's loss over its first batches.

    Args:
        names: the T task names.
        num_batches: how many batches of each task to use.
    """

    def __init__(self, names: Sequence[str], num_batches: int) -> None:
        self.num_batches = num_batches
        self.seen = dict.fromkeys(names, 0)
        self.gradients: dict[str, Tensor] = {}

    def wants(self, name: str) -> bool:
        """Whether the task still lacks batches."""
        return self.seen[name] < self.num_batches

    def add(self, name: str, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        """Add a batch of one task: its summed loss, a scalar with a graph to ``parameters``."""
        gradient = task_gradients({name: loss}, parameters)[0].float().cpu()
        self.gradients[name] = self.gradients[name] + gradient if name in self.gradients else gradient
        self.seen[name] += 1

    def matrix(self) -> Tensor:
        """(T, P) gradients, zeros for tasks that never came; P = 0 when none did."""
        size = max((gradient.numel() for gradient in self.gradients.values()), default=0)
        return torch.stack([self.gradients.get(name, torch.zeros(size)) for name in self.seen])
