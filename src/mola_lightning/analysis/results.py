"""From runs to numbers: one row per run, one row per method."""

import math
from collections.abc import Sequence

import pandas as pd

from mola_lightning.analysis.relative import SINGLE_TASK, delta_m, mean_rank
from mola_lightning.analysis.runs import Run, comparable, load_runs, number, problems
from mola_lightning.analysis.significance import paired_differences
from mola_lightning.core.errors import ConfigError, RunFolderError, one_of

__all__ = ["SINGLE_TASK", "SORTS", "Run", "comparison", "load_runs", "problems", "scores", "upwards"]

SORTS = ("mean", "rank", "delta_m", "name")


def scores(runs: Sequence[Run], metric: str | None = None) -> pd.DataFrame:
    """One row per finished run: method, seed, a column per task, their mean, ``delta_m``, and what it cost.

    Args:
        runs: runs on one data set; those that :func:`comparable` leaves out are ignored.
        metric: a metric of the test results; None takes each task's own monitor.

    Returns:
        The table. ``attrs`` holds ``data``, ``tasks``, ``metrics`` (task -> metric), ``higher_is_better`` (task ->
        bool or None) and ``headline``: the one column that stands for a method, ``mean``, else ``delta_m``, else None.
        ``mean`` is missing where a task's score is, and where tasks are measured by different metrics.
        ``delta_m`` always uses the monitors; it exists when there are runs of ``single_task`` and of other methods.
        Costs: ``parameters``, ``multiply_adds`` of a forward pass per image, ``step_time_s``.

    Raises:
        RunFolderError: when no run is finished.
        ConfigError: when runs are on several data sets, or none has the metric, or any test score.
    """
    done = comparable(runs)
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
        measured = sorted({name for run in done for task in tasks for name in run.summary["test"].get(task) or {}})
        raise ConfigError(f"no run has the metric {metric!r}; the test results have {', '.join(measured) or 'none'}")
    if table[tasks].isna().all(axis=None):
        raise ConfigError(
            f"no run on {data[0]} has a test score; were they trained with test=false? Train with test=true to compare"
        )
    same = len(set(metrics.values())) == 1
    table["mean"] = table[tasks].mean(axis=1, skipna=False) if same else math.nan
    if SINGLE_TASK in set(table["method"]) and set(table["method"]) != {SINGLE_TASK}:
        table["delta_m"] = delta_m(done)
    table["parameters"] = [number((run.summary.get("parameters") or {}).get("total")) for run in done]
    table["multiply_adds"] = [number(run.summary.get("multiply_adds")) for run in done]
    table["step_time_s"] = [number((run.summary.get("step_time_s") or {}).get("median")) for run in done]
    directions = {task: run.higher_is_better(task, metrics[task]) for task, run in first.items()}
    known = (name for name in ("mean", "delta_m") if name in table and table[name].notna().any())
    table.attrs = {
        "data": data[0],
        "tasks": tasks,
        "metrics": metrics,
        "higher_is_better": directions,
        "headline": next(known, None),
    }
    return table


