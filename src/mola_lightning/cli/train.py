"""``mola-train``: train one run, or with ``-m`` a sweep of them."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mola_lightning.balancers import EqualWeights
from mola_lightning.cli.build import Parts, build_run
from mola_lightning.cli.errors import command, mola_error, setup_logging
from mola_lightning.core import RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.training import MultiTaskModule, summary
from mola_lightning.training.callbacks import StepTimer, TestRecords
from mola_lightning.training.checkpoints import load_checkpoint
from mola_lightning.training.parameters import count_multiply_adds, count_parameters


def train(cfg: DictConfig, folder: Path, quiet: bool = False) -> float:
    """One run, from a config to a complete run folder.

    Args:
        cfg: the composed config.
        folder: the run folder.
        quiet: without a progress display.

    Returns:
        The best validation score.
    """
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    _check_writable(folder)
    parts = build_run(cfg, folder, quiet)
    with atomic_write(folder / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(cfg, resolve=True))
    started = time.monotonic()
    parts.trainer.fit(parts.module, parts.data)
    seconds = time.monotonic() - started
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
    found = {"best_epoch": best_epoch, "epochs": parts.trainer.current_epoch, "wall_time_s": seconds}
    _summarise(cfg, parts, folder, found, validation, tested)
    records = parts.callbacks.get("records")
    if cfg.figures and cfg.test and isinstance(records, TestRecords):
        records.draw()
    return float(best.best_model_score)


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
            "method": cfg.method or _method(module),
            "data": data.source.name,
            "seed": cfg.seed,
            "tasks": [task.name for task in data.tasks],
            "monitor": summary.monitors(data.tasks),
            "test": summary.nested_metrics(tested, "test", data.tasks),
            "val": summary.nested_metrics(validation, "val", data.tasks),
            **found,
            "parameters": count_parameters(module),
            "multiply_adds": count_multiply_adds(module, data.image_shape),
            "step_time_s": timer.statistics() if isinstance(timer, StepTimer) else {"median": None, "mean": None},
            "routing": recorded.routing_statistics if recorded else None,
            "conflict": recorded.conflict_statistics if recorded else None,
            "versions": summary.versions(),
            "git": summary.git_state(Path.cwd()),
            "device": str(parts.trainer.strategy.root_device),
        },
    )


def _method(module: MultiTaskModule) -> str:
    """The architecture's name, and the balancer's unless it is the plain sum: what tables may pool over seeds."""
    balancer = type(module.balancer)
    return module.architecture.method + ("" if balancer is EqualWeights else f"+{balancer.__name__.lower()}")


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFolderError(
            f"cannot write the run folder {folder}: {error.strerror}. Choose another with paths.runs=<folder>."
        ) from error


def _job(cfg: DictConfig) -> float:
    """One Hydra job. A folder in which nothing was trained is removed again: nothing half-written is left behind."""
    setup_logging()
    folder = Path(cfg.paths.run)
    # With hydra.run.dir=. the run folder is one that the user already has: nothing in it is ours to remove.
    ours = folder.resolve() != Path.cwd() and not (folder.is_dir() and any(folder.iterdir()))
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        score = train(cfg, folder, quiet=sweep)
    except Exception as error:
        unsound = mola_error(error) is not None and not (folder / "metrics.jsonl").exists()
        if ours and (unsound or not (folder / "config.yaml").exists()):
            _remove(folder, Path(cfg.paths.runs))
        raise
    if not sweep:
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


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="train", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
