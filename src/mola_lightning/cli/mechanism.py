"""Why methods score as they do, in three figures: ``python -m mola_lightning.cli.mechanism FOLDER --figures DIR``."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from mola_lightning.analysis import Run, load_runs
from mola_lightning.analysis.comparing import check_comparable, compare_conflict
from mola_lightning.analysis.gradients import conflict_over_seeds
from mola_lightning.analysis.looks import take
from mola_lightning.analysis.subject import Subject
from mola_lightning.cli.analyze import subject_of
from mola_lightning.cli.errors import command
from mola_lightning.core import RunFolderError

METHODS = ("hps", "mola_grad", "mola_router")
BATCHES = 4  # of each task and seed, whose gradients are compared
# Look -> the method it is taken of, besides the conflict of all, and the figures of it that are kept.
LOOKS = {"routing": ("mola_router", ("routing_mixing", "routing_scatter")), "swap": ("mola_grad", ("swap",))}


def draw_mechanism(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Conflict of task gradients side by side, the routing of MoLA-Router, the exchanged experts of MoLA-Grad.

    Numbers stay in the ``analysis`` folders of the runs. A look whose methods are not there is left out.

    Args:
        runs: finished runs on one data set. Conflict is that of all seeds of a method, the other looks are of the
            lowest seed.
        folder: where the figures go; created if missing.

    Returns:
        The PNG files written; an SVG lies beside each.
    """
    done = sorted((run for run in runs if run.state == "done"), key=lambda run: run.seed)
    subjects = {
        method: [subject_of(run.folder, num_batches=BATCHES) for run in done if run.method == method]
        for method in METHODS
    }
    subjects = {method: seeds for method, seeds in subjects.items() if seeds}
    drawn = []
    if len(subjects) > 1:
        check_comparable([subject for seeds in subjects.values() for subject in seeds])
        tables = {_label(method, seeds): _conflict(seeds) for method, seeds in subjects.items()}
        known = {label: table for label, table in tables.items() if table is not None}
        if known:
            drawn += [path for path in compare_conflict(known, folder).files if path.suffix == ".png"]
    for look, (method, figures) in LOOKS.items():
        if method in subjects:
            written = {path.stem: path for path in take(subjects[method][0], look).files}
            drawn += [_copy(written[name], folder) for name in figures if name in written]
    return drawn


def _label(method: str, seeds: Sequence[Subject]) -> str:
    return f"{method}, {len(seeds)} seeds" if len(seeds) > 1 else seeds[0].label


def _conflict(seeds: Sequence[Subject]) -> pd.DataFrame | None:
    """Of one run as it is, of several by seeds; None where tasks share no parameter."""
    tables = [table for subject in seeds if (table := take(subject, "conflict").table) is not None]
    return conflict_over_seeds(tables) if len(tables) > 1 else next(iter(tables), None)


def _copy(figure: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(figure.with_suffix(".svg"), folder)
    return Path(shutil.copy(figure, folder))


@command
def main() -> None:
    """Draw them, and say how long it took."""
    parser = argparse.ArgumentParser(
        prog="python -m mola_lightning.cli.mechanism",
        description="Conflict over all seeds of hps, mola_grad and mola_router; routing and exchanged experts of one.",
    )
    parser.add_argument("folder", type=Path, help="a folder that holds runs of them")
    parser.add_argument("--figures", type=Path, required=True, metavar="DIR", help="where the figures go")
    arguments = parser.parse_args()
    started, busy, console = time.monotonic(), time.process_time(), Console()
    drawn = draw_mechanism(load_runs([arguments.folder]), arguments.figures)
    if not drawn:
        raise RunFolderError(f"{arguments.folder} holds no finished run of hps, mola_grad or mola_router")
    for path in drawn:
        console.print(f"drew {path}", soft_wrap=True, highlight=False)
    console.print(f"in {time.monotonic() - started:.0f} s, {time.process_time() - busy:.0f} s of them computing")


if __name__ == "__main__":
    main()
