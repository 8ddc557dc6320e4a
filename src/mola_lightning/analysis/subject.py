"""A trained model, the images to look at it with, and what it does to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mola_lightning.analysis.collect import routed_queries, rows_of
from mola_lightning.analysis.routing import FloatArray
from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.analysis.stages import pooled
from mola_lightning.core import ModelOutput
from mola_lightning.data.base import TaskDataset


@dataclass
class Subject:
    """What is looked at, and how closely.

    Attributes:
        label: names the run in figures and tables.
        folder: where results go.
        module: a MultiTaskModule in evaluation mode.
        dataset: the split that it is looked at with.
        num_batches: batches of each task whose gradients are compared.
        batch_size: rows of a batch.
        num_images: images of each task whose features and mixing weights are looked at.
        swap_images: images of each task that try every expert; None for all.
        embedding: ``pca`` or ``tsne``.
        seed: of the draw of images.
        step: optimiser steps that the model was trained for, by which loggers sort what was found.
    """

    label: str
    folder: Path
    module: Any
    dataset: TaskDataset
    num_batches: int = 8
    batch_size: int = 64
    num_images: int = 256
    swap_images: int | None = None
    embedding: str = "pca"
    seed: int = 0
    step: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Task names, in task order."""
        return tuple(self.module.names)


@dataclass
class Seen:
    """Images of all tasks as a model sees them; rows are grouped by task.

    Attributes:
        features: (N, D) what the heads read.
        task_ids: (N,).
        classes: (N,) class of each image within its task, -1 where a task has none.
        mixing: (N, E) mixing weights as they were used, or None without a router.
    """

    features: Tensor
    task_ids: Tensor
    classes: Tensor
    mixing: Tensor | None

    def task_mixing(self, num_tasks: int) -> FloatArray:
        """(T, E) mean mixing weights of each task, as they were used: their sum may be other than one. NaN for a task
        without images.
        """
        assert self.mixing is not None
        return np.stack([self.mixing[self.task_ids == t].double().mean(0).numpy() for t in range(num_tasks)])

    def alike(self, values: Tensor) -> bool:
        """Whether ``values`` (N, D) are the same for every task: each has the same images, and nothing asks for whom.

        Up to rounding, as an image may run in another batch.
        """
        parts = [values[self.task_ids == t] for t in self.task_ids.unique()]
        return len(parts) > 1 and all(
            part.shape == parts[0].shape and torch.allclose(part, parts[0], rtol=1e-4, atol=1e-5) for part in parts[1:]
        )


@torch.no_grad()
def look(subject: Subject) -> Seen:
    """Features and mixing weights of ``num_images`` images of each task, under the model's own routing."""
    architecture, experts = subject.module.architecture, getattr(subject.module.architecture, "num_experts", None)
    features, ids, classes, mixing = [], [], [], []
    for t, task in enumerate(subject.module.tasks):
        for batch in task_batches(subject.dataset, task, subject.batch_size, subject.num_images, subject.seed):
            here = move(batch, subject.module)
            rows = rows_of(subject.module.tasks, task, here.images)
            found = architecture(here.images, rows)
            features.append(pooled(found.per_task[task.name]))
            ids.append(torch.full((len(here),), t))
            target = batch.targets[task.name]
            has_classes = task.discrete and target.ndim == 1
            classes.append(target if has_classes else torch.full((len(here),), -1))
            queries = routed_queries(ModelOutput({}, rows, found.routing, found.routed), experts)
            mixing += [] if queries is None else [queries[0]]
    return Seen(torch.cat(features), torch.cat(ids), torch.cat(classes), torch.cat(mixing) if mixing else None)
