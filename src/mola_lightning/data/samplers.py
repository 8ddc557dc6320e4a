"""Batch samplers of training: which rows, in which order.

An epoch's order is a pure function of (seed, epoch), drawn from a generator of its own, so there is no random state to
save; a position in it is two integers. All ranks hold the one global order and take their part of each global batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from mola_lightning.core.errors import ConfigError, positive_int, require
from mola_lightning.core.seeding import seed_of
from mola_lightning.data.base import TaskDataset


class EpochSampler(Sampler[list[tuple[int, int]]], ABC):
    """Yields lists of ``(epoch, index)``; subclasses say in which order an epoch visits the rows.

    Args:
        dataset: the training split.
        batch_size: rows of a global batch, over all ranks. The order of training does not depend on ``world_size``.
        seed: of the order.
        rank: which part of each global batch to yield.
        world_size: number of parts; divides ``batch_size``.
        drop_last: leave out the last batch of an epoch where it is not full. Its rows are others in each epoch, so no
            row and no task is left out for good.

    Attributes:
        epoch: the epoch that the next ``iter()`` runs through.
        start: the batch of that epoch that it starts at; set it together with ``epoch`` to resume.
        repeats: whether every epoch is the first again, augmentation included: to see whether a model can fit it.

    Raises:
        ConfigError: for settings that cannot work, among them an epoch without a single full batch.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        if not isinstance(dataset, TaskDataset):
            raise ConfigError(
                f"a batch sampler of mola_lightning needs a TaskDataset, got {type(dataset).__name__}. If this comes "
                "of Trainer.fit on several devices, build the Trainer with use_distributed_sampler=False: "
                "the sampler shards by itself."
            )
        positive_int("batch_size", batch_size)
        positive_int("world_size", world_size)
        require(0 <= rank < world_size, f"rank must lie in 0..{world_size - 1}, got {rank}")
        if batch_size % world_size:
            raise ConfigError(
                f"batch_size counts the rows over all devices and must be a multiple of their number: "
                f"got {batch_size} rows for {world_size} devices; take {-(-batch_size // world_size) * world_size}"
            )
        self.num_rows = len(dataset)
        if self.num_rows < (batch_size if drop_last else world_size):
            raise ConfigError(
                f"batch_size is {batch_size} but the training split has only {self.num_rows} rows: "
                "an epoch would have no full batch; use a smaller batch_size"
            )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.drop_last = drop_last
        self.epoch, self.start = 0, 0
        self.repeats = False

    @abstractmethod
    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The rows of an epoch, (num_rows,) indices, drawn from ``rng`` alone."""

    @property
    def sampler(self) -> "EpochSampler":
        """Itself: Lightning calls ``set_epoch`` on ``loader.batch_sampler.sampler`` and not on the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; the current one keeps its position, as Lightning calls this after a resume."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        # Of the whole epoch also when resumed in its middle: Lightning adds the batches that were done by itself.
        full, rest = divmod(self.num_rows, self.batch_size)
        # A rest smaller than the world would leave a rank without rows in its last batch.
        return full + (not self.drop_last and rest >= self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = 0 if self.repeats else self.epoch, self.start
        order = self.order(np.random.default_rng(seed_of(self.seed, "order", epoch)))
        for batch in range(start, len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            part = np.array_split(rows, self.world_size)[self.rank]
            yield [(epoch, index) for index in part.tolist()]


class ProportionalSampler(EpochSampler):
    """A shuffle of everything: each row once an epoch, tasks in proportion to their sizes."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """A permutation of all rows."""
        return rng.permutation(self.num_rows)


class TaskSampler(EpochSampler):
    """Shared by samplers that first choose tasks, then rows of the chosen task.

    Within a task its rows come in one shuffle after another: none comes twice before each came once.

    Every row must belong to exactly one task. Where some carry targets of several tasks, drawing one for the sake of a
    task would draw it for others too, and no share of any task could be kept: such data are refused.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        super().__init__(dataset, batch_size, seed, rank, world_size, drop_last)
        ids = dataset.task_ids()
        if ids is None:
            raise ConfigError(
                f"{type(self).__name__} chooses rows by their task, but here a row carries targets of several tasks: "
                "drawn for one, it counts for the others too; use the proportional sampler (sampler=proportional)"
            )
        rows = {task.name: np.flatnonzero(ids == t) for t, task in enumerate(dataset.tasks)}
        # tasks without training rows are the data module's to refuse
        self.rows_of = {name: found for name, found in rows.items() if len(found)}

    @abstractmethod
    def slots(self, rng: np.random.Generator) -> np.ndarray:
        """The task of each place of the epoch's order, (num_rows,), as positions in the tasks that have rows."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Fill each task's places with shuffles of its rows."""
        slots = self.slots(rng)
        order = np.empty(self.num_rows, dtype=np.int64)
        for t, rows in enumerate(self.rows_of.values()):
            places = np.flatnonzero(slots == t)
            shuffles = [rng.permutation(rows) for _ in range(-(-len(places) // len(rows)))]
            order[places] = np.concatenate([*shuffles, rows[:0]])[: len(places)]
        return order


class BalancedSampler(TaskSampler):
    """Each task equally often, in each batch (up to one row) and so in each epoch.

    An epoch has as many rows as the training split: small tasks come several times, of large ones each epoch sees
    another part.
    """

    def slots(self, rng: np.random.Generator) -> np.ndarray:
        """Rounds through all tasks, each in a random order."""
        count = len(self.rows_of)
        rounds = -(-self.num_rows // count)
        return rng.permuted(np.tile(np.arange(count), (rounds, 1)), axis=1).ravel()[: self.num_rows]


class TemperatureSampler(TaskSampler):
    """Tasks with probability proportional to ``size ** (1 / temperature)``.

    Each task gets its exact share of the epoch's places (largest remainders, one place at least), in random order; so a
    temperature of 1 visits each row once, like :class:`ProportionalSampler`, and ``inf`` gives all tasks equal shares.

    Args:
        dataset: see :class:`EpochSampler`, as for all arguments but ``temperature``.
        temperature: positive; ``inf`` is allowed.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        temperature: float = 2.0,
    ) -> None:
        super().__init__(dataset, batch_size, seed, rank, world_size, drop_last)
        ok = isinstance(temperature, int | float) and temperature > 0
        require(ok, f"temperature must be positive (1: proportional, inf: balanced), got {temperature!r}")
        self.temperature = float(temperature)

    def shares(self, places: int) -> np.ndarray:
        """How many of ``places`` each task gets, one at least, in task order; they sum to ``places``."""
        log_sizes = np.log([len(rows) for rows in self.rows_of.values()]) / self.temperature
        weights = np.exp(log_sizes - log_sizes.max())  # by logarithms: no overflow at small temperatures
        # One for each task, so that none is starved; the rest goes to those whose share is larger.
        rest = places - len(weights)
        beyond = (places * weights / weights.sum() - 1).clip(0)
        exact = rest * beyond / beyond.sum() if rest else beyond
        shares = np.floor(exact + 1e-9).astype(np.int64)
        shares[np.argsort(shares - exact, kind="stable")[: rest - int(shares.sum())]] += 1
        return shares + 1

    def slots(self, rng: np.random.Generator) -> np.ndarray:
        """Each task as often as its share, shuffled."""
        return rng.permutation(np.repeat(np.arange(len(self.rows_of)), self.shares(self.num_rows)))


def auto_sampler(dataset: TaskDataset, **options: Any) -> EpochSampler:
    """Balanced where each row belongs to one task; proportional where there is no choosing rows by their task.

    Args:
        dataset: the training split.
        options: see :class:`EpochSampler`.
    """
    several = isinstance(dataset, TaskDataset) and dataset.task_ids() is None
    return (ProportionalSampler if several else BalancedSampler)(dataset, **options)


class SqrtSampler(TemperatureSampler):
    """Tasks with probability proportional to the square root of their size: between proportional and balanced.

    The same as :class:`TemperatureSampler` at its temperature of 2, under the name that papers call it by.

    Args:
        dataset: see :class:`EpochSampler`, as for all arguments.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        super().__init__(dataset, batch_size, seed, rank, world_size, drop_last, temperature=2.0)
