"""From runs to numbers: one row per run, one row per method, relative change against single-task training."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mola_lightning.analysis.runs import Run, load_runs, number, problems
from mola_lightning.core.errors import ConfigError, RunFolderError

__all__ = ["BASELINE", "Run", "comparison", "load_runs", "problems", "scores"]

BASELINE = "single_task"


def scores(runs: Sequence[Run], metric: str | None = None) -> pd.DataFrame:
    """One row per finished run: method, seed, a column per task, their mean, ``delta_m``, parameters and step time.

    Args:
        runs: runs on one data set; unfinished and broken ones are ignored.
        metric: a metric of the test results; None takes each task's own monitor.

    Returns:
        The table. ``attrs`` holds ``data``, ``tasks``, ``metrics`` (task -> metric) and ``higher_is_better`` (task ->
        bool or None). ``mean`` is missing where a task's score is, and where tasks are measured by different metrics.
        ``delta_m`` always uses the monitors; it exists when there are runs of ``single_task`` and of other methods.

    Raises:
        RunFolderError: when no run is finished.
        ConfigError: when runs are on several data sets, or none has the metric.
    """
    done = [run for run in runs if run.state == "done"]
    if not done:
        raise RunFolderError("none of the runs is finished and readable. " + " ".join(problems(runs)))
    data = list(dict.fromkeys(run.data for run in done))
    if len(data) > 1:
        raise ConfigError(
            f"runs on different data cannot share a table, found {', '.join(data)}; compare one at a time"
        )
    tasks = list(dict.fromkeys(task for run in done for task in run.tasks))
    first = {task: next(run for run in done if task in run.tasks) for task in tasks}
    metrics = {task: metric or run.monitor(task) for task, run in first.items()}
    table = pd.DataFrame(
        [{"method": r.method, "seed": r.seed} | {t: r.score(t, metrics[t]) for t in tasks} for r in done],
        columns=["method", "seed", *tasks],
    )
    if metric is not None and table[tasks].isna().all(axis=None):
        known = sorted({name for run in done for task in tasks for name in run.summary["test"].get(task) or {}})
        raise ConfigError(f"no run has the metric {metric!r}; the test results have {', '.join(known) or 'none'}")
    same = len(set(metrics.values())) == 1
    table["mean"] = table[tasks].mean(axis=1, skipna=False) if same else math.nan
    if BASELINE in set(table["method"]) and set(table["method"]) != {BASELINE}:
        table["delta_m"] = _delta_m(done)
    table["parameters"] = [number((run.summary.get("parameters") or {}).get("total")) for run in done]
    table["step_time_s"] = [number((run.summary.get("step_time_s") or {}).get("median")) for run in done]
    directions = {task: run.higher_is_better(task, metrics[task]) for task, run in first.items()}
    table.attrs = {"data": data[0], "tasks": tasks, "metrics": metrics, "higher_is_better": directions}
    return table


def comparison(runs: Sequence[Run], metric: str | None = None, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per method: mean, sample standard deviation (ddof = 1) and number of runs, of each column of ``scores``.

    Args:
        runs: runs on one data set.
        metric: see :func:`scores`.
        methods: the rows wanted, in order; by default all, in order of first appearance.

    Returns:
        Index ``method``; columns (name, statistic) with statistics ``mean``, ``std`` (NaN for one seed) and ``n``.
        Names: the tasks, ``mean``, ``delta_m`` if any, ``parameters``, ``step_time_s``. ``attrs`` as in :func:`scores`.
    """
    table = scores(runs, metric)
    found = list(dict.fromkeys(table["method"]))
    unknown = [method for method in methods or () if method not in found]
    if unknown:
        raise ConfigError(f"no finished run of {', '.join(unknown)}; there are runs of {', '.join(found)}")
    grouped = table.drop(columns="seed").groupby("method", sort=False)
    summary = grouped.agg(["mean", "std", "count"]).rename(columns={"count": "n"}, level=1)
    summary = summary.loc[list(methods or found)]
    summary.columns = summary.columns.set_names(["name", "statistic"])
    summary.attrs = dict(table.attrs)
    return summary


def _delta_m(runs: Sequence[Run]) -> list[float]:
    """Per run: the mean over tasks of the relative change against single-task training with the same seed, in percent.

    Positive is better (Maninis, Radosavovic and Kokkinos, CVPR 2019). Single-task runs of one seed may hold different
    tasks; a run of which a task or the seed has no baseline has no delta_m.
    """
    values: dict[tuple[int, str], list[float]] = {}
    for run in runs:
        for task in run.tasks if run.method == BASELINE else ():
            values.setdefault((run.seed, task), []).append(run.score(task, run.monitor(task)))
    baseline = {key: float(pd.Series(found).mean()) for key, found in values.items()}

    def change(run: Run, task: str) -> float:
        metric = run.monitor(task)
        base = baseline.get((run.seed, task), math.nan)
        sign = {True: 1.0, False: -1.0, None: math.nan}[run.higher_is_better(task, metric)]
        return 100.0 * sign * (run.score(task, metric) - base) / base if base else math.nan

    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    return [float(np.mean([change(run, task) if task in run.tasks else math.nan for task in tasks])) for run in runs]
