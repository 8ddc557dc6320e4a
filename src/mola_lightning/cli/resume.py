"""Where a run begins: anew, or from the checkpoint that an earlier start of it left in its folder."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from mola_lightning.cli.build import Parts
from mola_lightning.cli.folders import clear, finished
from mola_lightning.cli.naming import LEFT_OUT, config_content
from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.errors import one_of
from mola_lightning.core.run_files import CHECKPOINTS, CONFIG
from mola_lightning.training.callbacks import ResumableCheckpoint
from mola_lightning.training.checkpoints import newest_checkpoint

log = logging.getLogger(__name__)

MODES = ("auto", "never", "must")
OURS = {"architecture", "callbacks", "data", "trainer", "paths"}  # some keys of every run's config
SHOWN = 8  # differing settings that a message lists


def starting_point(cfg: DictConfig, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, and its content; None for a run that begins anew, in a folder cleared for it.

    Args:
        cfg: the run's config; ``cfg.resume`` decides.
        folder: the run folder.

    Raises:
        RunFolderError: for a checkpoint of another config, none at all with ``resume=must``, or a folder that cannot be
            cleared: it holds a finished run, or files that are not of an unfinished run of this config.
    """
    one_of("resume", cfg.resume, MODES)
    found = newest_checkpoint(folder / CHECKPOINTS) if cfg.resume != "never" else None
    if found is None:
        if cfg.resume == "must":
            raise RunFolderError(
                f"resume=must, but {folder / CHECKPOINTS} holds no checkpoint to go on from. Is it the right folder? "
                "resume=auto begins anew where there is none."
            )
        if (folder / CONFIG).exists() and rank_zero_only.rank == 0:
            _clear(cfg, folder)
        return None
    path, content = found
    if cfg.callbacks.get("last") is None:
        raise ConfigError(f"{path} is there to go on from, and callbacks.last=null; leave callbacks.last as it is")
    state = content.get("resume", {})
    _check_same(state.get("identity"), identity(cfg), path)
    log.info("going on from %s: epoch %d, step %d", path, int(content["epoch"]) + 1, int(content["global_step"]))
    return found


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What must be equal between a checkpoint and the run that goes on from it: dotted key -> value."""
    return dict(_flat(config_content(cfg), ""))


def restore_finished(parts: Parts, state: Mapping[str, Any]) -> bool:
    """Give callbacks, counters and journal back what they had at the end of a training, if ``state`` is of its end.

    Lightning itself would train on where a callback had ended the training early.

    Args:
        parts: of the run; its callbacks, trainer and journal are changed.
        state: the content of a checkpoint.
    """
    if not state.get("resume", {}).get("finished"):
        return False
    for callback in parts.callbacks.values():
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
        if isinstance(callback, ResumableCheckpoint):
            callback.take_up(state["resume"])
    parts.trainer.fit_loop.load_state_dict(state["loops"]["fit_loop"])  # epoch and step, which the test is logged with
    parts.journal.rewind(int(state["resume"]["journal"]))
    return True


def _clear(cfg: DictConfig, folder: Path) -> None:
    """Make way for a run that begins anew; only what an unfinished run of ours has left is removed."""
    if finished(folder):
        raise RunFolderError(
            f"{folder} holds a finished run, and there is no checkpoint to take it up from (or resume=never). Results "
            "are not overwritten: choose another folder with hydra.run.dir=..., or delete this one."
        )
    before: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    if not isinstance(before, dict) or not set(before) >= OURS:
        raise RunFolderError(
            f"{folder / CONFIG} is not of a run of mola_lightning, and a run would replace it. Choose another "
            "folder with hydra.run.dir=..."
        )
    if cfg.resume != "never" and any(before.get(k) != now.get(k) for k in {*before, *now} - {*LEFT_OUT}):
        raise RunFolderError(
            f"{folder} holds an unfinished run of another configuration. Choose another folder with hydra.run.dir=..., "
            "or begin anew with resume=never."
        )
    clear(folder)


def _check_same(before: Mapping[str, Any] | None, now: Mapping[str, Any], path: Path) -> None:
    if before is None:
        raise RunFolderError(f"{path} does not say of which configuration it is; begin anew with resume=never")
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    # Without what another key is said to be equal to, as architecture.adapter.rank is to adapter.rank.
    differing = [key for key in differing if not any(key.endswith(f".{other}") for other in differing)]
    if differing:
        shown = "; ".join(f"{k}: {before.get(k)!r} there, {now.get(k)!r} here" for k in differing[:SHOWN])
        more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise RunFolderError(
            f"{path} is of another configuration ({shown}{more}). Give the same settings to go on, choose another "
            "folder, or begin anew with resume=never."
        )


def _flat(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [item for k, v in value.items() for item in _flat(v, f"{prefix}.{k}" if prefix else str(k))]
    # Lists and the like as text: a checkpoint holds plain values only.
    return [(prefix, value if isinstance(value, int | float | str | None) else repr(value))]
