"""Metrics of segmentation, from one confusion matrix over all pixels."""

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix


def segmentation_metrics(num_outputs: int, ignore_index: int = -1) -> MetricCollection:
    """``miou`` and ``pixel_accuracy`` (higher is better), which share one matrix.

    Args:
        num_outputs: number of classes.
        ignore_index: of pixels without a label.
    """
    settings = {"num_classes": num_outputs, "ignore_index": ignore_index, "validate_args": False}
    return MetricCollection(
        {"miou": MeanIoU(**settings), "pixel_accuracy": PixelAccuracy(**settings)},
        compute_groups=[["miou", "pixel_accuracy"]],
    )


class MeanIoU(MulticlassConfusionMatrix):
    """Mean over classes of intersection over union, each over all pixels.

    A class that is neither in a prediction nor in a target is left out of the mean, which the released code makes NaN.
    Without any labelled pixel it is 0. The arguments are those of torchmetrics' confusion matrix.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """A scalar in 0..1."""
        hits = self.confmat.diagonal()
        union = self.confmat.sum(0) + self.confmat.sum(1) - hits
        return (hits / union.clamp(min=1)).sum() / (union > 0).sum().clamp(min=1)


class PixelAccuracy(MulticlassConfusionMatrix):
    """Fraction of labelled pixels whose class is right; 0 without any. The arguments are those of torchmetrics'
    confusion matrix.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """A scalar in 0..1."""
        return self.confmat.diagonal().sum() / self.confmat.sum().clamp(min=1)
