"""One data module for all benchmarks and regimes."""

import logging
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from mola_lightning.core import Collate, ConfigError, DataError, Regime, Sample, Task, check_tasks
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.data.base import SPLITS, Source, Split, TaskDataset
from mola_lightning.data.loaders import RankShare, ResumableLoader
from mola_lightning.data.samplers import EpochSampler, ProportionalSampler
from mola_lightning.data.transforms import Normalize

log = logging.getLogger(__name__)

# Called with (dataset, batch_size=, seed=, rank=, world_size=): a sampler class, or a partial of one.
SamplerFactory = Callable[..., EpochSampler]

_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
    None: SPLITS,
}


class MultiTaskDataModule(pl.LightningDataModule):
    """Loaders over a :class:`Source`. Training order and augmentation are pure functions of (seed, epoch, position).

    On several devices build the Trainer with ``use_distributed_sampler=False``: the loaders shard by themselves, a
    training batch of ``batch_size`` rows into equal parts, and evaluation so that each row comes exactly once.

    Args:
        source: the benchmark.
        batch_size: rows of a training batch over all devices, so that a run's steps do not depend on their number.
        eval_batch_size: rows of an evaluation batch on each device; ``batch_size`` by default.
        sampler: makes the batch sampler: its class, such as :class:`BalancedSampler`, a partial of it, or
            :func:`auto_sampler`.
        num_workers: worker processes of each loader; 0 loads in the main process.
        seed: of the order and the augmentation.
        pin_memory: copy batches to page-locked memory, for training on a GPU.
        repeat_epoch: train on the first epoch again and again, its order and augmentation included (``debug=overfit``).
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        sampler: SamplerFactory = ProportionalSampler,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool = False,
        repeat_epoch: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(source, Source):
            raise ConfigError(f"source must be a Source (Digits, TensorSource, ...), got {type(source).__name__}")
        positive_int("batch_size", batch_size)
        positive_int("eval_batch_size", batch_size if eval_batch_size is None else eval_batch_size)
        require(isinstance(num_workers, int) and num_workers >= 0, f"num_workers must be >= 0, got {num_workers!r}")
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        require(callable(sampler), f"sampler must be a sampler's class, such as BalancedSampler, got {sampler!r}")
        check_tasks(source.tasks)
        self.source = source
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.sampler = sampler
        self.num_workers = num_workers
        self.seed = seed
        self.pin_memory = pin_memory
        self.repeat_epoch = repeat_epoch
        self._datasets: dict[Split, TaskDataset] = {}

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in task order."""
        return self.source.tasks

    @property
    def regime(self) -> Regime:
        """How samples and tasks relate."""
        return self.source.regime

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.source.image_shape

    def prepare_data(self) -> None:
        """Build or verify the source's cache."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load and check the splits of a stage (``fit``, ``validate``, ``test``, ``predict``; None: all)."""
        one_of("stage", stage, _STAGES)
        for split in _STAGES[stage]:
            self.dataset(split)

    def dataset(self, split: Split) -> TaskDataset:
        """The checked dataset of a split, loaded when first asked for.

        Raises:
            DataError: for a label out of range, or a task without a training image.
        """
        if split not in self._datasets:
            dataset = self.source.dataset(split)
            dataset.seed = self.seed
            labels = dataset.labels() or {}
            for task in self.tasks:
                if task.name in labels:
                    task.check_targets(labels[task.name], where=f"the {split} split")
            if split == "train":
                self._check_sizes(dataset)
            self._datasets[split] = dataset
        return self._datasets[split]

    def _check_sizes(self, dataset: TaskDataset) -> None:
        empty = [name for name, size in dataset.task_sizes().items() if size == 0]
        if empty:
            raise DataError(
                f"no training image for {'task' if len(empty) == 1 else 'tasks'} {', '.join(map(repr, empty))}: "
                "each task needs at least one. Add images, or leave the task out of the source."
            )

    def sizes(self) -> dict[str, dict[str, int]]:
        """Rows that carry a target: task name -> split -> count."""
        counts = {split: self.dataset(split).task_sizes() for split in SPLITS}
        return {task.name: {split: counts[split][task.name] for split in SPLITS} for task in self.tasks}

    def normalizers(self) -> dict[str, Normalize]:
        """By what the images of each task are normalised: task name -> what its first training image was."""
        dataset = self.dataset("train")
        ids = dataset.task_ids()
        rows = {task.name: 0 if ids is None else int((ids == t).argmax()) for t, task in enumerate(self.tasks)}
        return {name: dataset.normalizer(row) or Normalize() for name, row in rows.items()}

    def train_dataloader(self) -> ResumableLoader:
        """Batches of the sampler; the loader's position is saved with a checkpoint."""
        dataset, (rank, world_size) = self.dataset("train"), self._ranks()
        batches = self.sampler(dataset, batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world_size)
        batches.repeats = self.repeat_epoch
        return ResumableLoader(dataset, batch_sampler=batches, **self._loader_options())

    def val_dataloader(self) -> DataLoader[Sample]:
        """Each validation row once, in order."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Each test row once, in order."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test split."""
        return self._eval_loader("test")

    def teardown(self, stage: str | None = None) -> None:
        """Say which images were left out because they could not be read."""
        for split in _STAGES[stage]:
            if split in self._datasets and (bad := self._datasets[split].bad()):
                told = ", ".join(f"{path} ({reason})" for path, reason in bad[:10])
                log.warning(
                    "%d of %d images of the %s split could not be read and were left out: %s%s",
                    len(bad), len(self._datasets[split]), split, told, f" and {len(bad) - 10} more" * (len(bad) > 10),
                )  # fmt: skip

    def _eval_loader(self, split: Split) -> DataLoader[Sample]:
        dataset = self.dataset(split)
        share = RankShare(len(dataset), *self._ranks())
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=share, **self._loader_options())

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader_options(self) -> dict[str, Any]:
        return {
            "collate_fn": Collate(self.tasks),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": self.pin_memory,
            # Each iter() draws a number for its workers; without this, from the global generator, which dropout shares.
            "generator": torch.Generator().manual_seed(self.seed),
        }
