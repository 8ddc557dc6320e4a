"""Several runs side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd

from mola_lightning.analysis import plots
from mola_lightning.analysis.looks import Result
from mola_lightning.analysis.similarity import cka_matrix, features_as_themselves
from mola_lightning.analysis.stages import ALL
from mola_lightning.analysis.subject import Subject
from mola_lightning.core import ConfigError
from mola_lightning.core.files import atomic_write

MI = "normalised_mutual_information"


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

    ``conflict_runs``: conflict by stage, a line for each run. ``routing_runs``: mean mixing weights of each run that
    routes, with TwD and without for example, and the statistics; ``routing_runs_scatter``: their images in the space of
    mixing weights, each run in a plane of its own. ``similarity_runs``: linear CKA of each stage of one run with each
    of the other, on the same images, for every pair of runs.

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
        results["conflict"] = compare_conflict(known, folder)
    routed = {s.label: found[s.label]["routing"] for s in subjects if "routing" in looks}
    routed = {label: result for label, result in routed.items() if result.mixing is not None}
    if len(routed) > 1:
        results["routing"] = _routing(routed, subjects[0].names, folder)
    if "similarity" in looks:
        results["similarity"] = _similarity(subjects, folder)
    return results


def compare_conflict(tables: Mapping[str, pd.DataFrame], folder: Path) -> Result:
    """``conflict_runs``: conflict by stage, a line for each table.

    Args:
        tables: label -> what the look at a run gave, or :func:`conflict_over_seeds` made of several.
        folder: where results go.
    """
    path = folder / "conflict_runs.csv"
    with atomic_write(path) as file:
        pd.concat(tables, names=["run"]).to_csv(file)
    means = {label: float(table.loc[ALL, "mean_cosine"]) for label, table in tables.items()}
    return Result(
        [(f"mean cosine of task gradients: {label}", f"{value:.3f}") for label, value in means.items()],
        [path, plots.save(plots.conflict_by_stage(tables), folder / "conflict_runs")],
        numbers={f"{label}/mean_cosine": value for label, value in means.items()},
    )


def _routing(routed: Mapping[str, Result], tasks: Sequence[str], folder: Path) -> Result:
    path = folder / "routing_runs.csv"
    tables = {label: result.table for label, result in routed.items() if result.table is not None}
    with atomic_write(path) as file:
        pd.concat(tables, names=["run"]).reset_index("run").to_csv(file, index=False)
    panels = [(label, result.mixing) for label, result in routed.items() if result.mixing is not None]
    files = [path, plots.save(plots.routing_panels(panels, tasks), folder / "routing_runs")]
    clouds = [replace(r.cloud, title=label) for label, r in routed.items() if r.cloud is not None]
    if len(clouds) > 1:
        files.append(plots.save(plots.scatter_panels(clouds), folder / "routing_runs_scatter"))
    told = {label: result.numbers[MI] for label, result in routed.items()}
    findings = [(f"I(task; expert) / H(task): {label}", f"{value:.3f}") for label, value in told.items()]
    return Result(findings, files, numbers={f"{label}/{MI}": value for label, value in told.items()})


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
        result.numbers[f"{first}~{second}/cka_of_outputs"] = float(matrix[-1, -1])
        result.findings.append((f"CKA of outputs: {first} and {second}", f"{matrix[-1, -1]:.3f}"))
    return result
