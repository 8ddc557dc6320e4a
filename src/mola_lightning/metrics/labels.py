"""Metrics of tasks with labels or numbers for the whole image."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAccuracy,
)

from mola_lightning.core import full_precision, row_targets
from mola_lightning.core.errors import one_of, require

log = logging.getLogger(__name__)


def label_metrics(
    num_outputs: int, kind: str = "single_label", names: Sequence[str] = ("accuracy",), task: str = ""
) -> MetricCollection:
    """The named metrics of a kind of task; ``functools.partial(label_metrics, kind=..., ...)`` is a ``Task.metrics``.

    Args:
        num_outputs: classes, labels, or numbers of a regression.
        kind: ``single_label``, ``multi_label``, ``regression`` or ``ordinal``.
        names: among those of the kind in ``LABEL_METRICS``.
        task: the task's name, said in messages.

    Raises:
        ConfigError: for a name that the kind does not have.
    """
    one_of("kind", kind, LABEL_METRICS)
    known = LABEL_METRICS[kind]
    require(len(names) > 0, f"a task needs a metric; those of {kind} tasks are {', '.join(known)}")
    for name in names:
        one_of(f"a metric of {kind} tasks", name, known)
    made = {name: known[name](num_outputs) for name in names}
    for metric in made.values():
        if isinstance(metric, AUC):
            metric.task = task
    # no groups: found by itself, a group would be two metrics whose sums happen to agree after the first batch
    return MetricCollection(made, compute_groups=False)


class BalancedAccuracy(MulticlassConfusionMatrix):
    """Mean over classes of the fraction of their rows that is found; classes without a row are left out."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """A scalar in 0..1."""
        rows = self.confmat.sum(1)
        return (self.confmat.diagonal() / rows.clamp(min=1)).sum() / (rows > 0).sum().clamp(min=1)


class LabelAccuracy(MultilabelAccuracy):
    """Fraction of all (row, label) decisions that are right, a label being said where its logit is above 0.

    It is MedMNIST's accuracy of multi-label data, the mean over labels of each label's accuracy.
    """

    higher_is_better = True

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add logits (n, labels) and targets (n, labels) of 0 and 1."""
        # Decided here: torchmetrics would take logits for probabilities in a batch where all lie in 0..1.
        super().update((predictions > 0).int(), row_targets(targets, predictions.shape).int())


class MeanDistance(MeanAbsoluteError):
    """Mean distance between the predicted and the true class of an ordinal task, in classes."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add logits (n, classes) and class indices (n,)."""
        super().update(predictions.argmax(dim=1), targets)


class MeanError(MeanAbsoluteError):
    """Mean of |prediction - target| over rows and outputs."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add predictions (n, k) and targets (n, k), or (n,) where k is 1."""
        super().update(predictions.contiguous(), row_targets(targets, predictions.shape))


class RootMeanSquaredError(MeanSquaredError):
    """Root of the mean of (prediction - target)^2 over rows and outputs."""

    def __init__(self) -> None:
        super().__init__(squared=False)

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add predictions (n, k) and targets (n, k), or (n,) where k is 1."""
        super().update(predictions.contiguous(), row_targets(targets, predictions.shape))


class AUC(Metric):
    """Area under the ROC curve: mean over classes of each against the rest, or mean over labels; exact.

    As MedMNIST reports it. A class that no row has, or that all rows have, has no curve: it is left out of the mean,
    and a warning says so. Without any curve it is 0.5, what guessing gives. NaN where a prediction is.

    The scores of all rows are kept until ``reset``, on their device: 4 (num_outputs + 1) bytes a row, or 8 num_outputs
    for multi-label.

    Args:
        num_outputs: classes or labels.
        multi_label: whether targets are (n, labels) of 0 and 1 instead of class indices (n,).

    Attributes:
        task: the task's name, said in the warning.
    """

    higher_is_better = True
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, num_outputs: int, multi_label: bool = False) -> None:
        super().__init__()
        self.num_outputs, self.multi_label = num_outputs, multi_label
        self.task = ""
        self._said: tuple[int, ...] = ()
        # One flat state, scores and targets of a row after another: of a process without any rows torchmetrics gathers
        # an empty vector of floats, which must fit the others in type and number of axes.
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add logits (n, num_outputs), and class indices (n,) or labels (n, num_outputs)."""
        predictions = full_precision(predictions.detach())
        if self.multi_label:
            scores, columns = predictions, row_targets(targets, predictions.shape)
        else:
            scores, columns = log_odds(predictions), targets[:, None]
        scores = scores.float().clamp(torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)
        self.rows.append(torch.cat([scores, columns.float()], dim=1).flatten())

    def compute(self) -> Tensor:
        """A scalar in 0..1."""
        from sklearn.metrics import roc_auc_score  # seconds of imports that most runs do without

        parts = self.rows if isinstance(self.rows, list) else [self.rows]
        table = torch.cat([torch.empty(0), *(part.cpu() for part in parts)])
        table = table.view(-1, self.num_outputs * 2 if self.multi_label else self.num_outputs + 1)
        scores, targets = table[:, : self.num_outputs], table[:, self.num_outputs :]
        if scores.isnan().any():
            return torch.tensor(torch.nan, device=self.device)
        hits = targets > 0.5 if self.multi_label else targets == torch.arange(self.num_outputs)
        defined = hits.any(0) & ~hits.all(0)
        self._say((~defined).nonzero().flatten().tolist())
        curves = defined.nonzero().flatten().tolist()
        areas = [roc_auc_score(hits[:, i].numpy(), scores[:, i].numpy()) for i in curves]
        return torch.tensor(areas or [0.5], dtype=torch.float32, device=self.device).mean()

    def _say(self, absent: Sequence[int]) -> None:
        """Warn of classes without a curve, once as long as they stay the same."""
        if tuple(absent) == self._said:
            return
        self._said = tuple(absent)
        if absent:
            whose = f" of task {self.task!r}" if self.task else ""
            what = f"{'labels' if self.multi_label else 'classes'} {', '.join(map(str, absent))} of {self.num_outputs}"
            then = "left out of the mean" if len(absent) < self.num_outputs else "0.5 stands for it"
            log.warning("auc%s: no row, or every row, of these data has %s; %s", whose, what, then)


def log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 - p)) of each class's probability p, for logits (n, classes), two classes at least.

    They have the order of the probabilities, and tell apart what these round to 1.
    """
    log_p = torch.log_softmax(logits, dim=1)
    odds = log_p - torch.log1p(-log_p.exp())  # exact but for the likeliest class, where 1 - p is a difference
    likeliest = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, likeliest, -torch.inf).logsumexp(dim=1, keepdim=True)
    return odds.scatter(1, likeliest, logits.gather(1, likeliest) - others)


# kind of task -> name -> the metric for a number of outputs
LABEL_METRICS: dict[str, dict[str, Callable[[int], Metric]]] = {
    "single_label": {
        "accuracy": lambda classes: MulticlassAccuracy(classes, average="micro"),
        "balanced_accuracy": BalancedAccuracy,
        "f1": lambda classes: MulticlassF1Score(classes, average="macro"),
        "auc": AUC,
    },
    "multi_label": {
        "auc": lambda labels: AUC(labels, multi_label=True),
        "accuracy": lambda labels: LabelAccuracy(labels, average="micro"),
    },
    "regression": {"mae": lambda outputs: MeanError(), "rmse": lambda outputs: RootMeanSquaredError()},
}
LABEL_METRICS["ordinal"] = {**LABEL_METRICS["single_label"], "mae": lambda classes: MeanDistance()}
