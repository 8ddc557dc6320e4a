"""Several runs side by side."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from mola_lightning.analysis import plots
from mola_lightning.analysis.looks import Result
from mola_lightning.analysis.similarity import cka_matrix, features_as_themselves
from mola_lightning.analysis.subject import Subject
from mola_lightning.core import ConfigError
from mola_lightning.core.files import atomic_write


def check_comparable(subjects: Sequence[Subject]) -> None:
    """Raise :class:`ConfigError` when runs do not have the same tasks, or are of other data."""
    tasks = {subject.names for subject in subjects}
    if len(tasks) > 1:
        shown = "; ".join(", ".join(names) for names in sorted(tasks))
        raise ConfigError(f"runs side by side must have the same tasks in the same order, found: {shown}")
    sizes = {subject.label: len(subject.dataset) for subject in subjects}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"runs side by side must be of the same data; the numbers of images differ: {sizes}")


def compare_runs(
    subjects: Sequence[Subject], found: Mapping[str, Mapping[str, Result]], folder: Path
) -> dict[str, Result]:
    """Put the looks that were taken side by side.

    ``conflict_runs``: conflict by stage, a line for each run. ``similarity_<run>_<run>``: linear CKA of each stage of
    one run with each of the other, on the same images, for every pair of runs.

    Args:
        subjects: the runs, two at least.
        found: label -> look -> what it found.
        folder: where results go.
    """
    results = {}
    looks = found[subjects[0].label]
    tables = {subject.label: found[subject.label]["conflict"].table for subject in subjects if "conflict" in looks}
    known = {label: table for label, table in tables.items() if table is not None}
    if len(known) > 1:
        results["conflict"] = _conflict(known, folder)
    if "similarity" in looks:
        results["similarity"] = _similarity(subjects, folder)
    return results


def _conflict(tables: Mapping[str, pd.DataFrame], folder: Path) -> Result:
    path = folder / "conflict_runs.csv"
    with atomic_write(path) as file:
        pd.concat(tables, names=["run"]).to_csv(file)
    return Result(files=[path, plots.save(plots.conflict_by_stage(tables), folder / "conflict_runs")])


def _similarity(subjects: Sequence[Subject], folder: Path) -> Result:
    """Runs see the same images: those are drawn from the split by seed."""
    features = {subject.label: features_as_themselves(subject) for subject in subjects}
    result = Result()
    for (i, first), (j, second) in combinations(enumerate(features), 2):
        left, right = features[first], features[second]
        matrix = cka_matrix(list(left.values()), list(right.values()))
        name = "similarity_runs" if len(subjects) == 2 else f"similarity_runs_{i + 1}_{j + 1}"
        frame = pd.DataFrame(matrix, index=list(left), columns=list(right))
        path = folder / f"{name}.csv"
        with atomic_write(path) as file:
            frame.rename_axis(first).to_csv(file)
        figure = plots.matrix_panels(
            [("", matrix)], list(left), list(right), plots.Scale("linear CKA"), axis_names=(second, first)
        )
        result.files += [path, plots.save(figure, folder / name)]
        result.findings.append((f"CKA of outputs: {first} and {second}", f"{matrix[-1, -1]:.3f}"))
    return result
