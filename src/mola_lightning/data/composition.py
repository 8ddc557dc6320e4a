"""Samplers that prescribe what each batch is made of: rows of one task, or a number of rows of each."""

from collections.abc import Mapping

import numpy as np

from mola_lightning.core.errors import ConfigError, one_of, positive_int
from mola_lightning.data.base import TaskDataset
from mola_lightning.data.samplers import TaskSampler, TemperatureSampler


class OneTaskPerBatch(TemperatureSampler):
    """Batches of a single task, on all devices the same one, in random order.

    How many of an epoch's batches a task gets follows its size and the temperature, as rows do in
    :class:`TemperatureSampler`, and is one at least: rounding starves no small task. A task with fewer rows than a
    batch comes several times in it.

    Args:
        dataset: see :class:`EpochSampler`, as for all arguments but ``temperature``.
        temperature: 1: batches in proportion to sizes, 2: to their square roots, ``inf``: as many of each task.

    Raises:
        ConfigError: also when an epoch has fewer batches than there are tasks.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(dataset, batch_size, seed, rank, world_size, drop_last, temperature)
        if len(self) < len(self.rows_of):
            raise ConfigError(
                f"with one task per batch, an epoch needs a batch for each of the {len(self.rows_of)} tasks, but "
                f"{self.num_rows} rows make only {len(self)} of {batch_size} rows; "
                f"take batch_size={self.num_rows // len(self.rows_of)} or smaller"
            )

    def slots(self, rng: np.random.Generator) -> np.ndarray:
        """The task of each batch, as often as the batch has rows."""
        batches = rng.permutation(np.repeat(np.arange(len(self.rows_of)), self.shares(len(self))))
        places = np.repeat(batches, self.batch_size)
        # Rows of the last batch if it is left out; they have no task and are not visited.
        return np.pad(places, (0, max(self.num_rows - len(places), 0)), constant_values=-1)[: self.num_rows]


class QuotaSampler(TaskSampler):
    """Each batch with the same number of rows of each task, in random order.

    An epoch has as many batches as the training split fills: small tasks come several times, of large ones each epoch
    sees another part.

    Args:
        dataset: see :class:`EpochSampler`, as for all arguments but ``quotas``.
        quotas: task -> its rows in a global batch. Tasks that are left out share the rest of the batch equally, the
            first ones taking one more where that does not come out even.

    Raises:
        ConfigError: also for an unknown task, a task without a place, or quotas that do not sum to the batch.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, seed, rank, world_size, drop_last)
        self.quotas = self._filled(dict(quotas or {}))

    def _filled(self, quotas: dict[str, int]) -> dict[str, int]:
        """The quotas of all tasks, in task order."""
        for name, rows in quotas.items():
            one_of("a task of quotas", name, self.rows_of)
            positive_int(f"the quota of task {name!r}", rows)
        others = [name for name in self.rows_of if name not in quotas]
        rest = self.batch_size - sum(quotas.values())
        if rest < len(others) or (rest and not others):
            raise ConfigError(
                f"quotas {quotas} take {sum(quotas.values())} of the {self.batch_size} rows of a batch"
                + (f", which leaves {max(rest, 0)} to the tasks {', '.join(others)}" if others else "")
                + "; they must sum to batch_size, with one row at least for each task"
            )
        shares = {name: rest // len(others) + (i < rest % len(others)) for i, name in enumerate(others)}
        return {name: quotas.get(name) or shares[name] for name in self.rows_of}

    def slots(self, rng: np.random.Generator) -> np.ndarray:
        """The same tasks in each batch, each time in another order, so that all devices see all of them."""
        batch = np.repeat(np.arange(len(self.quotas)), list(self.quotas.values()))
        batches = -(-self.num_rows // self.batch_size)
        return rng.permuted(np.tile(batch, (batches, 1)), axis=1).ravel()[: self.num_rows]
