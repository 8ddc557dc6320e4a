"""Epoch metrics, against direct computations over the whole split."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, MetricCollection

from mola_lightning.core import Task
from mola_lightning.data import MultiTaskDataModule
from mola_lightning.training.meters import Meters

Make = Callable[..., Any]


@pytest.mark.parametrize("regime", ["domains", "multi_input", "single_input"])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_validation_equals_one_pass_over_the_split(
    regime: str, batch_size: int, make_source: Make, make_module: Make, make_batch: Make, fit: Make
) -> None:
    source = make_source(regime)
    module = make_module("hps", source)
    data = MultiTaskDataModule(source, batch_size=12, eval_batch_size=batch_size)
    if regime != "single_input" and batch_size < 1000:
        # The rows of a split lie task after task: batches lack tasks.
        assert all(len(batch.rows.present) < 3 for batch in data.val_dataloader())
    trainer = fit(module, source, limit_train_batches=1)
    (found,) = trainer.validate(module, data, verbose=False)
    whole = make_batch(source, "val", range(len(source.dataset("val"))))
    with torch.no_grad():
        predictions = module.eval()(whole.images, whole.rows).predictions
    losses = {n: F.cross_entropy(predictions[n], whole.targets[n]).item() for n in "abc"}
    accuracies = {n: (predictions[n].argmax(1) == whole.targets[n]).float().mean().item() for n in "abc"}
    expected = {f"val/{n}/loss": v for n, v in losses.items()} | {f"val/{n}/accuracy": v for n, v in accuracies.items()}
    expected |= {"val/mean/loss": sum(losses.values()) / 3, "val/mean/accuracy": sum(accuracies.values()) / 3}
    expected["val/score"] = expected["val/mean/accuracy"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_task_that_was_never_seen_has_no_entry(make_source: Make, make_module: Make, make_batch: Make) -> None:
    source = make_source("domains")
    module = make_module("hps", source).eval()
    module.validation_step(make_batch(source, "val", range(21)), 0)  # the rows of task a alone
    found = module.meters["val_"].compute()
    assert set(found) == {"a/loss", "a/accuracy", "mean/loss", "mean/accuracy", "score"}
    assert found["mean/loss"] == found["a/loss"]
    assert found["score"] == found["a/accuracy"]


def test_nothing_seen_gives_nothing(make_source: Make) -> None:
    tasks = make_source("domains").tasks
    for meters in (Meters(tasks, (), tasks), Meters((), ("loss",), tasks)):
        with pytest.warns(UserWarning, match="before the ``update``"):
            assert meters.compute() == {}


def test_a_reset_forgets_everything(make_source: Make, make_module: Make, make_batch: Make) -> None:
    source = make_source("domains")
    module = make_module("hps", source).eval()
    meters = module.meters["val_"]
    first, second = make_batch(source, "val", range(0, 60, 3)), make_batch(source, "val", range(21))
    module.validation_step(second, 0)
    alone = meters.compute()
    meters.reset()
    module.validation_step(first, 0)
    meters.reset()
    module.validation_step(second, 0)
    assert meters.compute() == alone


def test_smaller_is_better_counts_negative() -> None:
    """A task that is judged by an error, beside one that is judged by an accuracy."""
    accuracy = Task("accuracy", 2)
    error = Task(
        "error",
        1,
        criterion=lambda outputs, targets: ((outputs - targets).square().sum(), torch.tensor(float(len(targets)))),
        metrics=lambda _: MetricCollection({"mse": MeanSquaredError()}),
        monitor="mse",
        higher_is_better=False,
        discrete=False,
    )
    meters = Meters((accuracy, error), (), (accuracy, error))
    predictions = {"accuracy": torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "error": torch.tensor([1.0, 2.0])}
    targets = {"accuracy": torch.tensor([1, 1]), "error": torch.tensor([1.0, 5.0])}
    meters.update_losses(torch.tensor([1.0, 4.5]), torch.tensor([2.0, 2.0]), {})
    meters.update_metrics(predictions, targets)
    found = meters.compute()
    assert found["score"] == pytest.approx((math.log(0.5) - math.log(4.5)) / 2)  # unlike metrics: logarithms
    assert found["mean/mse"] == pytest.approx(4.5)  # over the tasks that have this metric
    assert found["mean/loss"] == pytest.approx((1.0 + 4.5) / 2)


def test_losses_are_weighed_by_units_and_scalars_by_steps() -> None:
    tasks = (Task("a", 2), Task("b", 2))
    meters, drawn = Meters((), ("loss",), tasks), random.Random(0)
    sums, units, totals = [0.0, 0.0], [0, 0], []
    for _ in range(20):
        counts = [drawn.randint(0, 5), drawn.randint(0, 5)]
        losses = [drawn.random() if count else 0.0 for count in counts]
        totals.append(sum(losses))
        meters.update_losses(torch.tensor(losses), torch.tensor(counts).float(), {"loss": torch.tensor(totals[-1])})
        sums = [s + loss * n for s, loss, n in zip(sums, losses, counts, strict=True)]
        units = [u + n for u, n in zip(units, counts, strict=True)]
    found = {name: float(value) for name, value in meters.compute().items()}
    expected = {"a/loss": sums[0] / units[0], "b/loss": sums[1] / units[1], "loss": sum(totals) / 20}
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_a_number_shows(make_source: Make) -> None:
    tasks = (Task("a", 2),)
    meters = Meters((), ("loss",), tasks)
    for value in (1.0, float("nan"), 1.0):
        meters.update_losses(torch.tensor([value]), torch.tensor([4.0]), {"loss": torch.tensor(value)})
    assert all(value.isnan() for value in meters.compute().values())


@pytest.mark.parametrize("name", ["metrics", "measured", "1"])  # "type", "train" ...: refused by Task
def test_task_names_that_a_module_uses_itself(name: str) -> None:
    tasks = (Task(name, 2), Task("b", 2))
    meters = Meters(tasks, (), tasks)
    meters.update_losses(torch.ones(2), torch.ones(2), {})
    found = torch.tensor([[0.0, 1.0]])
    meters.update_metrics({name: found, "b": found}, {name: torch.tensor([1]), "b": torch.tensor([0])})
    assert meters.compute()[f"{name}/accuracy"] == 1
