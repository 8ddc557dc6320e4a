"""Metrics per pixel: the paper's values on a recorded batch, the same however it is cut into batches, never NaN."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mola_lightning.losses import unit_length
from mola_lightning.metrics import depth_metrics, normal_metrics, segmentation_metrics

FIXTURE = Path(__file__).parents[1] / "data" / "fixtures" / "nyu_losses_metrics"
FACTORIES: dict[Callable[[int], MetricCollection], tuple[int, str, str]] = {
    segmentation_metrics: (13, "logits", "seg"),
    depth_metrics: (1, "depth_pred", "depth_gt"),
    normal_metrics: (3, "normal_pred", "normal_gt"),
}
RECORDED_AS = {
    "miou": "miou",
    "pixel_accuracy": "pixacc",
    "abs_err": "abs_err",
    "rel_err": "rel_err",
    "mean_angle": "ne_mean",
    "median_angle": "ne_median",
    "within_11": "ne_11.25",
    "within_22": "ne_22.5",
    "within_30": "ne_30",
}
HALF_A_BIN = 1 / 256  # degrees
Factory = Callable[[int], MetricCollection]


def recorded(factory: Factory) -> tuple[Tensor, Tensor]:
    """Predictions and targets of the recorded batch of two images."""
    _, predictions, targets = FACTORIES[factory]
    with np.load(FIXTURE.with_suffix(".npz")) as arrays:
        found = torch.from_numpy(arrays[predictions]), torch.from_numpy(arrays[targets])
    return found if factory is not segmentation_metrics else (found[0], found[1].long())


def measured(factory: Factory, *batches: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    metrics = factory(FACTORIES[factory][0])
    for predictions, targets in batches:
        metrics.update(predictions, targets)
    return metrics.compute()


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_recorded_values(factory: Factory, precision: torch.dtype) -> None:
    expected = json.loads(FIXTURE.with_suffix(".json").read_text())["metrics"]
    predictions, targets = recorded(factory)
    targets = targets.to(precision) if targets.is_floating_point() else targets
    for name, value in measured(factory, (predictions.to(precision), targets)).items():
        within = HALF_A_BIN if name == "median_angle" else 1e-6
        assert value.item() == pytest.approx(expected[RECORDED_AS[name]], rel=1e-6, abs=within), name


@pytest.mark.parametrize("factory", FACTORIES)
def test_batches_and_processes_do_not_matter(factory: Factory) -> None:
    """One batch, uneven parts of it, and the sum of two metrics' states (as processes are joined) are the same."""
    predictions, targets = recorded(factory)
    whole = measured(factory, (predictions, targets))
    strips = [(predictions[..., a:b, :], targets[..., a:b, :]) for a, b in ((0, 1), (1, 7), (7, 12))]
    torch.testing.assert_close(measured(factory, *strips), whole)
    ranks = [factory(FACTORIES[factory][0]) for _ in range(2)]
    ranks[0].update(*strips[1])
    for strip in strips[::2]:
        ranks[1].update(*strip)
    for name in whole:
        mine, other = ranks[0][name], ranks[1][name]
        for state, reduce in mine._reductions.items():
            setattr(mine, state, reduce(torch.stack([getattr(mine, state), getattr(other, state)])))
        torch.testing.assert_close(mine.compute(), whole[name])


@pytest.mark.parametrize("factory", FACTORIES)
def test_nothing_measured_is_finite(factory: Factory) -> None:
    predictions, targets = recorded(factory)
    void = torch.full_like(targets, 0.0 if targets.is_floating_point() else -1)
    assert all(value == 0 for value in measured(factory, (predictions, void)).values())
    with_void = measured(factory, (predictions, targets), (predictions, void))
    torch.testing.assert_close(with_void, measured(factory, (predictions, targets)))


