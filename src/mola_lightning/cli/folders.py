"""Run folders of a sweep: one process at a time, a finished run is not trained again, a failure leaves its reason."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mola_lightning.cli.errors import explain
from mola_lightning.core import MolaError, RunFolderError
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import (
    ANALYSIS,
    CHECKPOINTS,
    CONFIG,
    DATA,
    ERROR,
    FIGURES,
    JOURNAL,
    LOCK,
    METRICS,
    PRUNED,
    SUMMARY,
)
from mola_lightning.training.callbacks import RunPruned

log = logging.getLogger(__name__)

# All that a run writes. Anything else in its folder is the user's and stays.
CONTENT = (
    CONFIG, JOURNAL, METRICS, DATA, CHECKPOINTS, FIGURES, ANALYSIS, "tensorboard", "wandb",
    SUMMARY, ERROR, PRUNED,
)  # fmt: skip


class RunFailed(MolaError):
    """A run of a sweep failed; its folder holds the reason. The only argument is a message: it crosses processes."""


def run_once(folder: Path, key: str, skip_done: bool, overrides: Sequence[str], train: Callable[[], float]) -> float:
    """The validation score of a run of a sweep: the recorded one if the folder holds this run, else by training it.

    Args:
        folder: the run folder.
        key: of the run's config.
        skip_done: whether a finished run may be taken as it is.
        overrides: of the run, to tell it from others when it fails.
        train: does the run and returns its score.

    Raises:
        RunFailed: when the run fails, or the folder is not free for it.
        RunPruned: when the search that it belongs to gives it up.
    """
    with claimed(folder) as lock:
        try:
            score = _begin(folder, key, skip_done, lock)
            return _trained(folder, train) if score is None else score
        except RunPruned:
            raise
        except Exception as error:
            raise _failure(folder, error, overrides) from error


@contextmanager
def claimed(folder: Path) -> Iterator[IO[str]]:
    """Keep a run folder to this process, and wait while another process has it.

    The operating system frees the lock of a process that dies. The file is touched, and stays: by it the display of a
    sweep knows the runs that the sweep is made of.

    Args:
        folder: the run folder, which exists.

    Returns:
        The locked file; its content says which process had it last, and for which config.
    """
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        if not _lock(file, wait=False):
            process = _content(file).get("process", "another process")
            log.warning("%s is being trained by %s; waiting for it to end", folder, process)
            _lock(file, wait=True)
        os.utime(file.fileno())
        yield file


def finished(folder: Path) -> bool:
    """Whether a run was trained to its end in ``folder``."""
    return _summary(folder).get("status") == "done"


def owner(folder: Path) -> tuple[str | None, int]:
    """Which process has a run folder of a sweep, None if none has; and how often the run was started."""
    try:
        with open(folder / LOCK, encoding="utf-8") as file:  # for reading: the folder may be someone else's
            free, content = _lock(file, wait=False, how=fcntl.LOCK_SH), _content(file)
    except FileNotFoundError:
        return None, 0
    return None if free else content.get("process", "another process"), int(content.get("starts", 1))


def recorded_score(folder: Path, key: str) -> float | None:
    """The validation score of the finished run in ``folder``; None if there is none.

    Raises:
        RunFolderError: when it is the run of another config.
    """
    summary = _summary(folder)
    if summary.get("status") != "done":
        return None
    if summary.get("config_key") != key:
        raise _taken(folder, "a finished run")
    return float(summary["score"])


def read_failure(folder: Path) -> tuple[str, str]:
    """Message and overrides of the failed run in ``folder``."""
    lines = (folder / ERROR).read_text(encoding="utf-8").splitlines()
    overrides = next((line.partition(": ")[2] for line in lines[1:3] if line.startswith("overrides: ")), "")
    return lines[0], overrides


def _summary(folder: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary


def _begin(folder: Path, key: str, skip_done: bool, lock: IO[str]) -> float | None:
    """The score of a run that need not be trained; else None, and the folder is ready for the training."""
    score = recorded_score(folder, key)
    if score is not None:
        if not skip_done:
            raise RunFolderError(
                f"{folder} holds this run, finished, and skip_done=false. Results are not overwritten: choose another "
                "folder with hydra.sweep.dir=..., delete this one, or keep its result with skip_done=true."
            )
        (folder / ERROR).unlink(missing_ok=True)
        return score
    unfinished = (folder / CONFIG).exists()
    if unfinished and _content(lock).get("config_key") != key:
        raise _taken(folder, "an unfinished run")
    starts = int(_content(lock).get("starts", 0)) + 1 if unfinished else 1
    lock.truncate(0)
    process = f"process {os.getpid()} on {socket.gethostname()}"
    json.dump({"config_key": key, "process": process, "starts": starts}, lock)
    lock.flush()
    (folder / ERROR).unlink(missing_ok=True)
    return None


def _trained(folder: Path, train: Callable[[], float]) -> float:
    """The score of a training. If it fails before anything was trained, what it wrote goes."""
    try:
        return train()
    except Exception:
        if trained_nothing(folder):
            clear(folder)
        raise


def trained_nothing(folder: Path) -> bool:
    """Whether a folder holds neither a row of metrics nor a checkpoint."""
    return not (folder / JOURNAL).exists() and not any((folder / CHECKPOINTS).glob("*.ckpt"))


def clear(folder: Path) -> None:
    """Remove all that a run writes; what else lies in its folder stays."""
    for path in (folder / name for name in CONTENT):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _failure(folder: Path, error: Exception, overrides: Sequence[str]) -> RunFailed:
    message = " ".join((explain(error) or f"{type(error).__name__}: {error}").split())
    # A full disk must not hide why the run failed.
    with contextlib.suppress(RunFolderError), atomic_write(folder / ERROR) as file:
        file.write(f"{message}\noverrides: {' '.join(overrides)}\n\n{''.join(traceback.format_exception(error))}")
    return RunFailed(f"{folder}: {message}")


def _taken(folder: Path, what: str) -> RunFolderError:
    return RunFolderError(
        f"{folder} holds {what} of another configuration. Choose another folder with hydra.sweep.dir=..., "
        "leave hydra.sweep.subdir to its default, which gives each configuration a folder of its own, or delete it."
    )


def _lock(file: IO[str], wait: bool, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some cluster file systems are mounted without locks: then nobody looks out for two jobs of one run.
        log.debug("no lock on %s: %s", file.name, error.strerror)
    return True


def _content(lock: IO[str]) -> dict[str, Any]:
    """What the last owner wrote; empty if there was none, or it was killed while writing."""
    lock.seek(0)
    try:
        return json.loads(lock.read())
    except ValueError:
        return {}