def comparison(
    runs: Sequence[Run],
    metric: str | None = None,
    methods: Sequence[str] | None = None,
    *,
    baseline: str | None = None,
    sort: str | None = None,
    cost: bool = False,
) -> pd.DataFrame:
    """One row per method: mean, sample standard deviation (ddof = 1) and number of runs, of each column of ``scores``.

    Args:
        runs: runs on one data set.
        metric: see :func:`scores`.
        methods: the rows wanted, in order; by default all, in order of first appearance.
        baseline: a method that all rows are compared with, seed by seed; see :func:`paired_differences`. It need not
            be a row itself.
        sort: ``mean``, ``rank`` or ``delta_m``, the best first and missing values last, or ``name``; equal rows stay
            as they are found.
        cost: with ``multiply_adds`` and, if there is a baseline, the ratio of step times.

    Returns:
        Index ``method``; columns (name, statistic) with statistics ``mean``, ``std`` (NaN for one seed) and ``n``.
        Names: the tasks; ``mean``; ``rank`` among the rows (see :func:`mean_rank`) if there are several; ``delta_m``
        if any; ``vs <baseline>`` with the statistics of :func:`paired_differences`, of ``mean`` or, where tasks are
        measured by different metrics, of ``delta_m``; ``parameters``, ``multiply_adds``, ``step_time_s`` and
        ``step_time_ratio``. ``attrs`` as in :func:`scores`, and ``baseline``.

    Raises:
        RunFolderError, ConfigError: see :func:`scores`; and when a method is unknown, or a column that is asked for
            cannot be made.
    """
    table = scores(runs, metric)
    found = list(dict.fromkeys(table["method"]))
    unknown = [method for method in [*(methods or ()), *([baseline] if baseline else ())] if method not in found]
    if unknown:
        raise ConfigError(
            f"no finished run of {', '.join(dict.fromkeys(unknown))} on {table.attrs['data']}; "
            f"there are runs of {', '.join(found)}"
        )
    rows = list(dict.fromkeys(methods or found))
    shown = table[table["method"].isin(rows)]
    parts = {name: _statistics(shown, name) for name in [*table.attrs["tasks"], "mean"]}
    if len(rows) > 1:
        ranks = mean_rank(shown, table.attrs["higher_is_better"]).reset_index()
        parts["rank"] = _statistics(ranks, "rank")
    if "delta_m" in table:
        parts["delta_m"] = _statistics(shown, "delta_m")
    if baseline:
        parts[f"vs {baseline}"] = _versus(table, rows, baseline)
    for name in ("parameters", *(["multiply_adds"] if cost else []), "step_time_s"):
        parts[name] = _statistics(shown, name)
    if cost and baseline:
        ratio = parts["step_time_s"]["mean"] / table.loc[table["method"] == baseline, "step_time_s"].mean()
        parts["step_time_ratio"] = pd.DataFrame({"mean": ratio, "std": math.nan, "n": parts["step_time_s"]["n"]})
    summary = pd.concat(parts, axis=1, names=["name", "statistic"]).loc[rows].rename_axis(index="method")
    summary.attrs = dict(table.attrs) | {"baseline": baseline}
    return summary.loc[_order(summary, sort)] if sort else summary


def upwards(df: pd.DataFrame, name: str) -> bool | None:
    """Whether larger is better in a column; None when nothing is better, or nobody said."""
    directions = df.attrs.get("higher_is_better", {})
    if name == "mean":
        all_tasks = set(directions.values())
        return all_tasks.pop() if len(all_tasks) == 1 else None
    return {"delta_m": True, "rank": False}.get(name, directions.get(name))


def _statistics(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table.groupby("method", sort=False)[name].agg(mean="mean", std="std", n="count")


def _versus(table: pd.DataFrame, rows: Sequence[str], baseline: str) -> pd.DataFrame:
    """The rows against the baseline; p-values are corrected over the rows, not over methods that are not shown."""
    score = table.attrs["headline"]
    if score is None:
        raise ConfigError(
            f"methods cannot be compared with {baseline}: no run has a mean over tasks (a task is missing, or tasks "
            "are measured by different metrics) or a Δm; choose one metric, or add runs of single_task"
        )
    return paired_differences(table[table["method"].isin([*rows, baseline])], baseline, score).loc[rows]


def _order(summary: pd.DataFrame, sort: str) -> list[str]:
    one_of("sort", sort, SORTS)
    if sort == "name":
        return sorted(summary.index)
    direction = upwards(summary, sort)
    if sort not in summary or summary[(sort, "mean")].isna().all() or direction is None:
        needs = {"mean": "one metric for all tasks", "rank": "several methods", "delta_m": "runs of single_task"}[sort]
        raise ConfigError(
            f"rows on {summary.attrs['data']} cannot be sorted by {sort}, which none of them has: it needs {needs}, "
            "and metrics of known direction"
        )
    return list(summary[(sort, "mean")].sort_values(ascending=not direction, kind="stable").index)
