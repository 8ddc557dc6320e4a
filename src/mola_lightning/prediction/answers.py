"""From outputs of a head to the cells of a table: labels with probabilities, or numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mola_lightning.core import ConfigError, Task, TaskRows
from mola_lightning.data.kinds import kind_of
from mola_lightning.prediction.agnostic import chosen_outputs
from mola_lightning.prediction.choices import TaskChoice


class Answers:
    """What a model says of images, as columns of a table.

    Args:
        module: a MultiTaskModule in evaluation mode.
        task: whose head answers; None: the one that ``choice`` chooses for each image.
        choice: how to choose where there is no ``task``.
        top_k: how many classes to name.
        temperatures: task -> temperature of its probabilities; 1 where it is left out.

    Attributes:
        columns: names of the columns: ``task``, with a choice also ``task_score``; then of a task with classes
            ``label``, ``probability``, ``label_2``, ``probability_2`` ..., else a column for each label or number.
        numbers: those of them that hold numbers.
    """

    def __init__(
        self,
        module: Any,
        task: str | None,
        choice: TaskChoice | None = None,
        top_k: int = 1,
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        self.module, self.choice, self.top_k = module, choice, top_k
        self.task = None if task is None else next(t for t in module.tasks if t.name == task)
        self.temperatures = dict(temperatures or {})
        self.columns = ["task", *(["task_score"] if self.task is None else []), *self._value_columns()]
        texts = {"task"} if self.task is not None and not self.task.discrete else {"task", *self._value_columns()[::2]}
        self.numbers = [column for column in self.columns if column not in texts]

    def _value_columns(self) -> list[str]:
        if self.task is None or self.task.discrete:
            ranks = ["", *(f"_{rank}" for rank in range(2, self.top_k + 1))]
            return [f"{name}{rank}" for rank in ranks for name in ("label", "probability")]
        what = "probability" if kind_of(self.task) == "multi_label" else "value"
        return [f"{what}_{name}" for name in output_names(self.task)]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[list[str]]:
        """The cells of each of B images (B, C, H, W), as text, in the order of the columns."""
        if not len(images):
            return []
        if self.task is not None:
            rows = TaskRows(
                {n: torch.arange(len(images) if n == self.task.name else 0) for n in self.module.names}, len(images)
            )
            logits = self.module(images, rows.to(images.device)).predictions[self.task.name]
            return [[self.task.name, *cells] for cells in self._cells(self.task, logits)]
        assert self.choice is not None
        chosen = self.choice.choose(self.module, images)
        scores, table = chosen.scores.tolist(), {}
        for t, (rows, outputs) in chosen_outputs(self.module, images, chosen).items():
            task = self.module.tasks[t]
            for row, cells in zip(rows.tolist(), self._cells(task, outputs), strict=True):
                table[row] = [task.name, _number(scores[row]), *cells]
        return [table[row] for row in range(len(images))]

    def _cells(self, task: Task, logits: Tensor) -> list[list[str]]:
        if logits.ndim != 2:
            raise ConfigError(f"task {task.name!r} has a target for each pixel, which is no row of a table")
        logits = logits.float()
        if not task.discrete:
            values = logits.sigmoid() if kind_of(task) == "multi_label" else logits
            return [[_number(value) for value in row] for row in values.tolist()]
        p = (logits / self.temperatures.get(task.name, 1.0)).softmax(dim=1)
        best = p.topk(min(self.top_k, p.shape[1]), dim=1)
        names, missing = output_names(task), [""] * 2 * max(self.top_k - p.shape[1], 0)
        return [
            [cell for index, value in zip(classes, values, strict=True) for cell in (names[index], _number(value))]
            + missing
            for classes, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def output_names(task: Task) -> Sequence[str]:
    """Names of the classes or labels; their numbers where they have none."""
    return task.class_names or tuple(map(str, range(task.num_outputs)))


def _number(value: float) -> str:
    return f"{value:.6g}"
