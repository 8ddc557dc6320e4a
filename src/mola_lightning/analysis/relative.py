"""Scores relative to other methods: the change against single-task training, the rank among all."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mola_lightning.analysis.runs import Run

SINGLE_TASK = "single_task"


def delta_m(runs: Sequence[Run]) -> list[float]:
    """Per run: the mean over tasks of the relative change against single-task training with the same seed, in percent.

    Positive is better (Maninis, Radosavovic and Kokkinos, CVPR 2019). Single-task runs of one seed may hold different
    tasks; a run of which a task or the seed has no baseline has no delta_m.
    """
    values: dict[tuple[int, str], list[float]] = {}
    for run in runs:
        for task in run.tasks if run.method == SINGLE_TASK else ():
            values.setdefault((run.seed, task), []).append(run.score(task, run.monitor(task)))
    baseline = {key: float(pd.Series(found).mean()) for key, found in values.items()}

    def change(run: Run, task: str) -> float:
        metric = run.monitor(task)
        base = baseline.get((run.seed, task), math.nan)
        sign = {True: 1.0, False: -1.0, None: math.nan}[run.higher_is_better(task, metric)]
        return 100.0 * sign * (run.score(task, metric) - base) / base if base else math.nan

    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    return [float(np.mean([change(run, task) if task in run.tasks else math.nan for task in tasks])) for run in runs]


def mean_rank(table: pd.DataFrame, higher_is_better: Mapping[str, bool | None]) -> pd.Series:
    """Per method and seed: the mean over tasks of the method's rank by its score, the "mean rank" of the literature.

    For example Navon et al., ICML 2022. Rank 1 is the best; methods with equal scores share the mean of their ranks.

    Args:
        table: columns ``method``, ``seed`` and one per task, of the methods to rank; see
            :func:`mola_lightning.analysis.scores`. Several runs of one method and seed count as their mean.
        higher_is_better: task -> direction of its score; None, if unknown for any task, leaves no rank at all.

    Returns:
        Values from 1 to the number of methods, indexed by (method, seed). A method is ranked among those that have a
        score of the same task and seed; NaN where it lacks a task itself, or has no other to be compared with.
    """
    pooled = table.groupby(["method", "seed"], sort=False)[list(higher_is_better)].mean()
    ranks = pd.DataFrame(index=pooled.index)
    for task, upwards in higher_is_better.items():
        scores = pooled[task].groupby("seed")
        compared = (scores.transform("count") > 1) & (upwards is not None)
        ranks[task] = scores.rank(ascending=not upwards).where(compared)
    return ranks.mean(axis=1, skipna=False).rename("rank")
