"""Surface normals: their loss, and the activation that it presumes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import full_precision, pixel_targets, valid_pixels


def unit_length(outputs: Tensor, eps: float = 1e-6) -> Tensor:
    """Vectors scaled to length 1 along the channels: the ``Task.activation`` of surface normals.

    Args:
        outputs: (n, C, H, W).
        eps: a shorter vector is divided by this and stays short. The released code has none: a zero vector gives NaN.
    """
    return F.normalize(full_precision(outputs), dim=1, eps=eps)


def normal_loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """1 - cosine, summed over measured pixels; the paper's loss is their mean over the batch.

    The cosine is the plain product of prediction and target: predictions must have unit length, which the activation
    :func:`unit_length` sees to. A target that is shorter, as interpolation next to a hole makes it, weighs less.

    Args:
        outputs: (n, 3, H, W) of unit length; n may be 0.
        targets: (n, 3, H, W) of unit length; the zero vector where nothing was measured.

    Returns:
        The sum, and the number of measured pixels as a float scalar. Without any, the sum is a differentiable 0.
    """
    outputs = full_precision(outputs)
    targets = pixel_targets(targets, outputs.shape)
    valid = valid_pixels(targets)
    cosine = (outputs * targets).sum(dim=1, keepdim=True)
    return torch.where(valid, 1 - cosine, 0.0).sum(), valid.sum().to(outputs.dtype)
