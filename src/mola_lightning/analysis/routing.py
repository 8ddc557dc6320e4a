"""What a router does with the tasks, measured on mixing weights (N, E) and task ids (N,).

All statistics come from the joint distribution of task and expert, the soft assignment of samples to experts:
``p(t, e) = 1/N sum_n 1[task_n = t] mixing[n, e]``. Rows are normalised to sum to one first, so that the ungated sum of
experts (all weights one) counts as uniform use.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mola_lightning.core.errors import DataError

FloatArray: TypeAlias = NDArray[np.float64]
ArrayLike: TypeAlias = Tensor | NDArray[np.generic] | list[list[float]] | list[int]


def mean_mixing(mixing: ArrayLike, task_ids: ArrayLike, num_tasks: int | None = None) -> FloatArray:
    """The average mixing weights of each task's samples.

    Args:
        mixing: (N, E) weights, finite and not negative, each row with a positive sum.
        task_ids: (N,) integers in 0..T-1.
        num_tasks: T; the largest id + 1 by default.

    Returns:
        (T, E); each row sums to one, or is NaN for a task without samples.

    Raises:
        DataError: when shapes disagree, there is no row, or weights are no mixing weights.
    """
    return conditional(joint_distribution(mixing, task_ids, num_tasks))


def mutual_information(mixing: ArrayLike, task_ids: ArrayLike) -> float:
    """I(task; expert) in bits: 0 when all tasks use the experts alike, H(task) when the expert tells the task."""
    return joint_mutual_information(joint_distribution(mixing, task_ids))


def normalised_mutual_information(mixing: ArrayLike, task_ids: ArrayLike) -> float:
    """I(task; expert) / H(task), in 0..1; 0 when there is one task only, as there is nothing to tell apart."""
    return _normalised(joint_distribution(mixing, task_ids))


def entropy(probabilities: ArrayLike) -> float:
    """The entropy in bits of one distribution (K,) whose entries are not negative and sum to one."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[p > 0]
    return float(max(0.0, -(p * np.log2(p)).sum()))


def usage(mixing: ArrayLike) -> FloatArray:
    """(E,) the share of each expert over all samples; sums to one."""
    weights = _weights(mixing)
    return weights.mean(axis=0)


def effective_experts(mixing: ArrayLike) -> float:
    """The exponential of the entropy of the mean usage: E when all are used equally, 1 when one expert does it all."""
    return float(2.0 ** entropy(usage(mixing)))


def dead_experts(mixing: ArrayLike, threshold: float = 0.01) -> list[int]:
    """The experts whose usage is below ``threshold`` times their fair share of 1/E."""
    return idle(usage(mixing), threshold)


def idle(shares: FloatArray, threshold: float = 0.01) -> list[int]:
    """:func:`dead_experts` from usage shares (E,) that sum to one."""
    return [int(e) for e in np.flatnonzero(shares * len(shares) < threshold)]


def row_entropy(mixing: ArrayLike) -> FloatArray:
    """(N,) the entropy in bits of each row's mixture: 0 for one expert, log2(E) for an even mixture."""
    return np.array([entropy(row) for row in _weights(mixing)])


def silhouette(mixing: ArrayLike, task_ids: ArrayLike) -> float:
    """How well the tasks form clusters in the space of mixing weights, in -1..1 (Rousseeuw 1987, Euclidean distance).

    1: tight and far apart; 0: overlapping; below: images are nearer to another task's mixtures than to their own's.
    NaN where it is not defined: with one task only, or a task for each row.
    """
    weights, ids = _weights(mixing), np.asarray(task_ids)
    if not 2 <= len(np.unique(ids)) < len(ids):
        return float("nan")
    from sklearn.metrics import silhouette_score  # imported where it is used: most commands do without

    return float(silhouette_score(weights, ids))


def routing_statistics(mixing: ArrayLike, task_ids: ArrayLike, num_tasks: int | None = None) -> dict[str, object]:
    """The ``routing`` entry of a run's summary, ready for JSON.

    Args:
        mixing: (N, E) mixing weights.
        task_ids: (N,) integers in 0..T-1.
        num_tasks: T; the largest id + 1 by default.

    Returns:
        ``mutual_information_bits``, ``normalised_mutual_information``, ``entropy_bits`` (of the mean usage),
        ``effective_experts`` and ``mixing``, the (T, E) mean mixing weights as lists (None for a task without samples).
    """
    return joint_statistics(joint_distribution(mixing, task_ids, num_tasks))


def joint_distribution(mixing: ArrayLike, task_ids: ArrayLike, num_tasks: int | None = None) -> FloatArray:
    """p(t, e), (T, E), summing to one."""
    weights, ids = _weights(mixing), np.asarray(task_ids).astype(np.int64)
    if ids.shape != weights.shape[:1]:
        raise DataError(f"each row of mixing weights needs one task id: {weights.shape[0]} rows, ids {ids.shape}")
    count = int(ids.max()) + 1 if num_tasks is None else num_tasks
    if ids.min() < 0 or ids.max() >= count:
        raise DataError(f"task ids must lie in 0..{count - 1}, found {int(ids.min())}..{int(ids.max())}")
    joint = np.zeros((count, weights.shape[1]))
    np.add.at(joint, ids, weights)
    return joint / len(weights)


def conditional(joint: FloatArray) -> FloatArray:
    """p(e | t), (T, E), from the joint p(t, e) or any multiple of it; NaN rows for tasks of probability zero."""
    totals = joint.sum(axis=1, keepdims=True)
    return np.divide(joint, totals, out=np.full_like(joint, np.nan), where=totals > 0)


def joint_mutual_information(joint: FloatArray) -> float:
    """I(task; expert) in bits from p(t, e)."""
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    used = joint > 0
    return float(max(0.0, (joint[used] * np.log2(joint[used] / independent[used])).sum()))


def joint_statistics(joint: FloatArray) -> dict[str, object]:
    """:func:`routing_statistics` from p(t, e), for callers that accumulate it batch by batch."""
    usage_entropy = entropy(joint.sum(axis=0))
    rows = [[None if np.isnan(share) else float(share) for share in row] for row in conditional(joint)]
    return {
        "mutual_information_bits": joint_mutual_information(joint),
        "normalised_mutual_information": _normalised(joint),
        "entropy_bits": usage_entropy,
        "effective_experts": float(2.0**usage_entropy),
        "mixing": rows,
    }


def _normalised(joint: FloatArray) -> float:
    task_entropy = entropy(joint.sum(axis=1))
    return joint_mutual_information(joint) / task_entropy if task_entropy > 0 else 0.0


def _weights(mixing: ArrayLike) -> FloatArray:
    """(N, E) float64 rows that sum to one."""
    if isinstance(mixing, Tensor):
        mixing = mixing.detach().float().cpu().numpy()  # float(): numpy knows no bfloat16
    weights = np.asarray(mixing, dtype=np.float64)
    if weights.ndim != 2 or 0 in weights.shape:
        raise DataError(
            f"mixing weights must be (N, E) with at least one row and one expert, got shape {weights.shape}"
        )
    sums = weights.sum(axis=1, keepdims=True)
    if not np.isfinite(weights).all() or (weights < 0).any() or (sums <= 0).any():
        raise DataError(
            "mixing weights must be finite, not negative, and not all zero in a row; "
            "a router whose training diverged gives others: look at the learning curves"
        )
    return weights / sums
