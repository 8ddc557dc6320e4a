"""Data of each regime, small enough for a run of a second: what a ``_target_`` of ``data.source`` may be."""

import torch
from torch import Tensor

from mola_lightning.core import Task
from mola_lightning.data import Source, TensorSource

SHAPE, ROWS = (3, 12, 12), 8
CLASSES = {"a": 2, "b": 3, "c": 5}
SPLITS = ("train", "val", "test")


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def domains() -> Source:
    """Three classes in three domains."""
    return one_task_a_row(dict.fromkeys(CLASSES, 3), num_classes=3)


def multi_input() -> Source:
    """Three tasks, each with images and as many classes of its own."""
    return one_task_a_row(CLASSES, num_classes=CLASSES)


def one_task_a_row(classes: dict[str, int], num_classes: int | dict[str, int]) -> Source:
    return TensorSource(
        {
            split: {
                name: (images(ROWS, 10 * s + t), torch.arange(ROWS) % n) for t, (name, n) in enumerate(classes.items())
            }
            for s, split in enumerate(SPLITS)
        },
        num_classes=num_classes,
    )


def single_input() -> Source:
    """Three class targets for each image; every other image has none for the last task."""
    count = ROWS * len(CLASSES)
    return TensorSource.single_input(
        {split: images(count, s) for s, split in enumerate(SPLITS)},
        {split: {name: torch.arange(count) % classes for name, classes in CLASSES.items()} for split in SPLITS},
        [Task(name, classes) for name, classes in CLASSES.items()],
        {split: {"c": torch.arange(count) % 2 == 0} for split in SPLITS},
    )
