"""Cross-entropy per pixel."""

from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import full_precision, pixel_targets


def segmentation_loss(outputs: Tensor, targets: Tensor, ignore_index: int = -1) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy, summed over pixels that have a label; the paper's loss is their mean over the batch.

    Args:
        outputs: logits (n, classes, H, W); n may be 0.
        targets: class indices (n, H, W), int64.
        ignore_index: of pixels without a label. For another value, ``functools.partial(segmentation_loss,
            ignore_index=255)``.

    Returns:
        The sum, and the number of labelled pixels as a float scalar. Without any, the sum is a differentiable 0.
    """
    outputs = full_precision(outputs)
    targets = pixel_targets(targets, (len(outputs), *outputs.shape[2:])).long()
    total = F.cross_entropy(outputs, targets, ignore_index=ignore_index, reduction="sum")
    return total, (targets != ignore_index).sum().to(outputs.dtype)
