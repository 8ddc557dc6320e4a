"""What a test leaves behind for the figures: ``<run>/analysis/records.npz``, and the figures drawn from it."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mola_lightning.analysis import plots
from mola_lightning.core.errors import RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import ANALYSIS, FIGURES, METRICS

RECORDS = Path(ANALYSIS) / "records.npz"


@dataclass
class Records:
    """Measurements of one test.

    Attributes:
        tasks: task names, in task order.
        confusion: task name -> (classes, classes) counts, rows are true classes; discrete tasks only.
        class_names: task name -> names of its classes, for tasks that have them.
        mean_mixing: (T, E) mean mixing weights, NaN for a task without samples; None when nothing was routed.
        mixing: (n, E) mixing weights of some test rows, and ``mixing_task_ids`` (n,) their tasks; None likewise.
        cosine: (T, T) cosines between task gradients, NaN where there is none; None when not measured.
    """

    tasks: tuple[str, ...]
    confusion: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    mean_mixing: NDArray[np.float64] | None = None
    mixing: NDArray[np.float32] | None = None
    mixing_task_ids: NDArray[np.int64] | None = None
    cosine: NDArray[np.float64] | None = None

    def save(self, folder: Path | str) -> Path:
        """Write them into the run folder."""
        arrays: dict[str, Any] = {"tasks": np.array(self.tasks, dtype=np.str_)}
        arrays |= {f"confusion_{name}": matrix for name, matrix in self.confusion.items()}
        arrays |= {f"classes_{name}": np.array(names, dtype=np.str_) for name, names in self.class_names.items()}
        for name in ("mean_mixing", "mixing", "mixing_task_ids", "cosine"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        path = Path(folder) / RECORDS
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, **arrays)
        return path

    @classmethod
    def load(cls, folder: Path | str) -> "Records":
        """Read them from the run folder.

        Raises:
            RunFolderError: when the run was not tested, or its file is damaged.
        """
        path = Path(folder) / RECORDS
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            tasks = tuple(map(str, arrays["tasks"]))
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} does not exist; it is written when a run is tested") from error
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RunFolderError(f"{path} is damaged ({error}); test the run again to write it anew") from error
        return cls(
            tasks,
            {name: arrays[f"confusion_{name}"] for name in tasks if f"confusion_{name}" in arrays},
            {name: tuple(map(str, arrays[f"classes_{name}"])) for name in tasks if f"classes_{name}" in arrays},
            *(arrays.get(name) for name in ("mean_mixing", "mixing", "mixing_task_ids", "cosine")),
        )


def read_metrics(folder: Path | str) -> pd.DataFrame | None:
    """The run's metrics.csv; None when there is none, or no row in it yet.

    Raises:
        RunFolderError: when the file cannot be read as a table.
    """
    path = Path(folder) / METRICS
    try:
        table = pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path} as a table: {error}") from error
    return table if len(table) else None


def draw_run(folder: Path | str) -> list[Path]:
    """Draw all figures that the files of a run allow, into ``<run>/figures``.

    ``learning_curves`` from metrics.csv, and where they were monitored ``conflict`` and ``routing_over_training``;
    ``mixing_weights``, ``gradient_cosine`` and ``confusion_<task>`` from records.

    Returns:
        The PNG files written; an SVG lies beside each.
    """
    folder = Path(folder)
    figures: dict[str, plots.Figure] = {}
    metrics = read_metrics(folder)
    records = Records.load(folder) if (folder / RECORDS).exists() else None
    if metrics is not None:
        tasks = records.tasks if records else _tasks_in(metrics)
        figures["learning_curves"] = plots.learning_curves(metrics, tasks)
        if plots.has_conflict(metrics.columns):
            figures["conflict"] = plots.conflict_curves(metrics)
        if panels := plots.mixing_by_epoch(metrics, tasks):
            figures["routing_over_training"] = plots.routing_panels(panels, tasks)
    if records is not None:
        figures |= _record_figures(records)
    return [plots.save(figure, folder / FIGURES / name) for name, figure in figures.items()]


def _record_figures(records: Records) -> Mapping[str, plots.Figure]:
    figures = {
        f"confusion_{name}": plots.confusion_matrix(matrix, name, records.class_names.get(name))
        for name, matrix in records.confusion.items()
        if matrix.sum()
    }
    if records.mean_mixing is not None:
        figures["mixing_weights"] = plots.mixing_heatmap(records.mean_mixing, records.tasks)
    if records.cosine is not None:
        figures["gradient_cosine"] = plots.cosine_heatmap(records.cosine, records.tasks)
    return figures


def _tasks_in(metrics: pd.DataFrame) -> tuple[str, ...]:
    """Task names as they appear in column names ``<split>/<task>/<metric>``."""
    parts = [str(column).split("/") for column in metrics.columns]
    return tuple(dict.fromkeys(p[1] for p in parts if len(p) == 3 and p[1] != "mean" and p[2] == "loss"))
