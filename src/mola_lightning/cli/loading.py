"""A finished run, built again from its folder."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mola_lightning.cli.build import build_data, build_module
from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.run_files import BEST, CHECKPOINTS, CONFIG, LAST
from mola_lightning.data import MultiTaskDataModule
from mola_lightning.training import MultiTaskModule
from mola_lightning.training.checkpoints import load_checkpoint

NAMED = {"best": BEST, "last": LAST}


class LoadedRun(NamedTuple):
    """A run's config, data, and model with the weights of a checkpoint, which was written after ``step`` steps."""

    cfg: Any
    data: MultiTaskDataModule
    module: MultiTaskModule
    step: int = 0

    def data_key(self) -> str:
        """What tells the settings of the data, overrides included, from others: 16 hex digits.

        By them go the preprocessing of images, and what is fitted on training images.
        """
        content = OmegaConf.to_container(self.cfg.data, resolve=True, enum_to_str=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_run(run: Path, checkpoint: str = "best", overrides: Sequence[str] | None = None) -> LoadedRun:
    """Build a run again.

    Args:
        run: the run folder.
        checkpoint: ``best``, ``last`` or a file.
        overrides: of the run's own config, ``key=value``.

    Raises:
        RunFolderError: when the folder holds no run, or the checkpoint is missing or damaged.
        ConfigError: for an override of a key that the run's config does not have.
    """
    cfg = load_config(run, overrides)
    weights = load_checkpoint(checkpoint_file(run, checkpoint))
    data = build_data(cfg)
    module = build_module(cfg, data)
    try:
        module.load_state_dict(weights["state_dict"])
    except RuntimeError as error:
        own, found = set(module.state_dict()), set(weights["state_dict"])
        raise RunFolderError(
            f"{checkpoint_file(run, checkpoint)} is of another model than {run} (tasks {', '.join(module.names)}): "
            f"{len(own - found)} of its {len(own)} tensors are missing, {len(found - own)} are not its own, or their "
            "shapes differ. Give a checkpoint of this run, or the run folder of the checkpoint"
        ) from error
    return LoadedRun(cfg, data, module, int(weights.get("global_step", 0)))


def load_config(run: Path, overrides: Sequence[str] | None = None) -> Any:
    """The config of a run; arguments and errors as of :func:`load_run`."""
    config = run / CONFIG
    if not config.is_file():
        why = f"it has no {CONFIG}" if run.is_dir() else f"there is no such folder, and so no {CONFIG}"
        why = "it is a file" if run.is_file() else why
        raise RunFolderError(f"{run} is no run folder: {why}. Give the folder that mola-train printed.")
    cfg: Any = OmegaConf.load(config)
    OmegaConf.set_struct(cfg, True)
    try:
        cfg.merge_with_dotlist(list(overrides or []))
    except OmegaConfBaseException as error:
        raise ConfigError(f"overrides of {config}: {error}") from error
    return cfg


def checkpoint_file(run: Path, checkpoint: str) -> Path:
    """The file of a run's ``best`` or ``last`` checkpoint, or the one that is named.

    Raises:
        RunFolderError: for a name that is neither, nor a file's.
    """
    if checkpoint in NAMED:
        return run / CHECKPOINTS / NAMED[checkpoint]
    if not Path(checkpoint).is_file():
        raise RunFolderError(f"checkpoint must be {', '.join(NAMED)}, or a file; there is no file {checkpoint}")
    return Path(checkpoint)
