"""Batches of one task at a time, the same for every model that is looked at."""

from collections.abc import Iterator

import numpy as np
import torch

from mola_lightning.core import Batch, Collate, Sample, Task
from mola_lightning.data.base import TaskDataset


def task_batches(
    dataset: TaskDataset, task: Task, batch_size: int, num_rows: int | None = None, seed: int = 0
) -> Iterator[Batch]:
    """Rows of ``dataset`` that carry a target for ``task``, as batches in which no other task is annotated.

    Args:
        dataset: a split.
        task: whose rows.
        batch_size: rows of a batch; the last one may have fewer.
        num_rows: how many rows, drawn without replacement; all of them, in order, when None.
        seed: of the draw. Where images have several targets, each task gets the same images.
    """
    collate = Collate(dataset.tasks)
    waiting: list[Sample] = []
    for sample in _samples(dataset, task, num_rows, seed):
        waiting.append(sample)
        if len(waiting) == batch_size:
            yield collate(waiting)
            waiting = []
    if waiting:
        yield collate(waiting)


def _samples(dataset: TaskDataset, task: Task, num_rows: int | None, seed: int) -> Iterator[Sample]:
    ids = dataset.task_ids()
    names = [other.name for other in dataset.tasks]
    candidates = np.arange(len(dataset)) if ids is None else np.flatnonzero(ids == names.index(task.name))
    if num_rows is not None:
        candidates = np.random.default_rng(seed).permutation(candidates)
    given = 0
    for row in candidates.tolist():
        if given == num_rows:
            return
        sample = dataset[row]
        if task.name in sample.targets:  # where rows have several targets, not every row has this one
            given += 1
            yield Sample(sample.image, {task.name: sample.targets[task.name]})


def move(batch: Batch, like: torch.nn.Module) -> Batch:
    """The batch on the device of a module's parameters."""
    return batch.to(next(like.parameters()).device)
