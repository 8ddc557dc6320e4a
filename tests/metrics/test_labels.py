"""Metrics of labels and numbers: scikit-learn's values, the same however batches are cut, finite on poor splits."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from mola_lightning.core import ConfigError, DataError
from mola_lightning.metrics import AUC, LABEL_METRICS, label_metrics
from mola_lightning.metrics.labels import log_odds

N, C = 60, 4
ALL = [(kind, name) for kind, names in LABEL_METRICS.items() for name in names]


def rows(kind: str, n: int = N) -> tuple[Tensor, Tensor]:
    """Predictions that know something of the targets."""
    noise = torch.randn(n, C)
    if kind == "regression":
        return noise, noise + torch.rand(n, C)
    if kind == "multi_label":
        return noise, (noise + torch.randn(n, C) > 0.3).float()
    targets = torch.randint(C, (n,))
    return noise + torch.nn.functional.one_hot(targets, C), targets


def expected(kind: str, name: str, predictions: np.ndarray, targets: np.ndarray) -> float:
    """By scikit-learn."""
    if kind == "regression":
        error = reference.mean_absolute_error if name == "mae" else reference.root_mean_squared_error
        return error(targets.ravel(), predictions.ravel())
    if kind == "multi_label":
        if name == "accuracy":
            return np.mean([reference.accuracy_score(targets[:, i], predictions[:, i] > 0) for i in range(C)])
        return reference.roc_auc_score(targets, predictions, average="macro")
    guessed = predictions.argmax(1)
    probabilities = np.exp(predictions) / np.exp(predictions).sum(1, keepdims=True)
    return {
        "accuracy": lambda: reference.accuracy_score(targets, guessed),
        "balanced_accuracy": lambda: reference.balanced_accuracy_score(targets, guessed),
        "f1": lambda: reference.f1_score(targets, guessed, average="macro"),
        "auc": lambda: reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro"),
        "mae": lambda: reference.mean_absolute_error(targets, guessed),
    }[name]()


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_values_are_those_of_scikit_learn_in_any_batches(kind: str, name: str) -> None:
    predictions, targets = rows(kind)
    whole, parts = (label_metrics(C, kind, [name]) for _ in range(2))
    whole.update(predictions, targets)
    for part in (slice(0, 1), slice(1, 17), slice(17, None)):
        parts.update(predictions[part], targets[part])
    value = expected(kind, name, predictions.double().numpy(), targets.numpy())
    assert whole.compute()[name].item() == pytest.approx(value, abs=1e-6)
    assert parts.compute()[name].item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_starts_anew_after_a_reset_also_in_a_copy(kind: str, name: str) -> None:
    predictions, targets = rows(kind)
    used = label_metrics(C, kind, [name])
    used.update(predictions, targets)
    before = used.compute()[name]
    for metrics in (used, copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
        metrics.reset()
        metrics.update(predictions, targets)
        torch.testing.assert_close(metrics.compute()[name], before)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_direction_is_said(kind: str, name: str) -> None:
    assert label_metrics(C, kind, [name])[name].higher_is_better == (name not in ("mae", "rmse"))


@pytest.mark.parametrize("kind", LABEL_METRICS)
def test_half_precision_and_batches_of_one(kind: str) -> None:
    metrics, (predictions, targets) = label_metrics(C, kind, list(LABEL_METRICS[kind])), rows(kind, 5)
    for i in range(5):
        metrics.update(predictions[i : i + 1].bfloat16(), targets[i : i + 1])
    assert all(value.isfinite() and value.dtype == torch.float32 for value in metrics.compute().values())


def test_single_numbers_need_no_second_axis() -> None:
    metrics = label_metrics(1, "regression", ["mae", "rmse"])
    metrics.update(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(metrics.compute(), {"mae": torch.tensor(2.0), "rmse": torch.tensor(5.0).sqrt()})
    with pytest.raises(DataError, match="must have the shape"):
        metrics.update(torch.zeros(4, 2), torch.zeros(4))


@pytest.mark.parametrize("logits", [[[0.4, 0.2]], [[0.9, 0.6]]])
def test_logits_are_not_taken_for_probabilities(logits: list[list[float]]) -> None:
    """Both are above 0, so both labels are said, also in a batch where all logits lie in 0..1."""
    metrics = label_metrics(2, "multi_label", ["accuracy"])
    metrics.update(torch.tensor(logits), torch.tensor([[1.0, 1.0]]))
    assert metrics.compute()["accuracy"] == 1


@pytest.mark.parametrize("kind", ["single_label", "ordinal"])
def test_an_absent_class_does_not_count(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    metrics = label_metrics(4, kind, ["auc", "balanced_accuracy", "f1"], task="retina")
    # class 3 is in no row and never said; 0 against the rest is right in 3 of 4 pairs, 1 in 4 of 4, 2 likewise
    predictions = torch.tensor([[3.0, 0, 0, 0], [1.0, 0.9, 0, 0], [1.0, 2, 0, 0], [0.0, 0, 5, 0]])
    metrics.update(predictions, torch.tensor([0, 1, 1, 2]))
    with caplog.at_level(logging.WARNING):
        found = metrics.compute()
    assert found["auc"] == 1.0
    assert found["balanced_accuracy"].item() == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert found["f1"].item() == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert caplog.messages == [
        "auc of task 'retina': no row, or every row, of these data has classes 3 of 4; left out of the mean"
    ]


def test_an_absent_label_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    metrics = label_metrics(3, "multi_label", ["auc"])
    predictions = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]])
    targets = torch.tensor([[0.0, 1, 0], [1.0, 1, 0], [0.0, 1, 0]])
    metrics.update(predictions, targets)
    for _ in range(3):  # epochs
        with caplog.at_level(logging.WARNING):
            assert metrics.compute()["auc"] == 0.5
        metrics.reset()
        metrics.update(predictions, targets)
    assert caplog.messages == ["auc: no row, or every row, of these data has labels 1, 2 of 3; left out of the mean"]


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_without_any_curve_it_is_what_guessing_gives(kind: str) -> None:
    metrics = label_metrics(2, kind, ["auc"])
    targets = torch.zeros(5, dtype=torch.long) if kind == "single_label" else torch.zeros(5, 2)
    metrics.update(torch.randn(5, 2), targets)
    assert metrics.compute()["auc"] == 0.5


def test_confident_predictions_are_told_apart() -> None:
    """Their probabilities all round to 1."""
    margin = torch.tensor([40.0, 60.0, 50.0, 70.0])
    metrics = label_metrics(2, "single_label", ["auc"])
    metrics.update(torch.stack([torch.zeros(4), margin], dim=1), torch.tensor([0, 1, 0, 1]))
    assert metrics.compute()["auc"] == 1


def test_log_odds_are_those_of_the_probabilities() -> None:
    logits = 4 * torch.randn(50, 5, dtype=torch.float64)
    torch.testing.assert_close(log_odds(logits), torch.softmax(logits, dim=1).logit())


def test_nan_stays_nan() -> None:
    metric = AUC(2)
    metric.update(torch.tensor([[torch.nan, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert metric.compute().isnan()


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_processes_are_joined_also_where_one_has_no_rows(kind: str) -> None:
    """What torchmetrics does at the end of an epoch on several devices, without the devices."""
    predictions, targets = rows(kind)
    whole = AUC(C, multi_label=kind == "multi_label")
    whole.update(predictions, targets)
    ranks = [AUC(C, multi_label=kind == "multi_label") for _ in range(3)]
    ranks[0].update(predictions[:20], targets[:20])
    ranks[2].update(predictions[20:], targets[20:])
    gathered = [torch.cat([torch.empty(0), *rank.rows]) for rank in ranks]
    ranks[0].dist_sync_fn, ranks[0].distributed_available_fn = lambda state, group=None: gathered, lambda: True
    torch.testing.assert_close(ranks[0].compute(), whole.compute())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="a metric of regression tasks must be one of 'mae', 'rmse', got 'auc'"):
        label_metrics(1, "regression", ["auc"])
    with pytest.raises(ConfigError, match="kind must be one of"):
        label_metrics(1, "ranking")
    with pytest.raises(ConfigError, match="a task needs a metric"):
        label_metrics(3, "single_label", [])