@pytest.mark.parametrize("factory", FACTORIES)
def test_starts_anew_after_a_reset_also_in_a_copy(factory: Factory) -> None:
    predictions, targets = recorded(factory)
    fresh = measured(factory, (predictions[:1], targets[:1]))
    used = factory(FACTORIES[factory][0])
    used.update(predictions, targets)
    used.compute()
    used.reset()
    for metrics in (used, copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
        metrics.update(predictions[:1], targets[:1])
        torch.testing.assert_close(metrics.compute(), fresh)


@pytest.mark.parametrize("factory", FACTORIES)
def test_memory_does_not_grow_and_state_is_shared(factory: Factory) -> None:
    predictions, targets = recorded(factory)
    metrics = factory(FACTORIES[factory][0])
    metrics.update(predictions, targets)
    before = {name: [getattr(m, s).shape for s in m._defaults] for name, m in metrics.items()}
    metrics.update(predictions, targets)
    assert before == {name: [getattr(m, s).shape for s in m._defaults] for name, m in metrics.items()}
    if factory is not depth_metrics:
        assert len(metrics.compute_groups) == 1


def test_each_metric_says_which_way_is_better() -> None:
    better = {name: m.higher_is_better for f, (n, *_) in FACTORIES.items() for name, m in f(n).items()}
    assert set(better) == set(RECORDED_AS)
    errors = {"abs_err", "rel_err", "mean_angle", "median_angle"}
    assert better == {name: name not in errors for name in RECORDED_AS}


# --------------------------------------------------------------------------------------------------------- segmentation


def test_an_absent_class_does_not_count() -> None:
    labels = torch.tensor([[[0, 0, 1, -1]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 4]]]), 5).movedim(-1, 1).float()
    found = segmentation_metrics(5)
    found.update(logits, labels)
    # class 0: 1 of 2, class 1: 1 of 2; 2, 3 and 4 (predicted at a void pixel only) are left out
    torch.testing.assert_close(found.compute(), {"miou": torch.tensor(0.5), "pixel_accuracy": torch.tensor(2 / 3)})


# --------------------------------------------------------------------------------------------------------------- depth


def test_depth_errors_in_closed_form() -> None:
    predictions, targets = torch.tensor([3.0, 1.0, 9.0]), torch.tensor([2.0, 4.0, 0.0])
    found = measured(depth_metrics, (predictions.reshape(1, 1, 1, 3), targets.reshape(1, 1, 1, 3)))
    assert found["abs_err"] == 2.0
    assert found["rel_err"] == (0.5 + 0.75) / 2


def test_depth_counts_more_pixels_than_float32_can() -> None:
    metrics = depth_metrics()
    metrics["abs_err"].total += 2.0**25
    metrics["abs_err"].count += 2**25
    metrics["abs_err"].update(torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1, 1))
    assert metrics["abs_err"].total == 2**25 + 2
    assert metrics["abs_err"].count == 2**25 + 1


# -------------------------------------------------------------------------------------------------------------- normals


def turned(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets (1, 3, 1, n) at these angles."""
    radians = torch.deg2rad(degrees.double())
    targets = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, len(degrees))
    predictions = torch.stack([radians.cos(), radians.sin(), torch.zeros_like(radians)]).reshape(1, 3, 1, -1)
    return predictions.float(), targets


@pytest.mark.parametrize("count", [1, 2, 5, 6, 101])
def test_the_median_is_off_by_half_a_bin_at_most(count: int) -> None:
    degrees = 180 * torch.rand(count) ** 3
    degrees[0] = 180.0
    found = measured(normal_metrics, turned(degrees))
    assert found["median_angle"].item() == pytest.approx(np.median(degrees.numpy()), abs=HALF_A_BIN + 1e-4)
    assert found["mean_angle"].item() == pytest.approx(degrees.mean().item(), abs=1e-4)


def test_small_angles_are_told_apart_in_single_precision() -> None:
    assert measured(normal_metrics, turned(torch.tensor([0.01])))["mean_angle"].item() == pytest.approx(0.01, abs=1e-5)


def test_bounds_are_exclusive_and_exact() -> None:
    sides = torch.tensor([11.2499, 11.2501, 22.4999, 22.5001, 29.9999, 30.0001])
    found = measured(normal_metrics, turned(sides))
    torch.testing.assert_close([found[f"within_{d}"].item() for d in (11, 22, 30)], [1 / 6, 3 / 6, 5 / 6])


def test_lengths_of_vectors_do_not_matter() -> None:
    predictions, targets = torch.randn(1, 3, 4, 4), unit_length(torch.randn(1, 3, 4, 4))
    found = measured(normal_metrics, (3 * predictions, targets / 2))
    torch.testing.assert_close(found, measured(normal_metrics, (predictions, targets)))
