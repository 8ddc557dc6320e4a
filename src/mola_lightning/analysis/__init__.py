"""Reads run folders and says what they show: tables of methods, routing, conflict between tasks, figures."""

from mola_lightning.analysis.conflict import conflict_statistics, cosine_matrix, magnitude_similarity, task_gradients
from mola_lightning.analysis.figures import draw_comparison
from mola_lightning.analysis.plots import (
    comparison_bars,
    comparison_costs,
    comparison_dots,
    confusion_matrix,
    cosine_heatmap,
    learning_curves,
    mixing_heatmap,
    routing_panels,
    save,
)
from mola_lightning.analysis.records import Records, draw_run, read_metrics
from mola_lightning.analysis.relative import mean_rank
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
from mola_lightning.analysis.significance import holm, paired_differences
from mola_lightning.analysis.tables import to_csv, to_latex, to_markdown, to_rich

__all__ = [
    "Records",
    "Run",
    "comparison",
    "comparison_bars",
    "comparison_costs",
    "comparison_dots",
    "conflict_statistics",
    "confusion_matrix",
    "cosine_heatmap",
    "cosine_matrix",
    "dead_experts",
    "draw_comparison",
    "draw_run",
    "effective_experts",
    "entropy",
    "holm",
    "learning_curves",
    "load_runs",
    "magnitude_similarity",
    "mean_mixing",
    "mean_rank",
    "mixing_heatmap",
    "mutual_information",
    "normalised_mutual_information",
    "paired_differences",
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
