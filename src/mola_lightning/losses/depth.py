"""Error of depth per pixel."""

import torch
from torch import Tensor

from mola_lightning.core import full_precision, pixel_targets, valid_pixels


def depth_loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """|prediction - target|, summed over measured pixels; the paper's loss is their mean over the batch.

    Args:
        outputs: (n, 1, H, W), in the unit of the targets; n may be 0.
        targets: (n, 1, H, W); 0 where nothing was measured.

    Returns:
        The sum, and the number of measured pixels as a float scalar. Without any, the sum is a differentiable 0.
    """
    outputs = full_precision(outputs)
    targets = pixel_targets(targets, outputs.shape)
    valid = valid_pixels(targets)
    return torch.where(valid, (outputs - targets).abs(), 0.0).sum(), valid.sum().to(outputs.dtype)
