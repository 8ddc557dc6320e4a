"""From a config to the objects of a run."""

import secrets
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

from mola_lightning.cli.search.trial import trial_pruning
from mola_lightning.core import ConfigError
from mola_lightning.core.files import atomic_write
from mola_lightning.data import MultiTaskDataModule
from mola_lightning.training import MultiTaskModule
from mola_lightning.training.checkpoints import AtomicCheckpointIO
from mola_lightning.training.journal import MetricsJournal
from mola_lightning.training.sync_norms import SyncNorms


class Parts(NamedTuple):
    """What a run consists of."""

    data: MultiTaskDataModule
    module: MultiTaskModule
    trainer: pl.Trainer
    callbacks: dict[str, pl.Callback]
    journal: MetricsJournal


def build_data(cfg: DictConfig) -> MultiTaskDataModule:
    """The data module, with its cache built and its splits checked: what is wrong with data shows before anything
    else.
    """
    data = instantiate(cfg.data, _convert_="all")
    if not isinstance(data, MultiTaskDataModule):
        raise ConfigError(f"data must be a MultiTaskDataModule, got {type(data).__name__}")
    data.prepare_data()
    data.setup("fit")
    return data


def build_module(cfg: DictConfig, data: MultiTaskDataModule) -> MultiTaskModule:
    """The model; seeds are set before, so that its initialisation is a function of the seed."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    architecture = instantiate(cfg.architecture, _convert_="all")(tasks=data.tasks, image_shape=data.image_shape)
    module = MultiTaskModule(
        data.tasks,
        architecture,
        head=instantiate(cfg.head, _convert_="all"),
        balancer=instantiate(cfg.balancer, _convert_="all"),
        auxiliary=instantiate(cfg.auxiliary, _convert_="all"),
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        scheduler=instantiate(cfg.scheduler, _convert_="all"),
        parameter_groups=instantiate(cfg.parameter_groups, _convert_="all"),
        on_nan=cfg.on_nan,
    )
    module.check_regime(data.regime)
    return module


def build_run(cfg: DictConfig, folder: Path, sweep: bool) -> Parts:
    """All objects of a training run; as part of a ``sweep``, without a progress display (a sweep shows its own)."""
    # Under deterministic algorithms torch would fill each new tensor first, at 5 % of a small model's step. Nothing
    # here reads what it has not written, so that no result depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False
    data = build_data(cfg)
    if cfg.test:
        data.setup("test")  # hours later, at the test, is no time to hear that its split is missing or broken
    module = build_module(cfg, data)
    callbacks: dict[str, pl.Callback] = instantiate(cfg.callbacks, _convert_="all")
    callbacks = {name: callback for name, callback in callbacks.items() if callback is not None}
    if not isinstance(callbacks.get("best"), ModelCheckpoint):
        raise ConfigError("callbacks.best must be a ModelCheckpoint: the test is of the checkpoint that it selects")
    if sweep:
        callbacks.pop("progress", None)
    if (pruning := trial_pruning(folder)) is not None:
        callbacks["pruning"] = pruning
    journal = MetricsJournal(folder)
    loggers: list[Logger] = [journal, *build_loggers(cfg.logger, folder)]
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    trainer = instantiate(
        cfg.trainer,
        callbacks=list(callbacks.values()),
        logger=loggers,
        plugins=_plugins(cfg),
        default_root_dir=str(folder),
        _convert_="all",
    )
    if sweep:
        _check_launch(trainer)
    return Parts(data, module, trainer, callbacks, journal)


def _plugins(cfg: DictConfig) -> list[Any]:
    # On SLURM Lightning would requeue the job itself; who launched it does, and a signal has one owner.
    cluster = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    norms = [SyncNorms()] if cfg.trainer.get("sync_batchnorm") else []
    return [AtomicCheckpointIO(), *cluster, *norms]


def _check_launch(trainer: pl.Trainer) -> None:
    """Lightning starts further processes by the command line, and that of a sweep is not the command of one run."""
    launcher = trainer.strategy.launcher
    if (
        isinstance(launcher, _SubprocessScriptLauncher)
        and not launcher.cluster_environment.creates_processes_externally
    ):
        raise ConfigError(
            f"a sweep cannot start the {trainer.world_size} processes of a run by itself. Let its launcher start them "
            f"(hydra/launcher=slurm_gpus hydra.launcher.tasks_per_node={trainer.num_devices}), take trainer.devices=1, "
            "or train the runs one by one without -m."
        )


def build_loggers(configs: DictConfig, folder: Path) -> list[Logger]:
    """The loggers that a run has besides its journal, by their configs."""
    return [
        instantiate(logger, **_wandb_run(logger, folder), _convert_="all")
        for logger in configs.values()
        if logger is not None
    ]


def _wandb_run(logger: DictConfig, folder: Path) -> dict[str, Any]:
    """The options by which a run that goes on stays one run at wandb: an id that is kept in its folder."""
    if not str(logger.get("_target_")).endswith("WandbLogger") or logger.get("id"):
        return {}
    kept = folder / "wandb" / "run_id.txt"
    if not kept.exists() and rank_zero_only.rank == 0:
        with atomic_write(kept) as file:
            file.write(secrets.token_hex(4))
    return {"id": kept.read_text(encoding="utf-8"), "resume": "allow"} if kept.exists() else {}
