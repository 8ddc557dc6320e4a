"""Metrics of surface normals, from one histogram of angles over all pixels."""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mola_lightning.core import full_precision, pixel_targets, valid_pixels

# Bins of a degree. A power of two, so that multiplying is exact and a bin begins exactly at 11.25, 22.5 and 30 degrees.
BINS = 128


def normal_metrics(num_outputs: int = 3) -> MetricCollection:
    """``mean_angle`` and ``median_angle`` in degrees (lower is better); ``within_11`` (11.25 degrees), ``within_22``
    (22.5) and ``within_30``, fractions of pixels (higher is better). All share one histogram.

    Args:
        num_outputs: unused; every factory of metrics takes it.
    """
    metrics: dict[str, Metric] = {"mean_angle": MeanAngle(), "median_angle": MedianAngle()}
    metrics |= {f"within_{int(degrees)}": WithinAngle(degrees) for degrees in (11.25, 22.5, 30.0)}
    return MetricCollection(metrics, compute_groups=[list(metrics)])


def angles(predictions: Tensor, targets: Tensor) -> Tensor:
    """Angles (n, 1, H, W) between vectors (n, 3, H, W), in degrees, float64; lengths do not matter.

    The arc cosine, which the released code takes, is the same but for rounding: in single precision it cannot tell
    angles below 0.02 degrees from 0.
    """
    predictions, targets = predictions.double(), targets.double()
    sine = torch.linalg.cross(predictions, targets, dim=1).norm(dim=1, keepdim=True)
    return torch.rad2deg(torch.atan2(sine, (predictions * targets).sum(1, keepdim=True)))


class AngleMetric(Metric):
    """Base of the metrics of normals: what they have in common is their state."""

    full_state_update = False
    histogram: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("histogram", torch.zeros(180 * BINS + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            predictions: (n, 3, H, W).
            targets: (n, 3, H, W); the zero vector where nothing was measured.
        """
        targets = pixel_targets(targets, predictions.shape)
        found = angles(full_precision(predictions), targets)[valid_pixels(targets)]
        bins = (found * BINS).long().clamp(max=180 * BINS)
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))
        self.total += found.sum()

    @property
    def count(self) -> Tensor:
        """Measured pixels so far, 1 at least: without any, all metrics are 0."""
        return self.histogram.sum().clamp(min=1)


class MeanAngle(AngleMetric):
    """Mean angle in degrees."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """A scalar in 0..180."""
        return self.total / self.count


class MedianAngle(AngleMetric):
    """Median angle in degrees, at most 1/256 off.

    It is the mean of the two middle angles (the same one for an odd number of pixels), of which the histogram knows the
    bin, 1/128 degree wide; the middle of a bin is at most half of that from any angle in it, and so is a mean of two.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """A scalar in 0..180."""
        ranks = torch.stack([(self.count + 1) // 2, self.count // 2 + 1])  # of the two middle angles, from 1
        middle = torch.searchsorted(self.histogram.cumsum(0), ranks).double() + 0.5
        return torch.where(self.histogram.any(), middle.mean() / BINS, 0.0)


class WithinAngle(AngleMetric):
    """Fraction of pixels with an angle below a bound.

    Args:
        degrees: the bound, a multiple of 1/128 degree, so that the histogram knows the fraction exactly.
    """

    higher_is_better = True

    def __init__(self, degrees: float) -> None:
        super().__init__()
        self.bound = int(degrees * BINS)

    def compute(self) -> Tensor:
        """A scalar in 0..1."""
        return self.histogram[: self.bound].sum() / self.count
