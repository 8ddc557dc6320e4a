"""Data that cost as much as real ones: noise in any size, of several domains or with several targets an image."""

import torch

from mola_lightning.benchmarks.cases import CLASSES
from mola_lightning.core import Batch, Collate, Regime, Task
from mola_lightning.core.errors import one_of, positive_int
from mola_lightning.data import MultiTaskDataModule, Source, TensorSource

CHANNELS = 3


def noise_data(regime: Regime, num_tasks: int, size: int, rows: int) -> MultiTaskDataModule:
    """One batch of images and labels, the same each time.

    Args:
        regime: domains, whose rows are equally many; or single-input, where each image has a target for every task.
        num_tasks: T.
        size: H = W in pixels.
        rows: B; what T does not divide is left out of domains.

    Raises:
        ConfigError: for another regime, or a number below 1.
    """
    one_of("regime", regime, (Regime.DOMAINS, Regime.SINGLE_INPUT))
    for name, value in (("num_tasks", num_tasks), ("size", size), ("rows", rows)):
        positive_int(name, value)
    draw = torch.Generator().manual_seed(0)
    tasks = [Task(f"task{t}", CLASSES) for t in range(num_tasks)]

    def images(count: int) -> torch.Tensor:
        return torch.randn(count, CHANNELS, size, size, generator=draw)

    def labels(count: int) -> torch.Tensor:
        return torch.randint(CLASSES, (count,), generator=draw)

    if regime is Regime.DOMAINS:
        count = rows // num_tasks
        parts = {task.name: (images(count), labels(count)) for task in tasks}
        source: Source = TensorSource({"train": parts}, num_classes=CLASSES)
    else:
        targets = {task.name: labels(rows) for task in tasks}
        source = TensorSource.single_input({"train": images(rows)}, {"train": targets}, tasks)
    return MultiTaskDataModule(source, batch_size=rows)


def whole_batch(data: MultiTaskDataModule) -> Batch:
    """All training rows as one batch, in an order without pattern."""
    dataset = data.dataset("train")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return Collate(data.tasks)([dataset[row] for row in order])
