"""What losses and metrics of targets per pixel agree on."""

from collections.abc import Sequence

from torch import Tensor

from mola_lightning.core.errors import DataError


def pixel_targets(targets: Tensor, shape: Sequence[int]) -> Tensor:
    """Targets per pixel, of ``shape`` for certain: a missing axis would broadcast to a wrong loss without an error.

    A batch without a row of the task has targets (0,), since nothing tells the size of what is not there; they come
    back as (0, ...) of ``shape``.

    Args:
        targets: what the batch has.
        shape: (n, ...) that the task's predictions ask for.

    Raises:
        DataError: for another shape.
    """
    if not shape[0]:
        return targets.new_zeros(tuple(shape))
    if tuple(targets.shape) != tuple(shape):
        raise DataError(
            f"targets per pixel must have the shape {tuple(shape)} to fit the predictions, got {tuple(targets.shape)}; "
            "check the size of the targets, their channel axis (class maps have none, depth has one), and that the "
            "head gives maps (head=light, psp)"
        )
    return targets


def valid_pixels(targets: Tensor) -> Tensor:
    """(n, 1, H, W) bool: pixels that were measured, that is, not zero in all channels.

    The released code asks whether the channels add up to zero, which drops a normal such as (0.6, -0.6, 0) / 0.85.

    Args:
        targets: (n, C, H, W).
    """
    return (targets != 0).any(dim=1, keepdim=True)
