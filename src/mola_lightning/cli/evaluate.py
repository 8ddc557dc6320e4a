"""``mola-eval run=<folder>``: test a finished run again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.loading import checkpoint_file, load_run
from mola_lightning.core import ConfigError, Regime
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write
from mola_lightning.prediction.agnostic import Accuracies, target_agnostic_accuracy
from mola_lightning.prediction.calibration import calibrate, save_calibration
from mola_lightning.prediction.choice_store import load_choice
from mola_lightning.prediction.choices import CHOICES, NoChoice, check_choice, check_classes
from mola_lightning.training import summary


def evaluate(
    run: Path, checkpoint: str = "best", split: str = "test", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Metrics of a run's checkpoint on a split.

    Args:
        run: the run folder.
        checkpoint: ``best``, ``last`` or a file.
        split: ``test`` or ``val``.
        overrides: of the run's own config, ``key=value``.

    Returns:
        Task name (and ``mean``) -> metric -> value.
    """
    one_of("split", split, ("test", "val"))
    loaded = load_run(run, checkpoint, overrides)
    trainer = instantiate(loaded.cfg.trainer, logger=False, enable_checkpointing=False, _convert_="all")
    test = trainer.test if split == "test" else trainer.validate
    found = test(loaded.module, loaded.data, verbose=False)[0]
    return summary.nested_metrics(found, split, loaded.data.tasks)


def calibrate_run(
    run: Path, checkpoint: str = "best", overrides: Sequence[str] | None = None
) -> tuple[dict[str, dict[str, float]], Path]:
    """Fit each task's temperature on validation images, and measure on test images what it does.

    Returns:
        See :func:`calibrate`; and the file in the run folder that holds it, which mola-predict uses.
    """
    loaded = load_run(run, checkpoint, overrides)
    data = loaded.data
    found = calibrate(loaded.module.eval(), data.dataset("val"), data.dataset("test"))
    return found, save_calibration(run, checkpoint_file(run, checkpoint), loaded.data_key(), overrides or (), found)


def evaluate_without_task_ids(
    run: Path,
    checkpoint: str = "best",
    split: str = "test",
    overrides: Sequence[str] | None = None,
    choices: Sequence[str] = (),
) -> tuple[dict[str, Accuracies], Path]:
    """Accuracies of a split where nobody says which task an image belongs to.

    Args:
        run: the run folder.
        checkpoint: ``best``, ``last`` or a file.
        split: ``test`` or ``val``.
        overrides: of the run's own config, ``key=value``.
        choices: how to choose, see :data:`CHOICES`; empty: each way that the model allows.

    Returns:
        See :func:`target_agnostic_accuracy`; and the file in the run folder that holds it.

    Raises:
        NoChoice: when its tasks cannot be chosen among, or not in such a way.
    """
    one_of("split", split, ("test", "val"))
    loaded, weights = load_run(run, checkpoint, overrides), checkpoint_file(run, checkpoint)
    module = loaded.module.eval()
    if loaded.data.regime is Regime.SINGLE_INPUT:
        raise NoChoice("an image of this run's data may belong to several tasks, so that there is no task to choose")
    for task in module.tasks:
        check_classes(task)
    names = choices or [name for name in CHOICES if _allows(module, name)]
    ways = {name: load_choice(module, name, run, weights, loaded.data, loaded.data_key()) for name in names}
    dataset = loaded.data.dataset("test" if split == "test" else "val")
    found = target_agnostic_accuracy(module, dataset, loaded.data.regime, ways)
    path = run / f"target_agnostic_{split}_{weights.stem}.json"
    with atomic_write(path) as file:
        json.dump(found, file, indent=1)
    return found, path


def _allows(module: Any, name: str) -> bool:
    try:
        check_choice(module, name)
    except NoChoice:
        return False
    return True


def _job(cfg: DictConfig) -> None:
    setup_logging()
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give the folder that mola-train printed: mola-eval run=<folder>")
    run, ways = Path(cfg.run), list(cfg.target_agnostic) if OmegaConf.is_list(cfg.target_agnostic) else []
    one_of("calibrate", cfg.calibrate, (True, False))
    for way in ways:
        one_of("target_agnostic", way, CHOICES)
    if not OmegaConf.is_list(cfg.target_agnostic):
        one_of("target_agnostic", cfg.target_agnostic, (True, False))
    found = evaluate(run, cfg.checkpoint, cfg.split, list(cfg.overrides))
    path = run / f"evaluation_{cfg.split}_{Path(cfg.checkpoint).stem}.json"
    with atomic_write(path) as file:
        json.dump(found, file, indent=1)
    _show(found, f"{run}: {cfg.checkpoint} checkpoint, {cfg.split} split", path)
    if cfg.calibrate:
        calibrated, path = calibrate_run(run, cfg.checkpoint, list(cfg.overrides))
        _show(calibrated, "temperatures fitted on the val split, test split before and after", path)
    if cfg.target_agnostic:
        accuracies, path = evaluate_without_task_ids(run, cfg.checkpoint, cfg.split, list(cfg.overrides), ways)
        for way, values in accuracies.items():
            title = "the task of each image is known" if way == "task_id" else f"the task is chosen by {way}"
            _show(values, f"{title}, {cfg.split} split", path)


def _show(found: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """A row for each metric: tasks may have different ones."""
    table = Table("metric", *found, title=title)
    for metric in dict.fromkeys(metric for values in found.values() for metric in values):
        table.add_row(metric, *(f"{values[metric]:.4f}" if metric in values else "" for values in found.values()))
    Console().print(table)
    Console().print(f"written to {path}", soft_wrap=True)


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="eval", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
