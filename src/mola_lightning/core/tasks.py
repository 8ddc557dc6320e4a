"""What is learned: a task is a label space with its loss and metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from mola_lightning.core.errors import ConfigError, DataError, positive_int

# (outputs (n, ...), targets (n, ...)) -> (sum of the loss over its units, number of units). A unit is whatever the loss
# averages over: a row, a valid pixel. Sum and count apart make the mean exact over ranks, micro-batches and zero rows.
Criterion = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Regime(Enum):
    """How samples and tasks relate."""

    DOMAINS = "domains"  # same classes, several sources of images: one task a sample
    MULTI_INPUT = "multi_input"  # different label spaces: one task a sample
    SINGLE_INPUT = "single_input"  # several targets for one image


def full_precision(values: Tensor) -> Tensor:
    """``values`` in float32 or better: half precision would round sums, and counts above 256."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def as_they_are(outputs: Tensor) -> Tensor:
    """The outputs of a head, unchanged."""
    return outputs


def cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy, summed.

    Args:
        outputs: logits (n, classes); n may be 0.
        targets: class indices (n,), int64, local to the task.

    Returns:
        The sum over rows, and n as a float scalar.
    """
    outputs = full_precision(outputs)
    return F.cross_entropy(outputs, targets, reduction="sum"), outputs.new_full((), len(targets))


def accuracy_metrics(num_outputs: int) -> MetricCollection:
    """Top-1 accuracy over all samples of a task, as the paper reports it."""
    return MetricCollection({"accuracy": MulticlassAccuracy(num_classes=num_outputs, average="micro")})


@dataclass(frozen=True)
class Task:
    """A label space with its loss and metrics; a domain is a task that shares its classes with others.

    Args:
        name: unique among the tasks of a run; used in logs, file names and overrides.
        num_outputs: width of the head, the number of classes for a classification. Labels are local: 0..num_outputs-1.
        class_names: names of the classes in order, or empty.
        criterion: summed loss and its number of units; softmax cross-entropy by default.
        metrics: ``num_outputs -> MetricCollection``; top-1 accuracy by default.
        monitor: the key of the metric collection that stands for the task in tables and model selection.
        higher_is_better: whether a larger ``monitor`` is better.
        discrete: whether targets are class indices, checked against ``num_outputs``.
        ignore_index: the value of a discrete target that says "no label here", such as -1 at void pixels; None: there
            is none. It only passes the check: ``criterion`` and ``metrics`` know it by themselves.
        activation: makes predictions of the head's outputs, such as vectors of unit length; criterion and metrics get
            predictions.
    """

    name: str
    num_outputs: int
    class_names: tuple[str, ...] = ()
    criterion: Criterion = cross_entropy
    metrics: Callable[[int], MetricCollection] = accuracy_metrics
    monitor: str = "accuracy"
    higher_is_better: bool = True
    discrete: bool = True
    ignore_index: int | None = None
    activation: Callable[[Tensor], Tensor] = as_they_are

    def __post_init__(self) -> None:
        bad = not isinstance(self.name, str) or not self.name or set(self.name) & set("/. ")
        if bad:
            raise ConfigError(f"a task's name must be a word without '/', '.' or spaces, got {self.name!r}")
        if self.name == "mean" or hasattr(nn.ModuleDict, self.name):
            raise ConfigError(
                f"a task cannot be called {self.name!r}: the name is taken; choose another, as {self.name}_1"
            )
        positive_int(f"num_outputs of task {self.name!r}", self.num_outputs)
        if self.class_names and len(self.class_names) != self.num_outputs:
            raise ConfigError(
                f"task {self.name!r} has {self.num_outputs} outputs but {len(self.class_names)} class names"
            )

    def check_targets(self, targets: Tensor, where: str = "") -> None:
        """Raise :class:`DataError` when a class index lies outside ``0..num_outputs-1``.

        Args:
            targets: class indices of any shape; ignored unless the task is discrete.
            where: said in the message, for example ``"the training split"``.
        """
        if not self.discrete or targets.numel() == 0:
            return
        bad = (targets < 0) | (targets >= self.num_outputs)
        if self.ignore_index is not None:
            bad &= targets != self.ignore_index
        if bool(bad.any()):
            found = ", ".join(str(v) for v in torch.unique(targets[bad])[:5].tolist())
            raise DataError(
                f"task {self.name!r}: labels must lie in 0..{self.num_outputs - 1} ({self.num_outputs} classes)"
                f"{'' if self.ignore_index is None else f', or be {self.ignore_index} for no label'}, "
                f"found {found}{' in ' + where if where else ''}. Labels are local to their task: "
                "subtract any offset, or raise the task's number of classes."
            )


def check_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks as a tuple, after checking that there is one at least and that their names differ."""
    tasks = tuple(tasks)
    if not tasks:
        raise ConfigError("at least one task is needed, got none")
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"task names must be unique, found twice: {', '.join(twice)}; rename or remove one of them")
    return tasks
