"""Kinds of tasks with a target for the whole image: what each is trained with and measured by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mola_lightning.core import ConfigError, Criterion, Task, cross_entropy
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.core.tasks import as_they_are
from mola_lightning.losses import (
    WeightedBinaryCrossEntropy,
    WeightedCrossEntropy,
    binary_cross_entropy,
    squared_error,
)
from mola_lightning.metrics import label_metrics


@dataclass(frozen=True)
class Kind:
    """What the tasks of a kind have in common.

    Attributes:
        criterion: the loss.
        metrics: their names, the monitored one first.
        discrete: whether a target is one class index.
        least: the smallest sensible number of outputs.
    """

    criterion: Criterion
    metrics: tuple[str, ...]
    discrete: bool
    least: int


KINDS: dict[str, Kind] = {
    "single_label": Kind(cross_entropy, ("accuracy",), discrete=True, least=2),
    "multi_label": Kind(binary_cross_entropy, ("auc", "accuracy"), discrete=False, least=1),
    "regression": Kind(squared_error, ("mae", "rmse"), discrete=False, least=1),
    # as MedMNIST trains RetinaMNIST: the order of the classes is in a metric, not in the loss
    "ordinal": Kind(cross_entropy, ("accuracy", "auc", "mae"), discrete=True, least=2),
}


def make_task(
    name: str,
    kind: str = "single_label",
    num_outputs: int | None = None,
    class_names: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    class_weights: Sequence[float] | None = None,
    criterion: Criterion | None = None,
) -> Task:
    """A task with a target for the whole image.

    | kind           | target of a row             | loss                  | metrics, the first is monitored           |
    | -------------- | --------------------------- | --------------------- | ----------------------------------------- |
    | `single_label` | class index, int64          | softmax cross-entropy | accuracy; balanced_accuracy, f1, auc      |
    | `ordinal`      | class index, int64          | softmax cross-entropy | accuracy, auc, mae; balanced_accuracy, f1 |
    | `multi_label`  | (labels,) of 0 and 1, float | sigmoid cross-entropy | auc, accuracy                             |
    | `regression`   | number or (k,), float       | squared error         | mae, rmse                                 |

    Args:
        name: unique among the tasks of a run.
        kind: ``single_label``, ``multi_label``, ``regression`` or ``ordinal``.
        num_outputs: classes, labels, or numbers of a regression; by default as many as class names, and 1 for a
            regression.
        class_names: names of the classes or labels in order, or empty.
        metrics: names from the table, the monitored one first; by default those before the semicolon.
        class_weights: one for each class, by which its rows weigh in the loss, or for each label, by which the rows
            that have it do.
        criterion: instead of the kind's, such as :func:`mola_lightning.losses.absolute_error` for a regression.

    Raises:
        ConfigError: for settings that do not fit the kind.
    """
    one_of(f"the kind of task {name!r}", kind, KINDS)
    made = KINDS[kind]
    outputs = _num_outputs(name, kind, num_outputs, class_names)
    require(
        outputs >= made.least,
        f"task {name!r} of kind {kind} needs {made.least} classes or more, got {outputs}: nothing to tell apart",
    )
    names = tuple(made.metrics if metrics is None else metrics)
    factory = partial(label_metrics, kind=kind, names=names, task=name)
    measured = factory(outputs)
    task = Task(
        name,
        outputs,
        tuple(class_names),
        criterion=criterion or made.criterion,
        metrics=factory,
        monitor=names[0],
        higher_is_better=bool(measured[names[0]].higher_is_better),
        discrete=made.discrete,
    )
    return task if class_weights is None else with_class_weights(task, class_weights)


def kind_of(task: Task) -> str:
    """What a head gives for a task: logits (``single_label``, ``multi_label``), or any numbers (``regression``)."""
    criterion = task.criterion
    if criterion is binary_cross_entropy or isinstance(criterion, WeightedBinaryCrossEntropy):
        return "multi_label"
    return "single_label" if task.discrete and task.activation is as_they_are else "regression"


def with_class_weights(task: Task, weights: Sequence[float]) -> Task:
    """The task with a loss in which classes weigh differently.

    Args:
        task: one with softmax or sigmoid cross-entropy.
        weights: one for each class or label, see :class:`WeightedCrossEntropy`, :class:`WeightedBinaryCrossEntropy`.

    Raises:
        ConfigError: for a task of another loss, or weights that do not fit.
    """
    weights = tuple(float(weight) for weight in weights)
    require(
        len(weights) == task.num_outputs,
        f"task {task.name!r} needs a class weight for each of its {task.num_outputs} classes, got {len(weights)}",
    )
    if task.criterion is cross_entropy or isinstance(task.criterion, WeightedCrossEntropy):
        return replace(task, criterion=WeightedCrossEntropy(weights))
    if kind_of(task) == "multi_label":
        return replace(task, criterion=WeightedBinaryCrossEntropy(weights))
    raise ConfigError(f"task {task.name!r} has no classes to weigh; leave its class_weights out")


def with_balanced_classes(task: Task, targets: np.ndarray) -> Task:
    """The task with the classes weighing alike in the training split; a task without classes stays as it is.

    A class of n_c rows gets rows / (classes * n_c), which is 1 on average over rows; a label of n_c rows gets
    (rows - n_c) / n_c, so that those with it weigh as much as those without. A class or label without a training row
    counts as if it had one.

    Args:
        task: of any kind.
        targets: of the training rows: (n,) class indices, or (n, labels) of 0 and 1.
    """
    if task.criterion is binary_cross_entropy:
        positive = np.asarray(targets).sum(axis=0, dtype=np.float64)
        return with_class_weights(task, ((len(targets) - positive).clip(1) / positive.clip(1)).tolist())
    if task.criterion is cross_entropy:
        counts = np.bincount(np.asarray(targets, dtype=np.int64), minlength=task.num_outputs).clip(1)
        return with_class_weights(task, (len(targets) / (task.num_outputs * counts)).tolist())
    return task


def _num_outputs(name: str, kind: str, num_outputs: int | None, class_names: Sequence[str]) -> int:
    if num_outputs is None:
        num_outputs = len(class_names) or (1 if kind == "regression" else 0)
        require(num_outputs > 0, f"task {name!r}: say num_outputs, or the class names")
    positive_int(f"num_outputs of task {name!r}", num_outputs)
    return num_outputs
