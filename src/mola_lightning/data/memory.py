"""A dataset whose images and targets lie in memory, for any regime."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mola_lightning.core import DataError, Sample, Task
from mola_lightning.data.base import Key, TaskDataset
from mola_lightning.data.transforms import Normalize, RandomShift


class InMemoryDataset(TaskDataset):
    """Images of one shape, and for each task the rows that carry a target with those targets.

    Args:
        tasks: all tasks, in task order.
        images: (N, C, H, W) uint8 (kept as such, a quarter of the memory) or float.
        targets: task name -> (rows (n_t,) int64, values (n_t, ...)); a task that is left out has no rows here.
        normalize: applied to each batch; by default uint8 images become floats in [0, 1] and floats stay as they are.
        shift: augmentation of rows that are asked for with their epoch; none by default.

    Raises:
        DataError: for targets that do not fit the images, or rows without any target.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        images: Tensor,
        targets: Mapping[str, tuple[Tensor, Tensor]],
        normalize: Normalize | None = None,
        shift: RandomShift | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.images = images
        self.normalize = normalize or Normalize()
        self.shift = shift
        self._values: dict[str, Tensor] = {}
        self._position: dict[str, Tensor] = {}  # of row i among the values of the task; -1: no target
        if images.ndim != 4:
            raise DataError(f"images must be (N, C, H, W), got shape {tuple(images.shape)}")
        unknown = set(targets) - {task.name for task in self.tasks}
        if unknown:
            raise DataError(f"targets of unknown tasks {sorted(unknown)}; the tasks are {[t.name for t in self.tasks]}")
        for task in self.tasks:
            if task.name in targets:
                self._add(task, *targets[task.name])
        self._owners = sum((p >= 0 for p in self._position.values()), torch.zeros(len(images), dtype=torch.long))
        bare = int((self._owners == 0).sum())
        if bare:
            raise DataError(f"{bare} of {len(images)} rows carry no target of any task; leave them out")

    def _add(self, task: Task, rows: Tensor, values: Tensor) -> None:
        if len(rows) != len(values):
            raise DataError(f"task {task.name!r}: {len(rows)} images but {len(values)} targets")
        if task.discrete and values.is_floating_point():
            raise DataError(f"task {task.name!r}: class indices must be integers, got {values.dtype}; use .long()")
        position = torch.full((len(self.images),), -1, dtype=torch.long)
        position[rows] = torch.arange(len(rows))
        if int((position >= 0).sum()) != len(rows):
            raise DataError(f"task {task.name!r}: a row has two targets")
        self._position[task.name] = position
        self._values[task.name] = values.long() if task.discrete else values

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples of a batch at a time (the DataLoader calls this where it exists): several times faster."""
        index = torch.tensor([key[1] if isinstance(key, tuple) else key for key in keys])
        images = self.images[index]
        pairs = [key for key in keys if isinstance(key, tuple)]
        if self.shift is not None and pairs:
            if len(pairs) != len(keys):
                raise DataError("a batch must ask for its rows either all with their epoch or all without")
            images = self.shift(images, self.seed, pairs)
        samples = [Sample(image, {}) for image in self.normalize(images).unbind()]
        for name, position in self._position.items():
            found = position[index]
            here = (found >= 0).nonzero().flatten()
            for i, value in zip(here.tolist(), self._values[name][found[here]].unbind(), strict=True):
                samples[i].targets[name] = value
        return samples

    def normalizer(self, row: int) -> Normalize:
        return self.normalize

    def task_ids(self) -> np.ndarray | None:
        """(N,) int64, the task of each row; None where some row carries several targets."""
        if bool((self._owners != 1).any()):
            return None
        ids = np.empty(len(self), dtype=np.int64)
        for t, task in enumerate(self.tasks):
            if task.name in self._position:
                ids[(self._position[task.name] >= 0).numpy()] = t
        return ids

    def labels(self) -> dict[str, Tensor] | None:
        """The targets of the discrete tasks."""
        return {t.name: self._values[t.name] for t in self.tasks if t.discrete and t.name in self._values}

    def task_sizes(self) -> dict[str, int]:
        """The number of rows that carry a target for each task."""
        return {t.name: len(self._values.get(t.name, ())) for t in self.tasks}
