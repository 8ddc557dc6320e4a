"""``make demo``: four methods on the Digits benchmark, three seeds each, and what they show."""

import sys
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console

from mola_lightning.analysis import load_runs
from mola_lightning.cli.errors import command
from mola_lightning.cli.mechanism import draw_mechanism
from mola_lightning.cli.report import report
from mola_lightning.cli.train import main as train_main
from mola_lightning.core import RunFolderError
from mola_lightning.data import Digits

STUDY = "sweep=digits/demo"


@command
def main() -> None:
    """Train, then print the table and where the figures are. Further arguments are overrides of the sweep."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = Path("runs") / "demo" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    console.print(
        "Digits: four domains of the same ten classes, each turned by another angle.\n"
        "Single-task, hard parameter sharing (HPS), MoLA-Grad and MoLA-Router, three seeds each; a few minutes.\n"
    )
    overrides = sys.argv[1:]
    sys.argv = ["mola-train", STUDY, f"hydra.sweep.dir={folder}", *overrides]
    train_main()
    figures = folder / "figures"
    digits = Digits()
    digits.prepare()
    digits.write_contact_sheet(figures / "digits.png")
    finished = [run for run in load_runs([folder]) if run.state == "done"]
    if not finished:
        raise RunFolderError(f"no run of {folder} was finished; see the messages above")
    page = folder / "report.html"
    again = f"mola-report {folder} --html {page}"
    report([folder], console, figures=figures, html=page, made_by=again)
    started = time.monotonic()
    mechanism = draw_mechanism(finished, figures / "mechanism")
    seconds = time.monotonic() - started
    console.print("\nFigures")
    for path in sorted(figures.glob("*.png")):
        console.print(f"  {path}")
    for run in (next(r for r in finished if r.method == m) for m in dict.fromkeys(r.method for r in finished)):
        console.print(f"  {run.folder}/figures/  ({run.method}, seed {run.seed})")
    console.print(
        f"A look inside, in {seconds:.0f} s: gradient conflict, routing, exchanged experts (docs/analysis.md)"
    )
    for path in mechanism:
        console.print(f"  {path}")
    console.print(f"Report    {page}\nRuns      {folder}\nThe same table and page again: {again}")


if __name__ == "__main__":
    main()
