"""Figures as pure functions: numbers in, a matplotlib Figure out; nothing is shown, no global state is touched."""

from matplotlib.figure import Figure

from mola_lightning.analysis.plots.ablation import ablation_curves
from mola_lightning.analysis.plots.bars import comparison_bars
from mola_lightning.analysis.plots.conflict import conflict_by_stage, conflict_curves, has_conflict
from mola_lightning.analysis.plots.costs import comparison_costs
from mola_lightning.analysis.plots.curves import learning_curves
from mola_lightning.analysis.plots.dots import comparison_dots
from mola_lightning.analysis.plots.experts import expert_layers, spectra_by_stage, stage_bars
from mola_lightning.analysis.plots.heatmaps import (
    Scale,
    confusion_matrix,
    cosine_heatmap,
    matrix_panels,
    mixing_heatmap,
    routing_panels,
)
from mola_lightning.analysis.plots.over_training import mixing_by_epoch
from mola_lightning.analysis.plots.scatter import Cloud, scatter_panels
from mola_lightning.analysis.plots.style import save, write

__all__ = [
    "Cloud",
    "Figure",
    "ablation_curves",
    "Scale",
    "comparison_bars",
    "comparison_costs",
    "comparison_dots",
    "conflict_by_stage",
    "conflict_curves",
    "confusion_matrix",
    "cosine_heatmap",
    "expert_layers",
    "has_conflict",
    "learning_curves",
    "matrix_panels",
    "mixing_by_epoch",
    "mixing_heatmap",
    "routing_panels",
    "save",
    "scatter_panels",
    "spectra_by_stage",
    "stage_bars",
    "write",
]
