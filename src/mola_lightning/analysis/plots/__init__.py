"""Figures as pure functions: numbers in, a matplotlib Figure out; nothing is shown, no global state is touched."""

from matplotlib.figure import Figure

from mola_lightning.analysis.plots.bars import comparison_bars
from mola_lightning.analysis.plots.costs import comparison_costs
from mola_lightning.analysis.plots.curves import learning_curves
from mola_lightning.analysis.plots.dots import comparison_dots
from mola_lightning.analysis.plots.heatmaps import confusion_matrix, cosine_heatmap, mixing_heatmap, routing_panels
from mola_lightning.analysis.plots.style import save

__all__ = [
    "Figure",
    "comparison_bars",
    "comparison_costs",
    "comparison_dots",
    "confusion_matrix",
    "cosine_heatmap",
    "learning_curves",
    "mixing_heatmap",
    "routing_panels",
    "save",
]
