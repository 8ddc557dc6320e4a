"""Reads run folders and says what they show: tables of methods, routing, conflict between tasks, figures."""

from mola_lightning.analysis.conflict import conflict_statistics, cosine_matrix, task_gradients
from mola_lightning.analysis.plots import (
    comparison_bars,
    confusion_matrix,
    cosine_heatmap,
    learning_curves,
    mixing_heatmap,
    routing_panels,
    save,
)
from mola_lightning.analysis.records import Records, draw_run, read_metrics
from mola_lightning.analysis.results import Run, comparison, load_runs, problems, scores
from mola_lightning.analysis.routing import (
    dead_experts,
    effective_experts,
    entropy,
    mean_mixing,
    mutual_information,
    normalised_mutual_information,
    routing_statistics,
)
from mola_lightning.analysis.tables import to_csv, to_latex, to_markdown, to_rich

__all__ = [
    "Records",
    "Run",
    "comparison",
    "comparison_bars",
    "conflict_statistics",
    "confusion_matrix",
    "cosine_heatmap",
    "cosine_matrix",
    "dead_experts",
    "draw_run",
    "effective_experts",
    "entropy",
    "learning_curves",
    "load_runs",
    "mean_mixing",
    "mixing_heatmap",
    "mutual_information",
    "normalised_mutual_information",
    "problems",
    "read_metrics",
    "routing_panels",
    "routing_statistics",
    "save",
    "scores",
    "task_gradients",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_rich",
]
