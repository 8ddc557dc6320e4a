"""``mola-eval run=<folder>``: test a finished run again."""

import json
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mola_lightning.cli.errors import command, setup_logging
from mola_lightning.cli.loading import load_run
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write
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


def _job(cfg: DictConfig) -> None:
    setup_logging()
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give the folder that mola-train printed: mola-eval run=<folder>")
    run = Path(cfg.run)
    found = evaluate(run, cfg.checkpoint, cfg.split, list(cfg.overrides))
    path = run / f"evaluation_{cfg.split}_{Path(cfg.checkpoint).stem}.json"
    with atomic_write(path) as file:
        json.dump(found, file, indent=1)
    # A row for each metric: tasks may have different ones.
    table = Table("metric", *found, title=f"{run}: {cfg.checkpoint} checkpoint, {cfg.split} split")
    for metric in dict.fromkeys(metric for values in found.values() for metric in values):
        table.add_row(metric, *(f"{values[metric]:.4f}" if metric in values else "" for values in found.values()))
    Console().print(table)
    Console().print(f"written to {path}", soft_wrap=True)


main = command(hydra.main(config_path="pkg://mola_lightning.conf", config_name="eval", version_base="1.3")(_job))

if __name__ == "__main__":
    main()
