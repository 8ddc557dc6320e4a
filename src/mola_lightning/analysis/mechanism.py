"""Why a method scores as it does: how its router uses experts, and where its task gradients disagree."""

import statistics
from collections.abc import Sequence

from rich.table import Table

from mola_lightning.analysis.cells import MISSING
from mola_lightning.analysis.runs import Run, number

# column -> (part of the summary, its key, decimals)
MEASURES = {
    "I(task; expert) / H(task)": ("routing", "normalised_mutual_information", 2),
    "effective experts": ("routing", "effective_experts", 1),
    "mean gradient cosine": ("conflict", "mean_cosine", 2),
    "opposed pairs (%)": ("conflict", "share_negative", 0),
}
CAPTION = "Means over seeds; gradients of shared parameters, at the tested weights."


def mechanism_rows(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Method -> a cell for each of :data:`MEASURES`: means over seeds; only methods that route or share parameters.

    Gradients are those of the task losses with respect to the parameters that tasks share, on the test split at the
    tested weights; a pair of tasks is opposed when their cosine is negative.

    Args:
        runs: finished runs on one data set.
    """
    rows = {}
    for method in dict.fromkeys(run.method for run in runs):
        cells = [_mean([run for run in runs if run.method == method], *where) for where in MEASURES.values()]
        if any(cells):
            rows[method] = [cell or MISSING for cell in cells]
    return rows


def mechanism_table(runs: Sequence[Run]) -> Table | None:
    """:func:`mechanism_rows` for the terminal; None when no method routes or shares parameters."""
    table = Table(title="mechanism", caption=CAPTION, title_justify="left", caption_justify="left")
    for column in ("method", *MEASURES):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, cells in mechanism_rows(runs).items():
        table.add_row(method, *cells)
    return table if table.rows else None


def _mean(runs: Sequence[Run], part: str, key: str, decimals: int) -> str:
    values = [number((run.summary.get(part) or {}).get(key)) for run in runs]
    values = [value for value in values if value == value]
    scale = 100 if key == "share_negative" else 1
    return f"{scale * statistics.fmean(values):.{decimals}f}" if values else ""
