"""How results depend on one option: from the runs of a sweep over it to a table and a figure."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mola_lightning.analysis.results import scores
from mola_lightning.analysis.runs import Run
from mola_lightning.core.errors import ConfigError


def ablation(runs: Sequence[Run], option: str, values: Sequence[Any], metric: str | None = None) -> pd.DataFrame:
    """One row for each method and value of the option, in the order of the values.

    Args:
        runs: finished runs on one data set.
        option: dotted path in their configs, such as ``adapter.rank``.
        values: what each of them has there; None for one without it, which is left out.
        metric: see :func:`scores`.

    Returns:
        Columns ``method`` (without the value that ends it, as sweeps over an option name their methods), ``value``,
        ``mean``, ``std`` (ddof = 1) of the headline over seeds, and ``runs``. ``attrs``: ``data``, ``option``,
        ``headline``, ``metric``, and ``percent``, whether scores are shown in percent.

    Raises:
        ConfigError: when the option is in no run's config, has one value only, or there is no score to compare.
    """
    table = scores(runs, metric)
    headline = table.attrs["headline"]
    if headline is None:
        raise ConfigError("the tasks are measured by different metrics: choose one, or add runs of single_task for Δm")
    found = list(dict.fromkeys(values))
    if found == [None]:
        raise ConfigError(f"no run's config has the option {option}; name it as on the command line, e.g. adapter.rank")
    if len([value for value in found if value is not None]) < 2:
        raise ConfigError(f"{option} is {found[0]} in all runs; an ablation needs runs with other values of it")
    methods = [_without(method, value) for method, value in zip(table["method"], values, strict=True)]
    table = table.assign(value=pd.Series(values, index=table.index, dtype=object), method=methods)
    table = table[[value is not None for value in values]]
    found = [value for value in found if value is not None]
    groups = table.groupby(["method", "value"], sort=False)[headline]
    result = groups.agg(mean="mean", std="std", runs="count").reset_index()
    as_given = {value: value for value in found}  # pandas makes floats of numbers: 1.0 looks up the 1 that was given
    result["value"] = pd.Series([as_given[value] for value in result["value"]], dtype=object)
    order = {value: i for i, value in enumerate(sorted(found, key=_rank))}
    result = result.sort_values(["method", "value"], key=lambda c: c.map(order) if c.name == "value" else c)
    monitors = set(table.attrs["metrics"].values())
    metric = monitors.pop() if len(monitors) == 1 else "score"
    larger_is_better = all(table.attrs["higher_is_better"].values())
    result.attrs = {
        "data": table.attrs["data"],
        "option": option,
        "headline": headline,
        "metric": metric,
        "percent": headline == "mean" and larger_is_better and bool(result["mean"].between(0, 1).all()),
    }
    return result.reset_index(drop=True)


def _without(method: str, value: object) -> str:
    """The method's name without the value, where that stands apart at its end."""
    return re.sub(rf"[_+-]+{re.escape(str(value))}$", "", method)


def _rank(value: object) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))  # type: ignore[arg-type]
