"""Losses per pixel: the paper's values on recorded batches, exact means, and a 0 to train on where nothing is known."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mola_lightning.core import DataError
from mola_lightning.losses import depth_loss, normal_loss, segmentation_loss, unit_length

FIXTURE = Path(__file__).parents[1] / "data" / "fixtures" / "nyu_losses_metrics.npz"
CHANNELS = {segmentation_loss: 4, depth_loss: 1, normal_loss: 3}
LOSSES = list(CHANNELS)
Criterion = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def record() -> dict[str, Tensor]:
    with np.load(FIXTURE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def batch(criterion: Criterion, n: int = 3, size: tuple[int, int] = (4, 5)) -> tuple[Tensor, Tensor]:
    """Outputs that want a gradient, and targets of which about a third is void."""
    outputs = torch.randn(n, CHANNELS[criterion], *size)
    void = torch.rand(n, 1, *size) < 0.3
    if criterion is segmentation_loss:
        return outputs.requires_grad_(), torch.randint(4, (n, *size)).masked_fill(void[:, 0], -1)
    targets = torch.randn(outputs.shape) if criterion is depth_loss else unit_length(torch.randn(outputs.shape))
    return outputs.requires_grad_(), targets.masked_fill(void, 0.0)


def without_targets(targets: Tensor) -> Tensor:
    return torch.full_like(targets, 0.0 if targets.is_floating_point() else -1)


@pytest.mark.parametrize(
    ("criterion", "outputs", "targets", "loss", "gradient"),
    [
        (segmentation_loss, "logits", "seg", "loss_semantic", "grad_logprob"),
        (depth_loss, "depth_pred", "depth_gt", "loss_depth", "grad_depth"),
        (normal_loss, "normal_pred", "normal_gt", "loss_normal", "grad_normal"),
    ],
)
def test_recorded_values_and_gradients(
    criterion: Criterion, outputs: str, targets: str, loss: str, gradient: str, record: dict[str, Tensor]
) -> None:
    predicted, expected = record[outputs].requires_grad_(), record[gradient]
    if criterion is segmentation_loss:  # recorded with respect to log-probabilities
        (expected,) = torch.autograd.grad(predicted.log_softmax(1), predicted, expected)
        record[targets] = record[targets].long()
    total, units = criterion(predicted, record[targets])
    (total / units).backward()
    torch.testing.assert_close(total / units, record[loss], rtol=0, atol=1e-12)
    torch.testing.assert_close(predicted.grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("criterion", LOSSES)
def test_sums_and_units_of_parts_add_up(criterion: Criterion) -> None:
    """So that a mean over micro-batches, and over processes, is the mean over all pixels."""
    outputs, targets = batch(criterion)
    targets[0] = without_targets(targets[0])
    whole = criterion(outputs, targets)
    parts = [criterion(outputs[i : i + 1], targets[i : i + 1]) for i in range(3)]
    assert parts[0][1] == 0
    assert 0 < whole[1] < 40
    for i in range(2):
        torch.testing.assert_close(sum(part[i] for part in parts), whole[i])


@pytest.mark.parametrize("criterion", LOSSES)
def test_nothing_measured_is_a_loss_of_zero(criterion: Criterion) -> None:
    outputs, targets = batch(criterion)
    total, units = criterion(outputs, without_targets(targets))
    total.backward()
    assert (total, units) == (0, 0)
    assert torch.equal(outputs.grad, torch.zeros_like(outputs))


@pytest.mark.parametrize("criterion", LOSSES)
def test_a_task_without_rows(criterion: Criterion) -> None:
    """Its targets come as (0,), since a batch cannot know their size."""
    outputs, _ = batch(criterion, n=0)
    total, units = criterion(outputs, torch.empty(0, dtype=torch.long))
    total.backward()
    assert (total, units) == (0, 0)
    assert outputs.grad.shape == outputs.shape


@pytest.mark.parametrize("criterion", LOSSES)
def test_void_pixels_have_no_gradient(criterion: Criterion) -> None:
    outputs, targets = batch(criterion)
    criterion(outputs, targets)[0].backward()
    void = (targets == -1) if criterion is segmentation_loss else (targets == 0).all(1)
    assert void.any()
    moved = outputs.grad.abs().sum(1) > 0
    assert torch.equal(moved, ~void)


@pytest.mark.parametrize("criterion", LOSSES)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_rounds_counts(criterion: Criterion, half: torch.dtype) -> None:
    outputs, targets = batch(criterion, n=1, size=(301, 301))
    total, units = criterion(outputs.to(half), targets)
    exact, exact_units = criterion(outputs.to(half).double(), targets)
    assert total.dtype == torch.float32
    assert units == exact_units
    torch.testing.assert_close(total, exact.float())


@pytest.mark.parametrize("criterion", LOSSES)
def test_targets_of_another_shape_are_refused(criterion: Criterion) -> None:
    outputs, targets = batch(criterion)
    wrong = targets[:, None] if criterion is segmentation_loss else targets[:, 0]
    for bad in (wrong, targets[..., :-1]):
        with pytest.raises(DataError, match="targets per pixel must have the shape"):
            criterion(outputs, bad)


@pytest.mark.parametrize("criterion", LOSSES)
def test_can_be_sent_to_another_process(criterion: Criterion) -> None:
    assert pickle.loads(pickle.dumps(criterion)) is criterion


def test_a_normal_whose_channels_add_up_to_zero_counts() -> None:
    targets = torch.tensor([0.6, -0.6, 0.0]).reshape(1, 3, 1, 1) / 0.72**0.5
    total, units = normal_loss(-targets, targets)
    assert units == 1
    torch.testing.assert_close(total, torch.tensor(2.0))


def test_another_ignored_class() -> None:
    outputs, targets = batch(segmentation_loss)
    found = segmentation_loss(outputs, targets.where(targets >= 0, 255), ignore_index=255)
    torch.testing.assert_close(found, segmentation_loss(outputs, targets))


def test_unit_length() -> None:
    vectors = torch.randn(2, 3, 4, 5, requires_grad=True)
    torch.testing.assert_close(unit_length(vectors).norm(dim=1), torch.ones(2, 4, 5))
    torch.testing.assert_close(unit_length(7 * vectors), unit_length(vectors))
    zero = torch.zeros(1, 3, 1, 1, requires_grad=True)
    unit_length(zero).sum().backward()
    assert not unit_length(zero).any()
    assert zero.grad.isfinite().all()
