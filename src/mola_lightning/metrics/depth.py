"""Metrics of depth."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mola_lightning.core import full_precision, pixel_targets, valid_pixels


def depth_metrics(num_outputs: int = 1) -> MetricCollection:
    """``abs_err`` and ``rel_err`` (lower is better).

    Args:
        num_outputs: unused; every factory of metrics takes it.
    """
    # no groups: found by itself, a group would be two metrics whose sums happen to agree after the first batch
    return MetricCollection({"abs_err": AbsoluteError(), "rel_err": RelativeError()}, compute_groups=False)


class DepthError(Metric, ABC):
    """Base of the depth metrics: the mean of an error over all measured pixels; 0 without any."""

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # float32 would lose pixels: it counts to 16.8 million, and 150 images of NYUv2 have as many
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            predictions: (n, 1, H, W).
            targets: (n, 1, H, W); 0 where nothing was measured.
        """
        predictions = full_precision(predictions)
        targets = pixel_targets(targets, predictions.shape)
        valid = valid_pixels(targets)
        self.total += torch.where(valid, self.error(predictions, targets), 0.0).sum(dtype=torch.float64)
        self.count += valid.sum()

    def compute(self) -> Tensor:
        """A scalar, in the unit of the error."""
        return self.total / self.count.clamp(min=1)

    @abstractmethod
    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The error of each pixel; whatever it is where the target is 0."""


class AbsoluteError(DepthError):
    """Mean of |prediction - target|, in the unit of the targets."""

    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """|p - t|."""
        return (predictions - targets).abs()


class RelativeError(DepthError):
    """Mean of |prediction - target| / target."""

    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """|p - t| / t."""
        return (predictions - targets).abs() / targets
