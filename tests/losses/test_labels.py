"""Criteria of labels and numbers: torch's own means, sums that add up, and no batch that gives NaN."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import ConfigError, DataError
from mola_lightning.losses import (
    WeightedBinaryCrossEntropy,
    WeightedCrossEntropy,
    absolute_error,
    binary_cross_entropy,
    squared_error,
)

ROWS, WIDTH = 6, 3
WEIGHTS = (0.5, 2.0, 1.0)
Maker = Callable[[], Tensor]


def indices() -> Tensor:
    return torch.tensor([0, 1, 2, 2, 1, 2])


def labels() -> Tensor:
    return (torch.rand(ROWS, WIDTH) > 0.5).float()


def numbers() -> Tensor:
    return torch.randn(ROWS, WIDTH)


CRITERIA = [
    (binary_cross_entropy, labels, F.binary_cross_entropy_with_logits),
    (squared_error, numbers, F.mse_loss),
    (absolute_error, numbers, F.l1_loss),
    (
        WeightedCrossEntropy(WEIGHTS),
        indices,
        lambda o, t: (F.cross_entropy(o, t, reduction="none") * torch.tensor(WEIGHTS)[t]).mean(),
    ),
    (
        WeightedBinaryCrossEntropy(WEIGHTS),
        labels,
        lambda o, t: F.binary_cross_entropy_with_logits(o, t, pos_weight=torch.tensor(WEIGHTS)),
    ),
]


@pytest.mark.parametrize(("criterion", "targets", "mean"), CRITERIA)
def test_sum_over_units_is_the_mean(criterion, targets: Maker, mean: Callable[[Tensor, Tensor], Tensor]) -> None:
    outputs, found = torch.randn(ROWS, WIDTH), targets()
    total, units = criterion(outputs, found)
    torch.testing.assert_close(total / units, mean(outputs, found))
    parts = [criterion(outputs[part], found[part]) for part in (slice(0, 1), slice(1, 6))]
    torch.testing.assert_close(sum(part[0] for part in parts), total)
    assert sum(part[1] for part in parts) == units


@pytest.mark.parametrize(("criterion", "targets", "mean"), CRITERIA)
def test_no_rows_give_a_differentiable_zero(criterion, targets: Maker, mean: object) -> None:
    outputs = torch.randn(0, WIDTH, requires_grad=True)
    total, units = criterion(outputs, torch.empty(0, dtype=torch.long))  # what a batch without the task has
    total.backward()
    assert total == units == 0
    assert outputs.grad is not None


@pytest.mark.parametrize(("criterion", "targets", "mean"), CRITERIA)
def test_half_precision_sums_in_single(criterion, targets: Maker, mean: object) -> None:
    total, units = criterion(torch.randn(ROWS, WIDTH).bfloat16(), targets())
    assert total.dtype == units.dtype == torch.float32


@pytest.mark.parametrize(("criterion", "targets", "mean"), CRITERIA)
def test_criteria_travel_to_other_processes(criterion, targets: Maker, mean: object) -> None:
    outputs, found = torch.randn(ROWS, WIDTH), targets()
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other(outputs, found)[0] == criterion(outputs, found)[0]


@pytest.mark.parametrize("criterion", [squared_error, absolute_error])
def test_one_number_a_row_needs_no_second_axis(criterion) -> None:
    outputs, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0])
    expected = 5.0 if criterion is squared_error else 3.0
    assert criterion(outputs, targets)[0] == criterion(outputs, targets[:, None])[0] == expected
    assert criterion(outputs, targets)[1] == 2


@pytest.mark.parametrize("criterion", [squared_error, absolute_error, binary_cross_entropy])
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2), (3, 3)])
def test_targets_of_another_shape_do_not_broadcast(criterion, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"must have the shape \(4, 3\) to fit the predictions, got \("):
        criterion(torch.zeros(4, 3), torch.zeros(shape))


def test_a_single_row_keeps_its_weight() -> None:
    """PyTorch divides by the weights of the batch, so that one row of a rare class would weigh what any row does."""
    outputs, target = torch.zeros(1, 3), torch.tensor([1])
    total, units = WeightedCrossEntropy(WEIGHTS)(outputs, target)
    assert units == 1
    torch.testing.assert_close(total, 2.0 * F.cross_entropy(outputs, target))


@pytest.mark.parametrize("criterion", [WeightedCrossEntropy, WeightedBinaryCrossEntropy])
@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0, 0.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_weights_that_cannot_be_are_refused(criterion, weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="class weights must be finite numbers >= 0, not all 0"):
        criterion(weights)
