"""The loss of each task, such that processes that average gradients train on the global batch."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mola_lightning.core import ModelOutput, Task


def task_losses(
    tasks: Sequence[Task],
    output: ModelOutput,
    targets: Mapping[str, Tensor],
    world_size: int = 1,
    total: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Mean loss of each task over its units in the global batch.

    Args:
        tasks: T tasks.
        output: predictions of each.
        targets: task name -> the targets of its rows.
        world_size: number of processes.
        total: sum over processes, the same tensor on each; needed where there are several.

    Returns:
        The T losses as scalars of their own, 0 for absent tasks, whose mean over processes is exact; and units (T,) of
        the global batch.
    """
    pairs = [_sum_and_units(task, output.predictions[task.name], targets[task.name]) for task in tasks]
    units = torch.stack([pair[1] for pair in pairs]).detach()
    if world_size > 1:
        assert total is not None
        units = total(units)
    factors = (world_size / units.clamp(min=1)).unbind()
    return [pair[0] * factor for pair, factor in zip(pairs, factors, strict=True)], units


def _sum_and_units(task: Task, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The task's criterion; without rows the sum of nothing, which keeps the head in the graph."""
    if not len(targets):
        return predictions.sum(), predictions.new_zeros(())
    return task.criterion(predictions, targets)
