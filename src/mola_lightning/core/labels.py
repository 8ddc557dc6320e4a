"""What losses and metrics of several numbers a row agree on."""

from collections.abc import Sequence

from torch import Tensor

from mola_lightning.core.errors import DataError


def row_targets(targets: Tensor, shape: Sequence[int]) -> Tensor:
    """Targets of rows, of ``shape`` for certain: (n,) beside (n, 1) would broadcast to (n, n) without an error.

    A batch without a row of the task has targets (0,), since nothing tells the width of what is not there; they come
    back as (0, k).

    Args:
        targets: what the batch has: (n, k), or (n,) where k is 1.
        shape: (n, k) of the task's predictions.

    Raises:
        DataError: for another shape.
    """
    if not shape[0]:
        return targets.new_zeros(tuple(shape))
    if targets.ndim == 1 and shape[1] == 1:
        targets = targets[:, None]
    if tuple(targets.shape) != tuple(shape):
        raise DataError(
            f"targets must have the shape {tuple(shape)} to fit the predictions, got {tuple(targets.shape)}; "
            "a multi-label task needs a 0 or 1 for each label, a regression as many numbers as it has outputs"
        )
    return targets
