"""``mola-train``: train one run, or with ``-m`` a sweep of them."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mola_lightning.cli.build import Parts, build_run
from mola_lightning.cli.errors import command, mola_error, setup_logging
from mola_lightning.cli.folders import recorded_score, run_once, trained_nothing
from mola_lightning.cli.hints import locate
from mola_lightning.cli.naming import config_key, with_balancer
from mola_lightning.cli.progress import sweep_report
from mola_lightning.cli.resume import identity, restore_finished, starting_point
from mola_lightning.core import RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import CONFIG, DATA
from mola_lightning.training import summary
from mola_lightning.training.callbacks import ResumableCheckpoint, StepTimer, TestRecords
from mola_lightning.training.checkpoints import load_checkpoint
from mola_lightning.training.figure_loggers import log_picture
from mola_lightning.training.parameters import count_multiply_adds, count_parameters
from mola_lightning.training.signals import RunInterrupted


def train(
    cfg: DictConfig,
    folder: Path,
    sweep: bool = False,
    overrides: Sequence[str] = (),
    choices: Mapping[str, str | None] | None = None,
) -> float:
    """One run, from a config to a complete run folder. A run that an earlier start left unfinished there goes on.

    Args:
        cfg: the composed config.
        folder: the run folder.
        sweep: the run is one of a sweep, which shows its progress.
        overrides: of the config, for the summary.
        choices: what was chosen in each config group, for the summary.

    Returns:
        The best validation score.
    """
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    _check_writable(folder)
    start = starting_point(cfg, folder)
    parts = build_run(cfg, folder, sweep)
    if rank_zero_only.rank == 0:
        _describe(cfg, parts, folder)
    fitted = _fit(cfg, parts, start)
    best = parts.callbacks["best"]
    parts.journal.save()
    best_epoch = load_checkpoint(Path(best.best_model_path))["epoch"]
    validation = parts.journal.epoch_row(best_epoch)
    tested: dict[str, Any] = {}
    if cfg.test:
        tested = parts.trainer.test(
            parts.module, parts.data, ckpt_path=best.best_model_path, weights_only=True, verbose=False
        )[0]
    parts.journal.finalize("success")
    chosen = choices or {}
    found = {
        "method": cfg.method
        or with_balancer(parts.module.architecture.method, type(parts.module.balancer), chosen.get("balancer")),
        "config_key": config_key(cfg),
        "overrides": list(overrides),
        "debug": chosen.get("debug"),
        "score": float(best.best_model_score),
        "best_epoch": best_epoch,
        **fitted,
    }
    if rank_zero_only.rank == 0:
        _summarise(cfg, parts, folder, found, validation, tested)
    records = parts.callbacks.get("records")
    if cfg.figures and cfg.test and isinstance(records, TestRecords):
        for path in records.draw():
            log_picture(parts.trainer.loggers, f"figures/{path.stem}", path, parts.trainer.global_step)
    return float(best.best_model_score)


def _describe(cfg: DictConfig, parts: Parts, folder: Path) -> None:
    """What the run is, and of which data."""
    with atomic_write(folder / CONFIG) as file:
        file.write(OmegaConf.to_yaml(cfg, resolve=True))
    if record := parts.data.source.record():
        with atomic_write(folder / DATA) as file:
            json.dump(record, file, indent=1)


def _fit(cfg: DictConfig, parts: Parts, start: tuple[Path, dict[str, Any]] | None) -> dict[str, Any]:
    """Train to the end; what the summary says of it."""
    last = parts.callbacks.get("last")
    resumable = last if isinstance(last, ResumableCheckpoint) else None
    if resumable is not None:
        resumable.identity = identity(cfg)
    started = time.monotonic()
    if start is None or not restore_finished(parts, start[1]):
        path = start[0] if start is not None else None
        del start  # its content: the trainer reads it again
        parts.trainer.fit(parts.module, parts.data, ckpt_path=path, weights_only=True)
    seconds = resumable.seconds if resumable is not None else time.monotonic() - started
    return {
        "epochs": parts.trainer.current_epoch,
        "wall_time_s": seconds,
        "resumes": resumable.resumes if resumable is not None else 0,
    }


def _summarise(
    cfg: DictConfig,
    parts: Parts,
    folder: Path,
    found: dict[str, Any],
    validation: dict[str, Any],
    tested: dict[str, Any],
) -> None:
    data, module = parts.data, parts.module
    records, timer = parts.callbacks.get("records"), parts.callbacks.get("step_timer")
    recorded = records if isinstance(records, TestRecords) and tested else None
    summary.write_summary(
        folder,
        {
            "status": "done",
            "data": data.source.name,
            "seed": cfg.seed,
            "tasks": [task.name for task in data.tasks],
            "monitor": summary.monitors(data.tasks),
            "test": summary.nested_metrics(tested, "test", data.tasks),
            "val": summary.nested_metrics(validation, "val", data.tasks),
            **found,
            "parameters": count_parameters(module),
            "multiply_adds": count_multiply_adds(module, data.image_shape, data.regime),
            "step_time_s": timer.statistics() if isinstance(timer, StepTimer) else {"median": None, "mean": None},
            "routing": recorded.routing_statistics if recorded else None,
            "conflict": recorded.conflict_statistics if recorded else None,
            "versions": summary.versions(),
            "git": summary.git_state(),
            "device": str(parts.trainer.strategy.root_device),
        },
    )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"  # several processes may train one run
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFolderError(
            f"cannot write the run folder {folder}: {error.strerror}. Choose another with paths.runs=<folder>."
        ) from error


def _job(cfg: DictConfig) -> float:
    """One Hydra job."""
    setup_logging()
    hydra_config, folder = HydraConfig.get(), Path(cfg.paths.run)
    overrides, choices = list(hydra_config.overrides.task), dict(hydra_config.runtime.choices)
    sweep = hydra_config.mode == RunMode.MULTIRUN

    def run() -> float:
        with locate(cfg):
            return train(cfg, folder, sweep, overrides, choices)

    if not sweep:
        return _single(run, folder, Path(cfg.paths.runs))
    key = config_key(cfg)
    if rank_zero_only.rank == 0:
        try:
            return run_once(folder, key, cfg.skip_done, overrides, run)
        except RunInterrupted as interruption:
            interruption.add_note(
                f"Saved in {folder}. To go on, repeat the command with hydra.sweep.dir={hydra_config.sweep.dir}"
            )
            raise
    # Where a cluster's launcher starts several processes for one run, the first of them looks after its folder.
    score = recorded_score(folder, key) if cfg.skip_done else None
    return run() if score is None else score


def _single(run: Callable[[], float], folder: Path, root: Path) -> float:
    """A run by itself. A folder in which nothing was trained is removed again: nothing half-written is left behind."""
    # With hydra.run.dir=. the run folder is one that the user already has: nothing in it is ours to remove.
    # Of several processes the first looks after the folder.
    ours = (
        rank_zero_only.rank == 0 and folder.resolve() != Path.cwd() and not (folder.is_dir() and any(folder.iterdir()))
    )
    try:
        score = run()
    except Exception as error:
        unsound = mola_error(error) is not None and trained_nothing(folder)
        if ours and (unsound or not (folder / CONFIG).exists()):
            _remove(folder, root)
        raise
    except RunInterrupted as interruption:
        interruption.add_note(f"Saved in {folder}. To go on, repeat the command with hydra.run.dir={folder}")
        raise
    if rank_zero_only.rank == 0:
        Console(stderr=True).print(f"run folder: {folder}", soft_wrap=True)
    return score


def _remove(folder: Path, root: Path) -> None:
    """Remove a run folder, and those between it and the root of runs, included, that are left empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        for parent in folder.resolve().parents:
            if not parent.is_relative_to(root.resolve()):
                break
            parent.rmdir()


main = command(
    sweep_report()(hydra.main(config_path="pkg://mola_lightning.conf", config_name="train", version_base="1.3")(_job))
)

if __name__ == "__main__":
    main()
