"""Metrics of labels and numbers, and of dense tasks as the paper reports them; each factory is a ``Task.metrics``.

All are exact over batches and processes: they sum counts or keep scores, and never average averages.
"""

from mola_lightning.metrics.depth import AbsoluteError, RelativeError, depth_metrics
from mola_lightning.metrics.labels import AUC, LABEL_METRICS, BalancedAccuracy, label_metrics
from mola_lightning.metrics.normals import MeanAngle, MedianAngle, WithinAngle, normal_metrics
from mola_lightning.metrics.segmentation import MeanIoU, PixelAccuracy, segmentation_metrics

__all__ = [
    "AUC",
    "LABEL_METRICS",
    "AbsoluteError",
    "BalancedAccuracy",
    "MeanAngle",
    "MeanIoU",
    "MedianAngle",
    "PixelAccuracy",
    "RelativeError",
    "WithinAngle",
    "depth_metrics",
    "label_metrics",
    "normal_metrics",
    "segmentation_metrics",
]
