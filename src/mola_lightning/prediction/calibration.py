"""Do probabilities mean what they say? Expected calibration error, and the temperature that mends it."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from mola_lightning.analysis.collect import rows_of
from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.core import Task
from mola_lightning.core.files import atomic_write
from mola_lightning.data.base import TaskDataset
from mola_lightning.prediction.choice_store import file_digest, read_json

log = logging.getLogger(__name__)

BOUNDS = (0.05, 20.0)  # of a temperature: beyond them the validation rows say only "more" or "less"
BINS = 15


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T that minimises the mean cross-entropy of softmax(logits / T) (Guo et al., ICML 2017).

    The loss is convex in 1 / T, so its slope is followed to 0 by bisection: no step size, no start, no local optimum.

    Args:
        logits: (n, C) of validation rows.
        targets: (n,) class indices.

    Returns:
        T within :data:`BOUNDS`: the lower bound where every row is right, the upper one where logits say nothing.
    """
    logits = logits.double()
    right = logits.gather(1, targets[:, None])[:, 0]

    def slope(log_beta: float) -> float:
        p = F.softmax(logits * torch.tensor(log_beta).double().exp(), dim=1)
        return float(((p * logits).sum(dim=1) - right).mean())

    low, high = (float(-torch.tensor(bound).double().log()) for bound in reversed(BOUNDS))
    for _ in range(50):
        middle = (low + high) / 2
        if slope(middle) <= 0:  # surer would be better, or is as good: rows that are all certain have a slope of 0
            low = middle
        else:
            high = middle
    return float(torch.tensor(-(low + high) / 2).double().exp())


def calibration_error(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """Expected calibration error over 15 bins of equal width, of the top class, from 0 to 1."""
    probabilities = F.softmax(logits.double() / temperature, dim=1).float()
    return float(multiclass_calibration_error(probabilities, targets, logits.shape[1], n_bins=BINS, norm="l1"))


@torch.no_grad()
def collect_logits(module: Any, dataset: TaskDataset, task: Task, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """The head's outputs (n, C) and the targets (n,) of all rows of a task, on the host."""
    logits, targets = [], []
    for batch in task_batches(dataset, task, batch_size):
        here = move(batch, module)
        output = module(here.images, rows_of(module.tasks, task, here.images))
        logits.append(output.predictions[task.name].float().cpu())
        targets.append(batch.targets[task.name])
    return torch.cat(logits), torch.cat(targets)


def calibrate(module: Any, validation: TaskDataset, test: TaskDataset) -> dict[str, dict[str, float]]:
    """Fit a temperature for each task with classes on validation rows, and say what it does to test rows.

    Args:
        module: a MultiTaskModule, in evaluation mode.
        validation: the split that temperatures are fitted on; nothing is fitted on ``test``.
        test: the split that is reported.

    Returns:
        Task -> temperature, and error and cross-entropy of the test rows without it (``_before``) and with it
        (``_after``). Tasks with a target for each pixel, several labels or numbers are left out.
    """
    found = {}
    for task in module.tasks:
        if not task.discrete:
            continue
        logits, targets = collect_logits(module, validation, task)
        if logits.ndim != 2:
            continue
        temperature = fit_temperature(logits, targets)
        logits, targets = collect_logits(module, test, task)
        found[task.name] = {
            "temperature": temperature,
            "ece_before": calibration_error(logits, targets),
            "ece_after": calibration_error(logits, targets, temperature),
            "nll_before": float(F.cross_entropy(logits, targets)),
            "nll_after": float(F.cross_entropy(logits / temperature, targets)),
        }
    return found


def _path(run: Path, checkpoint: Path) -> Path:
    return run / f"calibration_{checkpoint.stem}.json"


def save_calibration(
    run: Path,
    checkpoint: Path,
    data_key: str,
    overrides: Sequence[str],
    tasks: Mapping[str, Mapping[str, float]],
) -> Path:
    """Keep what :func:`calibrate` found in ``<run>/calibration_<checkpoint>.json``, and return its path.

    Args:
        run: the run folder.
        checkpoint: the file that the weights come from.
        data_key: of the settings of the data that the temperatures are fitted on.
        overrides: of the run's own config, by which they became so.
        tasks: what was found.
    """
    path = _path(run, checkpoint)
    made_from = {"checkpoint": file_digest(checkpoint), "data": data_key, "overrides": list(overrides)}
    with atomic_write(path) as file:
        json.dump({**made_from, "bins": BINS, "tasks": tasks}, file, indent=1)
    return path


def load_temperatures(run: Path, checkpoint: Path, data_key: str, overrides: Sequence[str]) -> dict[str, float]:
    """Task -> temperature of this checkpoint; empty where it was never calibrated. Arguments: :func:`save_calibration`.

    Other settings of the data than those of the calibration are told: images may be prepared otherwise, so that the
    temperatures do not fit; or only lie elsewhere now.
    """
    path = _path(run, checkpoint)
    content = read_json(path)
    if not content:
        return {}
    if content.get("checkpoint") != file_digest(checkpoint):
        log.warning("%s is of another checkpoint than %s, and is not used; calibrate again", path, checkpoint)
        return {}
    if "data" not in content:
        log.warning("%s does not say which data it was fitted on; it is used; calibrate again to be sure", path)
    elif content["data"] != data_key:
        log.warning(
            "the temperatures of %s were fitted with other settings of the data (overrides there: %s; here: %s). They "
            "are used; where images are prepared otherwise, run mola-eval calibrate=true with these overrides, or say "
            "calibration=none",
            path,
            content.get("overrides", "not said"),
            list(overrides),
        )
    return {name: float(values["temperature"]) for name, values in content["tasks"].items()}
