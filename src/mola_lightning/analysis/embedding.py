"""Many dimensions in a plane."""

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from mola_lightning.analysis.plots.scatter import MOST, Cloud
from mola_lightning.analysis.subject import Seen
from mola_lightning.core import Task
from mola_lightning.core.errors import one_of

METHODS = ("pca", "tsne")


def project(
    values: NDArray[np.floating], method: str = "pca", seed: int = 0
) -> tuple[NDArray[np.float64], tuple[str, str]] | None:
    """Rows as points of a plane, and what its axes are.

    Args:
        values: (n, D).
        method: ``pca``; or ``tsne``, t-SNE started from it, of which only neighbourhoods mean something.
        seed: of t-SNE.

    Returns:
        Points (n, 2) and the names of the axes; None with fewer than three rows, or fewer than two dimensions.
    """
    one_of("embedding", method, METHODS)
    if len(values) < 3 or values.shape[1] < 2:
        return None
    values = np.asarray(values, dtype=np.float64)
    if method == "tsne":
        tsne = TSNE(init="pca", random_state=seed, perplexity=min(30.0, (len(values) - 1) / 3))
        return tsne.fit_transform(values).astype(np.float64), ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")
    if values.var(axis=0).sum() > 0:
        pca = PCA(n_components=2, svd_solver="full")
        points, shares = pca.fit_transform(values), 100.0 * pca.explained_variance_ratio_
    else:  # one point
        points, shares = np.zeros((len(values), 2)), np.zeros(2)
    return points, (f"PC 1 ({shares[0]:.0f} % of variance)", f"PC 2 ({shares[1]:.0f} % of variance)")


def clouds(
    what: str,
    points: NDArray[np.float64],
    axis_names: tuple[str, str],
    seen: Seen,
    tasks: tuple[Task, ...],
    alike: bool = False,
) -> list[Cloud]:
    """The panels of one projection: all points by task; by class, in one panel where tasks share their classes.

    Tasks with more classes than can be told apart get no panel of classes. Where the tasks are ``alike``, each
    has the same points, and they are drawn once.
    """
    ids, classes = seen.task_ids.numpy(), seen.classes.numpy()
    names, groups = [task.name for task in tasks], ids
    if alike:
        names, groups = ["all tasks alike"], np.where(ids == ids[0], 0, -1)
    found = [Cloud(f"{what}, by task", points, groups, names, axis_names)]
    named = {task.name: _class_names(task) for task in tasks}
    if len({tuple(names) for names in named.values()}) == 1:
        names = named[tasks[0].name]
        if len(names) <= MOST and (classes >= 0).any():
            found.append(Cloud(f"{what}, by class", points, classes, names, axis_names))
        return found
    for t, task in enumerate(tasks):
        own = np.where(ids == t, classes, -1)
        if len(named[task.name]) <= MOST and (own >= 0).any():
            found.append(Cloud(f"{what} of {task.name}, by class", points, own, named[task.name], axis_names))
    return found


def _class_names(task: Task) -> list[str]:
    return list(task.class_names) or [str(c) for c in range(task.num_outputs)]
