"""What flows: samples, and batches that know which of their rows carry a target for which task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mola_lightning.core.errors import DataError
from mola_lightning.core.tasks import Task


@dataclass
class Sample:
    """One image and its targets.

    Attributes:
        image: (C, H, W) float.
        targets: task name -> target tensor, one entry for each task that the sample is annotated for.
    """

    image: Tensor
    targets: dict[str, Tensor]


class TaskRows(Mapping[str, Tensor]):
    """For each task, the rows of the batch that carry a target for it: ``rows[name]`` is (n_t,) int64, ascending.

    Rows may be disjoint (domains, multi-input tasks), all rows for each task (single-input), or any subsets (partially
    annotated samples). A task without rows is absent from the batch but keeps its entry, of length 0.

    Args:
        rows: task name -> row indices (n_t,), in task order; the position of a name is the task's id.
        batch_size: B.
    """

    def __init__(self, rows: Mapping[str, Tensor], batch_size: int) -> None:
        self._rows = dict(rows)
        self.batch_size = batch_size

    @classmethod
    def from_task_ids(cls, task_ids: Tensor, names: Sequence[str]) -> "TaskRows":
        """Disjoint rows: row b belongs to the task ``names[task_ids[b]]``. ``task_ids`` is (B,) integer."""
        if len(task_ids) and not 0 <= int(task_ids.min()) <= int(task_ids.max()) < len(names):
            raise DataError(f"task ids must lie in 0..{len(names) - 1}, got {torch.unique(task_ids).tolist()}")
        return cls({name: (task_ids == t).nonzero().flatten() for t, name in enumerate(names)}, len(task_ids))

    @classmethod
    def all_rows(cls, batch_size: int, names: Sequence[str]) -> "TaskRows":
        """Every row for every task: a single-input batch, completely annotated."""
        return cls({name: torch.arange(batch_size) for name in names}, batch_size)

    def __getitem__(self, name: str) -> Tensor:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> tuple[str, ...]:
        """All task names, in task order, present in the batch or not."""
        return tuple(self._rows)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Rows per task. Python ints: reading them never waits for a device."""
        return {name: rows.shape[0] for name, rows in self._rows.items()}

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the tasks with at least one row."""
        return tuple(name for name, count in self.counts.items() if count)

    @cached_property
    def queries(self) -> tuple[Tensor, Tensor]:
        """All (row, task) pairs, grouped by task in task order: (row indices (Q,), task ids (Q,)), Q = sum of
        counts.
        """
        ids = [torch.full_like(rows, t) for t, rows in enumerate(self._rows.values())]
        return torch.cat(list(self._rows.values())), torch.cat(ids)

    @cached_property
    def disjoint(self) -> bool:
        """Whether each row of the batch carries a target for exactly one task."""
        if sum(self.counts.values()) != self.batch_size:
            return False
        return bool((torch.bincount(self.queries[0], minlength=self.batch_size) == 1).all())

    @cached_property
    def task_ids(self) -> Tensor:
        """(B,) int64, the one task of each row.

        Raises:
            DataError: when a row carries targets of several tasks, or of none.
        """
        if not self.disjoint:
            raise DataError(
                "task ids exist only where each row has exactly one task; here rows have several targets or none. "
                "Use rows[name], or an architecture that takes one (row, task) query at a time."
            )
        rows, ids = self.queries
        return torch.empty_like(ids).scatter_(0, rows, ids)

    def select(self, name: str) -> "TaskRows":
        """The same batch as if only task ``name`` were annotated."""
        empty = {other: rows[:0] for other, rows in self._rows.items()}
        return TaskRows({**empty, name: self._rows[name]}, self.batch_size)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TaskRows":
        """A copy on ``device``; what is known on the host stays known, so that nothing is asked of the device later."""
        moved = TaskRows({n: r.to(device, non_blocking=non_blocking) for n, r in self._rows.items()}, self.batch_size)
        moved.__dict__["disjoint"] = self.disjoint
        return moved

    def pin_memory(self) -> "TaskRows":
        """A copy in page-locked memory (called by the DataLoader)."""
        pinned = TaskRows({name: rows.pin_memory() for name, rows in self._rows.items()}, self.batch_size)
        pinned.__dict__["disjoint"] = self.disjoint
        return pinned


@dataclass
class Batch:
    """A batch of any regime.

    Attributes:
        images: (B, C, H, W).
        targets: task name -> (n_t, ...), aligned with ``rows[name]``; an entry for each task of ``rows``.
        rows: which rows carry which task.
    """

    images: Tensor
    targets: dict[str, Tensor]
    rows: TaskRows

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """A copy on ``device``."""
        targets = {name: target.to(device, non_blocking=non_blocking) for name, target in self.targets.items()}
        return Batch(
            self.images.to(device, non_blocking=non_blocking), targets, self.rows.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory (called by the DataLoader)."""
        targets = {name: target.pin_memory() for name, target in self.targets.items()}
        return Batch(self.images.pin_memory(), targets, self.rows.pin_memory())


class Collate:
    """``list[Sample] -> Batch``, checking class labels on the way (on the host, in the loader's workers).

    Args:
        tasks: all tasks of the run, in task order.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Stack images, and targets per task.

        Raises:
            DataError: for a sample with a target of an unknown task, a label out of range, or images of unequal size.
        """
        known = {task.name for task in self.tasks}
        unknown = {name for sample in samples for name in sample.targets} - known
        if unknown:
            raise DataError(f"samples carry targets of unknown tasks {sorted(unknown)}; the tasks are {sorted(known)}")
        shapes = {tuple(sample.image.shape) for sample in samples}
        if len(shapes) > 1:
            raise DataError(f"images of one batch must have one shape, found {sorted(shapes)}; resize them to one size")
        rows, targets = {}, {}
        for task in self.tasks:
            here = [i for i, sample in enumerate(samples) if task.name in sample.targets]
            rows[task.name] = torch.tensor(here, dtype=torch.long)
            found = [samples[i].targets[task.name] for i in here]
            targets[task.name] = torch.stack(found) if found else torch.empty(0, dtype=torch.long)
            task.check_targets(targets[task.name])
        return Batch(torch.stack([sample.image for sample in samples]), targets, TaskRows(rows, len(samples)))
