"""Kinds of tasks: each trains, is measured, and refuses what does not fit it."""

import copy
import pickle
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from mola_lightning.architectures import HPS
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import ConfigError, Task, cross_entropy
from mola_lightning.data import (
    MultiTaskDataModule,
    TensorSource,
    make_task,
    with_balanced_classes,
    with_class_weights,
)
from mola_lightning.data.kinds import KINDS
from mola_lightning.losses import WeightedBinaryCrossEntropy, WeightedCrossEntropy, absolute_error, squared_error
from mola_lightning.training import MultiTaskModule

OUTPUTS = {"single_label": 3, "ordinal": 3, "multi_label": 2, "regression": 1}


def task_of(kind: str, **options: object) -> Task:
    return make_task("a", kind, OUTPUTS[kind], **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_trained_and_measured_by_its_kind(kind: str) -> None:
    task = task_of(kind)
    assert task.criterion is KINDS[kind].criterion
    assert set(task.metrics(task.num_outputs)) == set(KINDS[kind].metrics)
    assert task.monitor == KINDS[kind].metrics[0]
    assert task.higher_is_better == (kind != "regression")
    assert task.discrete == (kind in ("single_label", "ordinal"))


def test_the_first_metric_is_monitored() -> None:
    task = make_task("a", "ordinal", 4, metrics=["mae", "auc"])
    assert (task.monitor, task.higher_is_better) == ("mae", False)
    assert set(task.metrics(4)) == {"mae", "auc"}


def test_the_width_follows_the_names() -> None:
    assert make_task("a", class_names=["x", "y", "z"]).num_outputs == 3
    assert make_task("a", "regression").num_outputs == 1
    assert make_task("a", class_names=["x", "y"]).class_names == ("x", "y")


@pytest.mark.parametrize("weights", [None, (1.0, 2.0)])
def test_tasks_travel_to_other_processes(weights: tuple[float, ...] | None) -> None:
    task = make_task("a", num_outputs=2, metrics=["accuracy", "auc"], class_weights=weights)
    outputs, targets = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    for other in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert other.criterion(outputs, targets) == task.criterion(outputs, targets)
        assert list(other.metrics(2)) == ["accuracy", "auc"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ranking"}, "the kind of task 'a' must be one of 'single_label', .*, got 'ranking'"),
        ({}, "task 'a': say num_outputs, or the class names"),
        ({"num_outputs": 0}, "num_outputs of task 'a' must be an integer >= 1"),
        ({"num_outputs": 1}, "task 'a' of kind single_label needs 2 classes or more, got 1: nothing to tell apart"),
        ({"num_outputs": 3, "class_names": ["x"]}, "3 outputs but 1 class names"),
        ({"num_outputs": 3, "metrics": ["rmse"]}, "a metric of single_label tasks must be one of .*, got 'rmse'"),
        ({"num_outputs": 3, "metrics": []}, "a task needs a metric"),
        ({"num_outputs": 3, "class_weights": [1, 2]}, "a class weight for each of its 3 classes, got 2"),
        ({"num_outputs": 2, "class_weights": [1, -2]}, "class weights must be finite"),
        ({"kind": "regression", "class_weights": [1]}, "task 'a' has no classes to weigh"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_task("a", **options)


# -------------------------------------------------------------------------------------------------------- class weights


def test_class_weights_replace_the_loss() -> None:
    assert task_of("ordinal", class_weights=[1, 2, 3]).criterion == WeightedCrossEntropy((1.0, 2.0, 3.0))
    assert task_of("multi_label", class_weights=[1, 2]).criterion == WeightedBinaryCrossEntropy((1.0, 2.0))
    again = with_class_weights(task_of("single_label", class_weights=[1, 2, 3]), [3, 2, 1])
    assert again.criterion == WeightedCrossEntropy((3.0, 2.0, 1.0))
    assert make_task("a", "regression", criterion=absolute_error).criterion is absolute_error


def test_balanced_classes_weigh_alike() -> None:
    targets = np.array([0] * 6 + [1] * 3 + [2])
    weights = np.array(with_balanced_classes(task_of("single_label"), targets).criterion.weights)
    assert weights * [6, 3, 1] == pytest.approx(10 / 3)
    assert weights[targets].mean() == pytest.approx(1)


def test_balanced_labels_weigh_alike() -> None:
    targets = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=np.float32)
    assert with_balanced_classes(task_of("multi_label"), targets).criterion.weights == (3.0, 1.0)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [("single_label", np.array([0, 0, 1])), ("multi_label", np.array([[0, 1]])), ("multi_label", np.zeros((3, 2)))],
)
def test_classes_without_rows_keep_finite_weights(kind: str, targets: np.ndarray) -> None:
    weights = with_balanced_classes(task_of(kind), targets).criterion.weights
    assert all(0 < weight < 10 for weight in weights)


def test_what_has_no_classes_stays_as_it_is() -> None:
    regression = task_of("regression")
    assert with_balanced_classes(regression, np.ones((3, 1))) is regression
    assert regression.criterion is squared_error
    given = task_of("single_label", class_weights=[1, 2, 3])
    assert with_balanced_classes(given, np.array([0, 0, 1])) is given  # the user's own weights win
    plain = Task("b", 3)
    assert plain.criterion is cross_entropy
    assert with_balanced_classes(plain, np.arange(3)).criterion == WeightedCrossEntropy((1.0, 1.0, 1.0))


# ------------------------------------------------------------------------------------------------------------- training


def test_all_kinds_train_together_on_partly_annotated_images() -> None:
    """Images that show what is asked: each task gets better, and no batch without rows of a task does harm."""
    generator = torch.Generator().manual_seed(0)
    rows, level = 96, torch.rand(96, generator=generator)
    images = level[:, None, None, None] + 0.05 * torch.randn(rows, 1, 8, 8, generator=generator)
    classes = (level * 3).long()
    targets = {
        "single": classes,
        "order": classes,
        "several": torch.stack([level > 0.3, level > 0.6], dim=1).float(),
        "number": level,
    }
    tasks = [
        make_task("single", num_outputs=3, class_weights=[1.0, 2.0, 1.0]),
        make_task("order", "ordinal", 3),
        make_task("several", "multi_label", 2),
        make_task("number", "regression"),
    ]
    seen = torch.rand(rows, len(tasks), generator=generator) > 0.5
    seen[~seen.any(1), 0] = True
    annotated = {task.name: seen[:, i] for i, task in enumerate(tasks)}
    source = TensorSource.single_input(
        {"train": images, "val": images}, dict.fromkeys(("train", "val"), targets), tasks, {"train": annotated}
    )
    torch.manual_seed(0)
    shared = HPS(tasks, partial(create_small_resnet, widths=(4, 8), blocks=(1, 1)), (1, 8, 8))
    module = MultiTaskModule(tasks, shared, optimizer=partial(torch.optim.Adam, lr=0.01))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=8, num_sanity_val_steps=0, enable_model_summary=False, **options)
    data = MultiTaskDataModule(source, batch_size=8, eval_batch_size=96)
    first = pl.Trainer(**options, enable_model_summary=False).validate(module, data, verbose=False)[0]
    trainer.fit(module, data)
    last = trainer.validate(module, data, verbose=False)[0]
    assert all(np.isfinite(value) for value in last.values())
    assert all(last[f"val/{task.name}/loss"] < first[f"val/{task.name}/loss"] for task in tasks)
    assert last["val/several/auc"] > 0.9
    assert last["val/order/mae"] < first["val/order/mae"]
    assert {"val/order/auc", "val/number/rmse", "val/single/accuracy", "val/several/accuracy"} <= set(last)
