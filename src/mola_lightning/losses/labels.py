"""Criteria of tasks with labels or numbers for the whole image, beside the softmax cross-entropy of ``core``."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import ConfigError, full_precision, row_targets


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sigmoid cross-entropy of a multi-label task, summed over rows and labels, which are its units.

    Args:
        outputs: logits (n, labels); n may be 0.
        targets: (n, labels) of 0 and 1.

    Returns:
        The sum, and n * labels as a float scalar.
    """
    return _binary_cross_entropy(outputs, targets, None)


def squared_error(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(prediction - target)^2 of a regression, summed over rows and outputs, which are its units.

    Args:
        outputs: (n, k); n may be 0.
        targets: (n, k), or (n,) where k is 1.

    Returns:
        The sum, and n * k as a float scalar.
    """
    difference = _difference(outputs, targets)
    return difference.square().sum(), difference.new_full((), difference.numel())


def absolute_error(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """|prediction - target|, otherwise as :func:`squared_error`."""
    difference = _difference(outputs, targets)
    return difference.abs().sum(), difference.new_full((), difference.numel())


@dataclass(frozen=True)
class WeightedCrossEntropy:
    """Softmax cross-entropy in which a row weighs as much as its class.

    Its units are rows, where ``torch.nn.CrossEntropyLoss(weight=...)`` divides by the weights of the batch: with few
    rows of a task in a batch, that would undo the weighting, altogether so with one.

    Args:
        weights: one for each class, not negative; 1 on average over the training rows keeps the size of the loss.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_weights(self.weights)

    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum over rows, and their number, of logits (n, classes) and class indices (n,)."""
        outputs = full_precision(outputs)
        weights = _on(outputs, self.weights)
        total = F.cross_entropy(outputs, targets, weight=weights, reduction="sum")
        return total, outputs.new_full((), len(targets))


@dataclass(frozen=True)
class WeightedBinaryCrossEntropy:
    """Sigmoid cross-entropy in which the rows that have a label weigh as much as ``weights`` says for that label.

    Args:
        weights: one for each label, not negative; rows without the label weigh 1.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_weights(self.weights)

    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As :func:`binary_cross_entropy`."""
        return _binary_cross_entropy(outputs, targets, self.weights)


def _binary_cross_entropy(outputs: Tensor, targets: Tensor, weights: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    outputs = full_precision(outputs)
    targets = row_targets(targets, outputs.shape).to(outputs.dtype)
    weight = None if weights is None else _on(outputs, weights)
    total = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, reduction="sum")
    return total, outputs.new_full((), outputs.numel())


def _difference(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = full_precision(outputs)
    return outputs - row_targets(targets, outputs.shape)


def _on(outputs: Tensor, weights: Sequence[float]) -> Tensor:
    """The weights beside the outputs; nothing waits for the device that they go to."""
    return torch.tensor(weights, dtype=outputs.dtype).to(outputs.device, non_blocking=True)


def _check_weights(weights: Sequence[float]) -> None:
    if not all(isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ConfigError(f"class weights must be finite numbers >= 0, not all 0, got {list(weights)}")
