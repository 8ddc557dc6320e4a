"""The looks into a trained model, each as files: what was measured, and figures of it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.analysis import plots, routing, spectra
from mola_lightning.analysis.embedding import clouds, project
from mola_lightning.analysis.forced import routes
from mola_lightning.analysis.gradients import conflict_summary, conflict_table
from mola_lightning.analysis.similarity import cka_between_tasks, features_as_each_task
from mola_lightning.analysis.stages import ALL, parameter_stages
from mola_lightning.analysis.subject import Subject, look
from mola_lightning.analysis.swap import OWN, relative_to_own, swap_table
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write

log = logging.getLogger(__name__)


ALIKE = "the images of all tasks are mixed the same: each image has all tasks, or none is looked at"


@dataclass
class Result:
    """What a look found.

    Attributes:
        findings: (what, value) in words.
        files: what was written; of a figure the PNG, beside which lies an SVG.
        note: why there is nothing, or not all.
        numbers: name -> a number that loggers can take.
        table: numbers for comparisons of several runs.
        mixing: (T, E) mean mixing weights, of the routing look.
        cloud: images in the space of mixing weights, by task, of the routing look; None where there is no plane.
    """

    findings: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    note: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    mixing: routing.FloatArray | None = None
    cloud: plots.Cloud | None = None


def conflict(subject: Subject) -> Result:
    """Cosines and lengths of the task gradients: ``conflict.csv``, ``conflict_by_stage``, and matrices of task pairs
    for all shared parameters and each group of them.
    """
    table = conflict_table(subject)
    if table.empty or table["cosine"].isna().all():
        return Result(note="no parameter is shared by two tasks that have images")
    summary = conflict_summary(table)
    opposed = table.assign(opposed=(100.0 * (table["cosine"] < 0)).where(table["cosine"].notna()))
    drawn = {
        "conflict_cosine": ("cosine", plots.Scale("cosine of task gradients", "RdBu", -1.0, 1.0), 1.0),
        "conflict_magnitude": ("magnitude_similarity", plots.Scale("magnitude similarity"), 1.0),
        "conflict_opposed": ("opposed", plots.Scale("opposed batches (%)", "magma", 0.0, 100.0, "{:.0f}"), np.nan),
    }
    names = list(subject.names)
    files = [
        _csv(table, subject.folder / "conflict.csv"),
        _csv(summary.reset_index(), subject.folder / "conflict_by_stage.csv"),
        *(
            _figure(plots.matrix_panels(_by_pair(opposed, names, column, own), names, names, scale), subject, name)
            for name, (column, scale, own) in drawn.items()
        ),
        _figure(plots.conflict_by_stage({subject.label: summary}), subject, "conflict_by_stage"),
    ]
    whole = summary.loc[ALL]
    findings = [
        ("mean cosine of task gradients", f"{whole['mean_cosine']:.3f} ± {whole['std_cosine']:.3f}"),
        ("opposed pairs", f"{100 * whole['share_negative']:.1f} % of {int(whole['pairs'])}"),
        ("magnitude similarity", f"{whole['mean_magnitude_similarity']:.3f}"),
    ]
    measured = ("mean_cosine", "share_negative", "mean_magnitude_similarity")
    numbers = {f"{group}/{name}": float(row[name]) for group, row in summary.iterrows() for name in measured}
    return Result(findings, files, numbers=numbers, table=summary)


def routing_and_features(subject: Subject) -> Result:
    """Who uses which expert, and images in the space of mixing weights and of features: ``routing``, ``features``."""
    seen, tasks = look(subject), tuple(subject.module.tasks)
    arrays: dict[str, Any] = {"tasks": np.array(subject.names), "task_ids": seen.task_ids, "classes": seen.classes}
    result = Result()
    spaces = {"features": seen.features} | ({"mixing weights": seen.mixing} if seen.mixing is not None else {})
    panels = []
    for what, values in spaces.items():
        arrays[what.replace(" ", "_")] = values
        if what != "features" and bool((values.amax(dim=1) == values.sum(dim=1)).all()):
            result.note = "one expert an image: no plane of mixtures"
        elif (found := project(values.numpy(), subject.embedding, subject.seed)) is not None:
            arrays[f"{what.replace(' ', '_')}_points"] = found[0]
            panels.append((what, clouds(what, *found, seen, tasks, seen.alike(values))))
            result.cloud = panels[-1][1][0] if what != "features" else None
    if seen.mixing is None:
        result.note = "the method does not route: features only"
    else:
        if seen.alike(seen.mixing):
            result.note = ALIKE
        numbers = _routing_numbers(seen.mixing.numpy(), seen.task_ids.numpy())
        result.numbers = {name: value for name, (_, value) in numbers.items() if isinstance(value, float)}
        result.findings = [(what, f"{v:.3f}" if isinstance(v, float) else v) for what, v in numbers.values()]
        result.table = pd.DataFrame(list(numbers.values()), columns=["statistic", "value"])
        result.files.append(_csv(result.table, subject.folder / "routing.csv"))
        result.mixing = arrays["mean_mixing"] = routing.mean_mixing(seen.mixing, seen.task_ids, len(tasks))
        result.files.append(_figure(plots.mixing_heatmap(result.mixing, subject.names), subject, "routing_mixing"))
    path = subject.folder / "routing.npz"
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    result.files.append(path)
    for what, panel in panels:
        name = {"features": "features_scatter", "mixing weights": "routing_scatter"}[what]
        result.files.append(_figure(plots.scatter_panels(panel), subject, name))
    return result


def _routing_numbers(mixing: Any, ids: Any) -> dict[str, tuple[str, Any]]:
    """Name -> (what it is in words, value)."""
    found = routing.routing_statistics(mixing, ids)
    return {
        "mutual_information_bits": ("I(task; expert) (bits)", found["mutual_information_bits"]),
        "normalised_mutual_information": ("I(task; expert) / H(task)", found["normalised_mutual_information"]),
        "entropy_bits": ("entropy of the mean usage (bits)", found["entropy_bits"]),
        "row_entropy_bits": ("mean entropy of an image's mixture (bits)", float(routing.row_entropy(mixing).mean())),
        "effective_experts": ("effective experts", found["effective_experts"]),
        "dead_experts": ("dead experts", _named(routing.dead_experts(mixing))),
        "silhouette": ("silhouette of tasks in mixing space", routing.silhouette(mixing, ids)),
    }


def _named(experts: Sequence[int]) -> str:
    """Which they are: one alone could be taken for their number."""
    return f"number{'s' * (len(experts) > 1)} {', '.join(map(str, experts))}" if experts else "none"


def experts(subject: Subject) -> Result:
    """Spectra, sizes and overlap of the experts, and distances of merged models: ``experts``, ``task_distance``."""
    architecture = subject.module.architecture
    backbone = getattr(architecture, "backbone", None)
    if not isinstance(backbone, AdaptedBackbone):
        return Result(note="the method has no low-rank experts")
    places = parameter_stages(architecture)
    stages = {path: places[id(next(layer.parameters()))] for path, layer in backbone.adapted.items()}
    found = spectra.expert_spectra(backbone.adapted, stages)
    seen = look(subject)
    distances = spectra.model_distances(found.inner, seen.task_mixing(len(subject.names)), found.weight_norm)
    table, names = found.table, [str(e) for e in range(backbone.num_experts)]
    path = subject.folder / "experts.npz"
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, angles=found.angles, inner=found.inner, distances=distances, **found.singular_values)
    shares = spectra.stage_shares(table)
    angle = plots.Scale("typical principal angle (°)", "cividis", 0.0, 90.0, "{:.0f}")
    far = plots.Scale("distance of merged models / |W|", "magma", 0.0, None, "{:.3f}")
    drawn = {
        "experts_layers": plots.expert_layers(table),
        "experts_spectra": plots.spectra_by_stage(found.singular_values, stages),
        "experts_stages": plots.stage_bars(shares),
        "experts_angles": plots.matrix_panels([("", found.angles)], names, names, angle, ("expert", "expert")),
    }
    alike = seen.mixing is not None and seen.alike(seen.mixing)
    if not alike:
        drawn["task_distance"] = plots.matrix_panels([("", distances)], subject.names, subject.names, far)
    files = [
        _csv(table, subject.folder / "experts.csv"),
        _csv(shares.reset_index(), subject.folder / "experts_stages.csv"),
        path,
        *(_figure(figure, subject, name) for name, figure in drawn.items()),
    ]
    others = found.angles[~np.eye(len(names), dtype=bool)]
    findings = [
        ("mean effective rank of an expert", f"{table['effective_rank'].mean():.2f} of {table['largest_rank'].max()}"),
        ("mean |Δ| / |W| of a layer", f"{table['relative_norm'].mean():.3f}"),
        ("angle between experts (°)", f"{_mean(others):.0f}; {found.random_angle:.0f} by chance"),
    ]
    numbers = {
        "effective_rank": float(table["effective_rank"].mean()),
        "relative_norm": float(table["relative_norm"].mean()),
        "angle_degrees": _mean(others),
        "angle_degrees_by_chance": found.random_angle,
    }
    note = f"no distance of merged models: {ALIKE}" if alike else ""
    return Result(findings, files, note, numbers)


def swap(subject: Subject) -> Result:
    """Each task's metric with each expert: ``swap``."""
    if not routes(subject.module.architecture):
        return Result(note="the method has no experts that could be exchanged")
    table = swap_table(subject.module, subject.dataset, subject.batch_size, subject.swap_images, subject.seed)
    tasks = subject.module.tasks
    monitors = {task.monitor for task in tasks}
    if len(monitors) == 1 and bool(((table >= 0) & (table <= 1)).all(axis=None)):
        shown, scale = (
            100 * table,
            plots.Scale(f"{next(iter(monitors))} (%)".replace("_", " "), "cividis", 0, 100, "{:.1f}"),
        )
    else:  # metrics of several units: what can be compared is the change
        shown = relative_to_own(table, [task.higher_is_better for task in tasks]).clip(-100, 100)
        scale = plots.Scale("change against own routing (%), at most 100", "RdBu", -100, 100, "{:.0f}")
    figure = plots.matrix_panels([("", shown)], list(table.index), list(table.columns), scale, ("task", ""))
    files = [
        _csv(table.rename_axis("routing").reset_index(), subject.folder / "swap.csv"),
        _figure(figure, subject, "swap"),
    ]
    change = relative_to_own(table, [task.higher_is_better for task in tasks]).drop(index=OWN)
    findings = [(f"best single routing of {name}", str(change[name].idxmax())) for name in change.dropna(axis=1)]
    numbers = {f"{task}/{how}": float(table.loc[how, task]) for task in table.columns for how in table.index}
    return Result(findings, files, numbers=numbers)


