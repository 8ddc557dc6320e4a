"""What a benchmark is to the rest of the package: a source of three splits, each a dataset of samples of all tasks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from mola_lightning.core import ConfigError, DataError, Regime, Sample, Task
from mola_lightning.data.transforms import Normalize

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# An index, or (epoch, index): the training samplers send the epoch along, so that it reaches persistent workers too.
Key = int | tuple[int, int]


def check_split(split: str) -> None:
    """Raise :class:`ConfigError` unless ``split`` is one of train, val, test."""
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")


class MissingSplit(DataError):
    """A source was asked for a split that its data do not have, and that need not be there."""


class TaskDataset(Dataset[Sample], ABC):
    """One split of a benchmark: the rows of all its tasks.

    Attributes:
        tasks: all tasks of the benchmark, in task order.
        seed: seed of the augmentation, which is a pure function of (seed, epoch, index); the data module sets it.
    """

    tasks: tuple[Task, ...]
    seed: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Sample:
        """The row ``index``; augmented where the key is ``(epoch, index)`` and the split is augmented."""

    def task_ids(self) -> np.ndarray | None:
        """(N,) int64, the task of each row; None where rows carry several targets."""
        return None

    def labels(self) -> dict[str, Tensor] | None:
        """The class indices of each task, if they are known without loading images; else None."""
        return None

    def task_sizes(self) -> dict[str, int]:
        """The number of rows that carry a target for each task."""
        ids = self.task_ids()
        if ids is None:
            return {task.name: len(self) for task in self.tasks}
        counts = np.bincount(ids, minlength=len(self.tasks))
        return {task.name: int(count) for task, count in zip(self.tasks, counts, strict=True)}

    def normalizer(self, row: int) -> Normalize | None:
        """What the image of a row was normalised by, so that it can be shown as it was; None where that is unknown."""
        return None

    def bad(self) -> list[tuple[str, str]]:
        """(path, reason) of the images that could not be read and were left out so far, by any worker."""
        return []


class Source(ABC):
    """A benchmark. The constructor stores and checks; ``prepare`` does the slow work, once.

    Attributes:
        tasks: all tasks, in task order.
        regime: how samples and tasks relate.
        image_shape: (C, H, W) of the images that the model sees.
        expects: what to fetch and where to put it, as sentences: said when files are missing.
    """

    tasks: tuple[Task, ...]
    regime: Regime
    image_shape: tuple[int, int, int]
    expects: str = ""

    @property
    def name(self) -> str:
        """What the benchmark is called in tables."""
        return type(self).__name__.lower()

    def prepare(self) -> None:
        """Build the cache if it is missing, verify it if it is there; several processes may do so at a time."""
        return

    def record(self) -> dict[str, Any]:
        """What a run remembers of its data: plain values for JSON, such as split sizes and the seed of a cut split."""
        return {}

    def download(self) -> None:
        """Fetch the files, where a program may; files that are there and sound are left alone.

        Raises:
            DataError: where a person has to fetch them; it says what, and where to put it.
        """
        raise DataError(f"{self.name} cannot be fetched by a program. {self.expects}".rstrip())

    def num_files(self) -> int:
        """How many files :meth:`verify` looks at."""
        return 0

    def verify(self) -> Iterator[tuple[str, str]]:
        """Look at each file as training will: (file, what is wrong with it, or an empty string), one after another.

        Raises:
            DataError: for what makes looking at single files pointless, such as a missing list of them.
        """
        return iter(())

    @abstractmethod
    def dataset(self, split: Split) -> TaskDataset:
        """The dataset of a split.

        Raises:
            MissingSplit: when the benchmark has no such split.
            DataError: when its files are missing or broken.
        """
