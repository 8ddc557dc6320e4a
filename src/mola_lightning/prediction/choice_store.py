"""How a model's images are given a task: fitted, kept in its run folder, and found again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.core import DataError, RunFolderError
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write, sha256
from mola_lightning.data import MultiTaskDataModule
from mola_lightning.data.base import TaskDataset
from mola_lightning.prediction.choices import (
    CHOICES,
    LeastEntropy,
    LinearChoice,
    TaskChoice,
    check_choice,
    read_evidence,
)

NUM_ROWS = 800  # training images of each task that a classifier of tasks is fitted on, at most


@torch.no_grad()
def fit_linear_choice(
    module: Any,
    dataset: TaskDataset,
    reads: str,
    batch_size: int = 256,
    num_rows: int | None = NUM_ROWS,
    seed: int = 0,
) -> LinearChoice:
    """Multinomial logistic regression of the task on what the model knows of an image (L2, C = 1, standardised).

    Args:
        module: a MultiTaskModule.
        dataset: the training split; its images come without augmentation.
        reads: ``router`` or ``mapper``, see :class:`LinearChoice`.
        batch_size: images in a pass.
        num_rows: of each task, drawn; all when None.
        seed: of the draw.

    Raises:
        DataError: when a task has no image there.
    """
    module.eval()
    evidence: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    for t, task in enumerate(module.tasks):
        before = len(ids)
        for batch in task_batches(dataset, task, batch_size, num_rows, seed):
            found, _ = read_evidence(module, move(batch, module).images, reads)
            evidence.append(found.double().cpu().numpy())
            ids.append(np.full(len(found), t))
        if len(ids) == before:  # the fit would have a row fewer than tasks, and its rows the wrong ones' names
            raise DataError(
                f"a classifier of tasks needs training images of each task, and there are none of {task.name!r}; "
                "choose the task by 'entropy'"
            )
    x, y = np.concatenate(evidence), np.concatenate(ids)
    num_tasks = len(module.tasks)
    if num_tasks == 1:
        return LinearChoice(reads, torch.zeros(1, x.shape[1]), torch.zeros(1))
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-9] = 1.0  # a feature that never changes says nothing
    model = LogisticRegression(max_iter=2000, class_weight="balanced").fit((x - mean) / scale, y)
    weight, bias = model.coef_, model.intercept_
    if num_tasks == 2:  # scikit-learn keeps one row, of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    bias = bias - weight @ mean
    return LinearChoice(reads, torch.from_numpy(weight).float(), torch.from_numpy(bias).float())


def file_digest(path: Path) -> str:
    """SHA-256 of a file: 16 hex digits, which tell one checkpoint from another."""
    return sha256(path)[:16]


def load_choice(
    module: Any, by: str, run: Path, checkpoint: Path, data: MultiTaskDataModule, data_key: str
) -> TaskChoice:
    """The way to choose, fitted when first asked for and kept in ``<run>/task_choice_<by>_<checkpoint>.json``.

    Args:
        module: of the run.
        by: one of :data:`CHOICES`.
        run: the run folder.
        checkpoint: the file that the weights come from; what was fitted on another one is fitted again.
        data: whose training split a classifier is fitted on.
        data_key: of the settings of the data; what was fitted on other data is fitted again.

    Raises:
        ConfigError: when the model has nothing to choose by.
    """
    one_of("the way to choose a task", by, CHOICES)
    check_choice(module, by)
    if by == "entropy":
        return LeastEntropy()
    path = run / f"task_choice_{by}_{checkpoint.stem}.json"
    fitted_on = {"checkpoint": file_digest(checkpoint), "tasks": list(module.names), "data": data_key}
    kept = read_json(path)
    if all(kept.get(name) == value for name, value in fitted_on.items()):
        return LinearChoice(by, torch.tensor(kept["weight"]), torch.tensor(kept["bias"]))
    choice = fit_linear_choice(module, data.dataset("train"), by)
    with atomic_write(path) as file:
        json.dump({**fitted_on, "weight": choice.weight.tolist(), "bias": choice.bias.tolist()}, file)
    return choice


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of ours; empty where there is none.

    Raises:
        RunFolderError: when it cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}. Delete it; it is made again.") from error
    return content