def similarity(subject: Subject) -> Result:
    """Linear CKA between the task models, stage by stage: ``similarity``."""
    features = features_as_each_task(subject)
    if not features:
        return Result(note="all tasks share the same features: CKA between them is 1 everywhere")
    found, names = cka_between_tasks(features), list(subject.names)
    rows = [
        (stage, first, names[b], matrix[a, b])
        for stage, matrix in found.items()
        for a, first in enumerate(names)
        for b in range(a + 1, len(names))
    ]
    table = pd.DataFrame(rows, columns=["stage", "task_a", "task_b", "cka"])
    figure = plots.matrix_panels(list(found.items()), names, names, plots.Scale("linear CKA"))
    files = [_csv(table, subject.folder / "similarity.csv"), _figure(figure, subject, "similarity")]
    means = table.groupby("stage", sort=False)["cka"].mean()
    findings = [(f"mean CKA of task models, {stage}", f"{value:.3f}") for stage, value in means.items()]
    return Result(findings, files, numbers={str(stage): float(value) for stage, value in means.items()})


LOOKS: dict[str, Callable[[Subject], Result]] = {
    "conflict": conflict,
    "routing": routing_and_features,
    "experts": experts,
    "swap": swap,
    "similarity": similarity,
}


def take(subject: Subject, name: str) -> Result:
    """One look, by its name."""
    one_of("looks", name, LOOKS)
    log.info("%s: %s", subject.label, name)
    return LOOKS[name](subject)


def _csv(table: pd.DataFrame, path: Path) -> Path:
    with atomic_write(path) as file:
        table.to_csv(file, index=False)
    return path


def _figure(figure: plots.Figure, subject: Subject, name: str) -> Path:
    return plots.save(figure, subject.folder / name)


def _by_pair(table: pd.DataFrame, names: list[str], column: str, own: float) -> list[tuple[str, np.ndarray]]:
    """(group, (T, T) means of a column over batches), ``own`` on the diagonal."""
    panels = []
    for group, rows in table.groupby("group", sort=False):
        matrix = np.full((len(names), len(names)), own)
        for (first, second), value in rows.groupby(["task_a", "task_b"])[column].mean().items():
            a, b = names.index(first), names.index(second)
            matrix[a, b] = matrix[b, a] = value
        panels.append((str(group), matrix))
    return panels


def _mean(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
