"""Matrices as a training goes on, read back from what was logged."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PANELS = 8  # more epochs than that are thinned, first and last always shown


def mixing_by_epoch(metrics: pd.DataFrame, tasks: Sequence[str]) -> list[tuple[str, NDArray[np.float64]]]:
    """(title, (T, E) mean mixing weights) of some validations, in their order; empty when none was monitored.

    Args:
        metrics: a run's metrics.csv with the columns ``routing/<task>/expert_<e>`` that a RoutingMonitor logs.
        tasks: the T names.
    """
    found = [re.fullmatch(r"routing/.+/expert_(\d+)", str(column)) for column in metrics.columns]
    experts = max((int(match.group(1)) for match in found if match), default=-1) + 1
    if not experts:
        return []
    columns = [f"routing/{task}/expert_{e}" for task in tasks for e in range(experts)]
    known = metrics.reindex(columns=["epoch", *columns])
    known = known[known[columns].notna().any(axis=1)].sort_values("epoch", kind="stable")
    picked = np.unique(np.linspace(0, len(known) - 1, min(PANELS, len(known))).round().astype(int))
    return [
        (f"epoch {int(row['epoch']) + 1}", row[columns].to_numpy(dtype=float).reshape(len(tasks), experts))
        for _, row in known.iloc[picked].iterrows()
    ]
