"""``mola-analyze run=<folder>``: look inside a finished run, or several side by side."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mola_lightning.analysis.comparing import check_comparable, compare_runs
from mola_lightning.analysis.embedding import METHODS
from mola_lightning.analysis.looks import LOOKS, Result, take
from mola_lightning.analysis.subject import Subject
from mola_lightning.cli.analysis_loggers import log_results
from mola_lightning.cli.build import build_loggers
from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.loading import load_run
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.core.run_files import ANALYSIS

Results = dict[str, dict[str, Result]]


def analyze(
    runs: Sequence[Path],
    looks: Sequence[str] = tuple(LOOKS),
    checkpoint: str = "best",
    split: str = "test",
    output: Path | None = None,
    device: str = "cpu",
    overrides: Sequence[str] | None = None,
    loggers: Callable[[Path], Sequence[Logger]] | None = None,
    **settings: Any,
) -> Results:
    """Take looks into runs, write them into ``<run>/analysis/``, and those that compare several runs into ``output``.

    Args:
        runs: run folders.
        looks: names of :data:`LOOKS`.
        checkpoint: ``best``, ``last`` or a file.
        split: ``test`` or ``val``.
        output: folder of what compares several runs; the analysis folder of the first by default.
        device: where models run.
        overrides: of the runs' own configs, ``key=value``.
        loggers: gives those of a run folder that get numbers and figures too; those of the first run also get what
            compares several.
        **settings: of :class:`Subject`.

    Returns:
        Label of a run -> look -> what it found; ``comparison`` -> look -> what is to be seen side by side.

    Raises:
        ConfigError: for a bad setting, or runs that cannot be compared.
    """
    require(bool(runs), "which run? Give the folder that mola-train printed: mola-analyze run=<folder>")
    one_of("split", split, ("test", "val"))
    for name in looks:
        one_of("looks", name, LOOKS)
    for name in ("num_batches", "batch_size", "num_images"):
        positive_int(name, settings.get(name, 1))
    if settings.get("swap_images") is not None:
        positive_int("swap_images", settings["swap_images"])
    one_of("embedding", settings.get("embedding", "pca"), METHODS)
    subjects = [subject_of(run, checkpoint, split, device, overrides, **settings) for run in runs]
    twice = {label for label, count in Counter(subject.label for subject in subjects).items() if count > 1}
    for subject in subjects:
        subject.label += f" ({subject.folder.parent.name})" if subject.label in twice else ""
    check_comparable(subjects)
    opened = None if loggers is None else [loggers(run) for run in runs]  # first: looks take minutes
    found = {subject.label: {name: take(subject, name) for name in looks} for subject in subjects}
    if len(subjects) > 1:
        found["comparison"] = compare_runs(subjects, found, output or subjects[0].folder)
    if loggers is not None and opened is not None:
        for own, subject in zip(opened, subjects, strict=True):
            log_results(own, found[subject.label], subject.step)
        if comparison := found.get("comparison"):
            log_results(loggers(runs[0]), comparison, subjects[0].step)
    return found


def subject_of(
    run: Path,
    checkpoint: str = "best",
    split: str = "test",
    device: str = "cpu",
    overrides: Sequence[str] | None = None,
    **settings: Any,
) -> Subject:
    """A run, loaded to be looked into; arguments as of :func:`analyze`."""
    loaded = load_run(run, checkpoint, overrides)
    label = f"{loaded.cfg.method or loaded.module.architecture.method}, seed {loaded.cfg.seed}"
    module = loaded.module.to(torch.device(device)).eval()
    dataset = loaded.data.dataset("test" if split == "test" else "val")
    return Subject(label, run / ANALYSIS, module, dataset, step=loaded.step, **settings)


def _table(label: str, results: Mapping[str, Result]) -> Table:
    table = Table("look", "found", "", title=label, title_justify="left")
    for name, result in results.items():
        rows = [*result.findings, *([(result.note, "")] if result.note else [])]
        for i, (what, value) in enumerate(rows):
            table.add_row(name if i == 0 else "", what, value)
        table.add_section()
    return table


def _loggers(cfg: DictConfig, run: Path) -> Sequence[Logger]:
    cfg.paths.run = str(run)
    return build_loggers(cfg.logger, run)


def _job(cfg: DictConfig) -> None:
    setup_logging()
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give the folder that mola-train printed: mola-analyze run=<folder>")
    settings: dict[str, Any] = {
        str(key): value for key, value in cfg.items() if key not in ("run", "output", "logger", "paths")
    }
    settings |= {name: list(cfg[name]) for name in ("looks", "overrides")}
    runs = [Path(run) for run in (cfg.run if isinstance(cfg.run, ListConfig) else [cfg.run])]
    loggers = partial(_loggers, cfg) if cfg.logger else None
    found = analyze(runs, output=None if cfg.output is None else Path(cfg.output), loggers=loggers, **settings)
    console = Console()
    for label, results in found.items():
        console.print(_table(f"{label}: {cfg.checkpoint} checkpoint, {cfg.split} split", results))
        for result in results.values():
            for path in result.files:
                console.print(f"written to {path}", soft_wrap=True, highlight=False)


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="analyze", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
