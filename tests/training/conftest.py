"""Small learnable data of every regime, the four methods on a tiny backbone, and a plain Trainer."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from mola_lightning.architectures import HPS, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Batch, Collate, Sample, Task
from mola_lightning.data import EpochSampler, MultiTaskDataModule, ProportionalSampler, Source, TensorSource
from mola_lightning.routers import ConvRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

SHAPE = (3, 8, 8)
CLASSES = {"a": 3, "b": 4, "c": 2}
SIZES = {"train": 48, "val": 21, "test": 18}

BACKBONE = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
ROUTER = partial(ConvRouter, widths=(4, 8), blocks=1)


def patterns(labels: Tensor, seed: int, noise: float = 0.3) -> Tensor:
    """(n, *SHAPE) images that show their label: a pattern for each, and noise on top."""
    shown = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return shown[labels] + noise * torch.randn(len(labels), *SHAPE, generator=torch.Generator().manual_seed(seed + 1))


def labels_of(count: int, classes: int, seed: int) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def one_task_an_image(classes: int | dict[str, int], sizes: dict[str, int]) -> TensorSource:
    """Domains for a number of classes, tasks with their own label spaces for a mapping."""
    names = list(CLASSES) if isinstance(classes, int) else list(classes)
    splits: dict[str, dict[str, tuple[Tensor, Tensor]]] = {split: {} for split in sizes}
    for s, (split, size) in enumerate(sizes.items()):
        for t, name in enumerate(names):
            count = size + 5 * t if split != "train" else size  # uneven where nothing balances
            labels = labels_of(count, classes if isinstance(classes, int) else classes[name], seed=10 * s + t)
            splits[split][name] = (patterns(labels, seed=t), labels)
    return TensorSource(splits, num_classes=classes)


def several_targets(sizes: dict[str, int]) -> Source:
    """Each image has a target for task a; every second one also for b; only the first half for c."""
    images, targets, annotated = {}, {}, {}
    for s, (split, size) in enumerate(sizes.items()):
        count = 2 * size
        found = {name: labels_of(count, classes, seed=10 * s + t) for t, (name, classes) in enumerate(CLASSES.items())}
        images[split] = sum(patterns(labels, seed=t) for t, labels in enumerate(found.values()))
        targets[split] = found
        every = torch.arange(count)
        annotated[split] = {"b": every % 2 == 0, "c": every < size}
    tasks = [Task(name, classes) for name, classes in CLASSES.items()]
    return TensorSource.single_input(images, targets, tasks, annotated)


@pytest.fixture(scope="session")
def make_source() -> Callable[..., Source]:
    """``make_source("domains" | "multi_input" | "single_input", sizes=...)``."""

    def make(regime: str, sizes: dict[str, int] = SIZES) -> Source:
        if regime == "single_input":
            return several_targets(sizes)
        return one_task_an_image(3 if regime == "domains" else CLASSES, sizes)

    return make


@pytest.fixture(scope="session")
def make_module() -> Callable[..., MultiTaskModule]:
    """``make_module(method, source, **settings)``: always the same weights for the same method."""

    def make(method: str, source: Source, **settings: Any) -> MultiTaskModule:
        torch.manual_seed(0)
        settings = {"optimizer": partial(torch.optim.Adam, lr=0.01)} | settings
        shape, tasks = source.image_shape, source.tasks
        if method == "hps":
            return MultiTaskModule(tasks, HPS(tasks, BACKBONE, shape), **settings)
        if method == "single_task":
            return MultiTaskModule(tasks, SingleTask(tasks, BACKBONE, shape), **settings)
        small = {"rank": 2, "alpha": 4} | settings
        if method == "mola_grad":
            return MoLAGrad(tasks, BACKBONE, shape, **small)
        # TwD compares images by their one task; where an image has several there is nothing to compare.
        twd = {} if source.regime.value != "single_input" else {"twd_weight": 0.0}
        return MoLARouter(tasks, BACKBONE, shape, **{"router": ROUTER} | twd | small)

    return make


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """``fit(module, source, batch_size=12, **trainer)``: a plain Trainer, after its fit."""

    def run(
        module: MultiTaskModule,
        source: Source,
        batch_size: int = 12,
        sampler: Callable[..., EpochSampler] = ProportionalSampler,
        **trainer: Any,
    ) -> pl.Trainer:
        settings = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            "default_root_dir": str(tmp_path),
        }
        runner = pl.Trainer(**settings | trainer)
        runner.fit(module, MultiTaskDataModule(source, batch_size=batch_size, sampler=sampler))
        return runner

    return run


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """``make_batch(source, "val", rows)``: these rows of a split as one batch."""

    def make(source: Source, split: str = "train", rows: Sequence[int] = range(12)) -> Batch:
        dataset = source.dataset(split)
        samples: list[Sample] = [dataset[row] for row in rows]
        return Collate(source.tasks)(samples)

    return make
