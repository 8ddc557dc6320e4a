"""Runs side by side without task ids: how often each finds the task, and what that costs its answers."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from mola_lightning.analysis.tables import markdown_rows
from mola_lightning.prediction.agnostic import Accuracies

KNOWN = "task_id"


class Evaluated(NamedTuple):
    """A run, and what :func:`target_agnostic_accuracy` found of it."""

    method: str
    seed: int
    found: dict[str, Accuracies]


def agnostic_frame(runs: Iterable[Evaluated]) -> pd.DataFrame:
    """Every number: a row for each run, way to choose and task (``mean`` included), in percent.

    Columns: ``method``, ``seed``, ``chosen_by``, ``task``, ``task_found`` (how often the task was the right one),
    ``known`` (accuracy with the task id) and ``accuracy`` (without).
    """
    rows = [
        {
            "method": run.method,
            "seed": run.seed,
            "chosen_by": way,
            "task": task,
            "task_found": 100 * values["task_accuracy"],
            "known": 100 * run.found[KNOWN][task]["accuracy"],
            "accuracy": 100 * values["accuracy"],
        }
        for run in runs
        for way, tasks in run.found.items()
        if way != KNOWN
        for task, values in tasks.items()
    ]
    return pd.DataFrame(rows)


def agnostic_markdown(frame: pd.DataFrame) -> str:
    """A row for each method and way to choose: mean ± standard deviation over seeds, the best mean accuracy first."""
    tasks = list(dict.fromkeys(frame["task"]))  # the mean comes last
    table = []
    for (method, way), rows in frame.groupby(["method", "chosen_by"], sort=False):
        of_mean = rows[rows["task"] == "mean"]
        cells = [_spread(of_mean[column]) for column in ("task_found", "known")]
        cells += [_spread(rows.loc[rows["task"] == task, "accuracy"]) for task in tasks]
        table.append((float(of_mean["accuracy"].mean()), [str(method), str(way), *cells]))
    header = ["method", "task chosen by", "task found", "with task id", *tasks]
    ordered = [cells for _, cells in sorted(table, key=lambda row: -row[0])]
    return markdown_rows([header, *ordered], words=2)


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
