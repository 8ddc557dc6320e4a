"""Cutting a split where a benchmark has none: stratified, seeded, the same on every machine."""

from collections.abc import Mapping

import numpy as np

from mola_lightning.core import DataError
from mola_lightning.core.errors import require
from mola_lightning.core.seeding import seed_of


def stratified_split(
    labels: np.ndarray, fractions: Mapping[str, float], seed: int, groups: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Cut rows into splits, class by class.

    Args:
        labels: (N,) integers, the class of each row (or any stratum).
        fractions: split -> its part of the rows; they sum to 1.
        seed: of the cut, which is a pure function of the arguments.
        groups: (N,) integers or strings; rows of one group, such as the images of one patient, stay together.

    Returns:
        Split -> its rows, ascending. A class with at least as many rows as there are splits is in each of them; with
        groups, one with as many groups (as far as groups of several classes allow).

    Raises:
        ConfigError: for fractions that are not positive or do not sum to 1.
    """
    parts = np.array(list(fractions.values()), dtype=np.float64)
    ok = len(parts) > 0 and bool((parts > 0).all()) and abs(float(parts.sum()) - 1) < 1e-6
    require(ok, f"the fractions of the splits must be positive and sum to 1, got {dict(fractions)}")
    labels = np.asarray(labels)
    if groups is None:
        chosen = _by_rows(labels, parts, seed)
    else:
        if len(groups) != len(labels):
            raise DataError(f"{len(labels)} rows but {len(groups)} groups to keep together")
        chosen = _by_groups(labels, parts, seed, np.asarray(groups))
    return {split: np.flatnonzero(chosen == s) for s, split in enumerate(fractions)}


def _by_rows(labels: np.ndarray, parts: np.ndarray, seed: int) -> np.ndarray:
    """(N,), the split of each row."""
    chosen = np.empty(len(labels), dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    owed = np.zeros(len(parts))  # rows that each split lacks by the rounding of the classes so far
    for label, rows in zip(classes.tolist(), np.split(order, starts)[1:], strict=True):
        rng = np.random.default_rng(seed_of(seed, "split", label))
        shares = _shares(len(rows), parts, owed)
        chosen[rng.permutation(rows)] = np.repeat(np.arange(len(parts)), shares)
        owed += len(rows) * parts - shares
    return chosen


def _shares(count: int, parts: np.ndarray, owed: np.ndarray) -> np.ndarray:
    """``count`` rows in parts, rounded to where most is owed; none is empty where there are rows enough."""
    exact = count * parts
    shares = np.floor(exact + 1e-9).astype(np.int64)
    lacking = exact - shares
    if count >= len(parts):  # else a class could get into a small split alone, and nothing be trained on it
        lacking = lacking + owed
    shares[np.argsort(-lacking, kind="stable")[: count - int(shares.sum())]] += 1
    while count >= len(parts) and not shares.all():
        shares[np.argmax(shares)] -= 1
        shares[np.argmin(shares)] += 1
    return shares


def _by_groups(labels: np.ndarray, parts: np.ndarray, seed: int, groups: np.ndarray) -> np.ndarray:
    """(N,), the split of each row: group by group, the largest first, to where its classes are wanted most.

    A split that lacks a class altogether comes first, as long as the class has groups for the others too.
    """
    _, label_of = np.unique(labels, return_inverse=True)
    _, group_of = np.unique(groups, return_inverse=True)
    num_groups, num_classes = int(group_of.max(initial=-1)) + 1, int(label_of.max(initial=-1)) + 1
    # The classes of a group, as (class, rows) pairs: a table of all groups and classes would be mostly zeros.
    pairs, rows_in = np.unique(group_of * num_classes + label_of, return_counts=True)
    class_of, first = pairs % num_classes, np.searchsorted(pairs // num_classes, np.arange(num_groups + 1))
    totals = np.bincount(label_of, minlength=num_classes)
    wanted = parts[:, None] * totals  # rows that each split (S, classes) still wants
    left = np.bincount(class_of, minlength=num_classes)  # groups of a class that have no split yet
    spread = left >= len(parts)  # classes that can be in all splits
    absent = np.ones(wanted.shape, dtype=bool)
    order = np.random.default_rng(seed_of(seed, "split groups")).permutation(num_groups)
    split_of = np.empty(num_groups, dtype=np.int64)
    for group in order[np.argsort(-np.bincount(group_of, minlength=num_groups)[order], kind="stable")]:
        here = slice(first[group], first[group + 1])
        classes, counts = class_of[here], rows_in[here]
        urgent = absent[:, classes] & spread[classes] & (left[classes] <= absent[:, classes].sum(axis=0))
        gain = (counts * wanted[:, classes] / totals[classes]).sum(axis=1)
        split = int(np.lexsort((gain, urgent.sum(axis=1)))[-1])
        split_of[group] = split
        wanted[split, classes] -= counts
        absent[split, classes] = False
        left[classes] -= 1
    return split_of[group_of]
