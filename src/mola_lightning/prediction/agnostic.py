"""How good is a model when nobody tells it the task? The choice of the task, and the answers that follow from it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mola_lightning.analysis.collect import rows_of
from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.core import Regime, TaskRows
from mola_lightning.data.base import TaskDataset
from mola_lightning.prediction.choices import Chosen, TaskChoice

Accuracies = dict[str, dict[str, float]]


def chosen_outputs(module: Any, images: Tensor, chosen: Chosen) -> dict[int, tuple[Tensor, Tensor]]:
    """The outputs of each image's chosen head: task id -> (rows (n_t,), outputs (n_t, C)); chosen tasks only."""
    names = module.names
    rows = TaskRows.from_task_ids(chosen.task_ids.cpu(), names).to(images.device)
    if chosen.output is not None:  # every head has answered every image
        outputs = {name: chosen.output.predictions[name][rows[name]] for name in names}
    else:
        outputs = module(images, rows).predictions
    return {t: (rows[name], outputs[name]) for t, name in enumerate(names) if rows.counts[name]}


@torch.no_grad()
def target_agnostic_accuracy(
    module: Any, dataset: TaskDataset, regime: Regime, choices: Mapping[str, TaskChoice], batch_size: int = 256
) -> dict[str, Accuracies]:
    """Accuracies of a split with and without knowing each image's task.

    An answer is right when its class is: where domains share their classes, whichever head gave it; where tasks have
    classes of their own, the head must be right too.

    Args:
        module: a MultiTaskModule of tasks with classes, in evaluation mode.
        dataset: a split.
        regime: of the data.
        choices: name -> way to choose.
        batch_size: images in a pass.

    Returns:
        ``task_id`` (the head is given) and each choice -> task (and ``mean``) -> ``accuracy``; of the choices also
        ``task_accuracy``, how often the task was the right one.
    """
    shared = regime is Regime.DOMAINS
    found: dict[str, Accuracies] = {name: {} for name in ("task_id", *choices)}
    for t, task in enumerate(module.tasks):
        counts = {name: torch.zeros(2) for name in found}  # right answers, right tasks
        total = 0
        for batch in task_batches(dataset, task, batch_size):
            here = move(batch, module)
            targets = here.targets[task.name]
            total += len(targets)
            given = module(here.images, rows_of(module.tasks, task, here.images)).predictions[task.name]
            counts["task_id"][0] += float((given.argmax(dim=1) == targets).sum())
            for name, choice in choices.items():
                chosen = choice.choose(module, here.images)
                answers = torch.empty_like(targets)
                for rows, outputs in chosen_outputs(module, here.images, chosen).values():
                    answers[rows] = outputs.argmax(dim=1)
                own = chosen.task_ids == t
                right = answers == targets if shared else (answers == targets) & own
                counts[name] += torch.tensor([float(right.sum()), float(own.sum())])
        if not total:
            continue
        for name, (right_answers, right_tasks) in counts.items():
            values = {"accuracy": float(right_answers) / total}
            found[name][task.name] = values | ({"task_accuracy": float(right_tasks) / total} if name in choices else {})
    for of_tasks in found.values():
        seen = list(of_tasks.values())
        of_tasks["mean"] = {metric: sum(of[metric] for of in seen) / len(seen) for metric in seen[0]}
    return found
