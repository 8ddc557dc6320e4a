"""Is a difference between two methods more than the luck of their seeds? Paired t tests with Holm's correction."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

STATISTICS = ("mean", "std", "n", "ci_low", "ci_high", "p", "p_holm")
CONFIDENCE = 0.95
FEWEST = 2  # pairs that a spread can be computed of
RESOLUTION = 1e-6  # of scores, relative: they were measured in single precision


def paired_differences(table: pd.DataFrame, baseline: str, score: str = "mean") -> pd.DataFrame:
    """Every method against one, over the seeds that both have: what the seed decides is in both and cancels.

    Args:
        table: one row per run with columns ``method``, ``seed`` and ``score``; see
            :func:`mola_lightning.analysis.scores`. Several runs of one method and seed count as their mean.
        baseline: the method that the others are compared with.
        score: the column to compare.

    Returns:
        A row per method, the baseline's own empty. Columns: ``mean`` and ``std`` (ddof = 1) of the differences,
        method minus baseline; ``n``, the number of pairs; ``ci_low`` and ``ci_high``, the 95 % confidence interval of
        the mean difference (t distribution, not corrected); ``p`` of a two-sided paired t test; ``p_holm``, corrected
        over the methods that were tested. All but ``n`` is NaN with fewer than two pairs. Where all differences are
        equal there is no spread to judge them by: their interval and p-value are NaN.
    """
    by_seed = table.groupby(["method", "seed"], sort=False)[score].mean().unstack("seed")
    rows = {}
    for method in by_seed.index:
        pairs = by_seed.loc[[method, baseline]].to_numpy(dtype=np.float64)
        paired = pairs[:, np.isfinite(pairs).all(axis=0)]
        rows[method] = _empty(0) if method == baseline else _compare(paired[0], paired[1])
    found = pd.DataFrame.from_dict(rows, orient="index", columns=list(STATISTICS[:-1]))
    found["p_holm"] = holm(found["p"])
    return found


def holm(p_values: Sequence[float] | pd.Series) -> NDArray[np.float64]:
    """P-values corrected for their number by Holm's step-down procedure (Holm, 1979).

    The k-th smallest of m is multiplied by m - k + 1, made no smaller than those before it, and cut at 1. NaN is no
    test: it stays NaN and does not count.
    """
    given = np.asarray(p_values, dtype=np.float64)
    corrected, order = np.full_like(given, np.nan), np.argsort(given, kind="stable")
    order = order[~np.isnan(given[order])]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * given[order]))
    return corrected


def _compare(scores: NDArray[np.float64], others: NDArray[np.float64]) -> list[float]:
    differences = scores - others
    n = len(differences)
    if n < FEWEST:
        return _empty(n)
    mean, std = float(differences.mean()), float(differences.std(ddof=1))
    size = max(np.abs(scores).max(), np.abs(others).max())
    if np.ptp(differences) <= RESOLUTION * size:
        return [mean, 0.0, n, math.nan, math.nan, math.nan]
    test = stats.ttest_rel(scores, others)
    interval = test.confidence_interval(CONFIDENCE)
    return [mean, std, n, float(interval.low), float(interval.high), float(test.pvalue)]


def _empty(n: int) -> list[float]:
    return [math.nan, math.nan, n, math.nan, math.nan, math.nan]
