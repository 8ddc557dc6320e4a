"""Runs of mola-train that are killed at chosen moments, each forked from one warm process; and their comparison.

``python tests/resume/killing.py`` is that process: a line of JSON on stdin is a run (:class:`Killer` writes it), the
answer is its exit code.
"""

import contextlib
import gc
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# What differs between two runs of the same thing: time, how often it was started, and the state of the sources.
TIMES = {"seconds", "resumes", "wall_time_s", "step_time_s", "StepTimer", "git"}
# Paths, and what Lightning keeps for information and does not restore.
LOCAL = {"dirpath", "best_k_models", "current_score"}
BASE = (
    "data=digits", "data.source.domains=[optdigits,printed]", "data.source.rotations=[0,90]",
    "data.source.num_train=40", "data.source.image_size=12", "data.batch_size=16",
    "backbone.widths=[4,4,8]", "trainer.max_epochs=3", "+trainer.limit_val_batches=2", "+trainer.limit_test_batches=1",
    "callbacks.last.every_n_steps=2", "callbacks.records.num_conflict_batches=0", "num_threads=1", "figures=false",
)  # fmt: skip


class Killer:
    """The warm process."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self,
        folder: Path,
        overrides: Sequence[str],
        kill: tuple[str, str, int] | float | None = None,
        without: str | None = None,
    ) -> int:
        """A run in ``folder``; its exit code, negative: the signal that ended it.

        Args:
            folder: the run folder; messages go to a file beside it.
            overrides: beyond :data:`BASE`.
            kill: ``(kind, point, n)``: what happens at the n-th passing of a point; or SIGKILL after so many seconds.
                Kinds: ``hook`` and ``io``: SIGKILL; ``SIGINT`` and the like, at a hook; ``twice``: SIGINT two
                times; ``fault``: a worker that dies, an image that is not a number, a full disk.
            without: an ingredient of exact resume to take out.
        """
        job = {"folder": str(folder), "overrides": [*BASE, *overrides], "kill": kill, "without": without}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def trial(
        self, whole: Path, folder: Path, overrides: Sequence[str], kills: Sequence[Any], **options: Any
    ) -> list[str]:
        """A run that is killed and started again until it ends: how it differs from the ``whole`` one.

        Args:
            whole: folder of the undisturbed run.
            folder: of this one.
            overrides: beyond :data:`BASE`.
            kills: one for each start but the last; see :meth:`run`.
            options: of :meth:`run`.
        """
        for kill in kills:
            if self.run(folder, overrides, kill, **options) != -signal.SIGKILL:
                break  # it ended before
        code = self.run(folder, overrides, **options)
        return (
            differences(whole, folder) if code == 0 else [f"exit code {code}: {_text(Path(f'{folder}.log'))[-2000:]}"]
        )

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def differences(whole: Path, resumed: Path) -> list[str]:
    """What is not equal between two run folders."""
    import torch

    found = [name for name in ("metrics.csv", "metrics.jsonl") if _text(whole / name) != _text(resumed / name)]
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        a, b = (torch.load(folder / name, weights_only=False) for folder in (whole, resumed))  # ours, and so quicker
        if "best" in name:  # saved in the midst of a validation's end: for its weights
            a, b = ({key: c[key] for key in ("state_dict", "optimizer_states", "epoch")} for c in (a, b))
        found += _unequal(a, b, name)
    a, b = (json.loads(_text(folder / "summary.json")) for folder in (whole, resumed))
    found += _unequal(a, b, "summary.json")
    files = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.suffix != ".tmp") for f in (whole, resumed)]
    return found + ([f"files {files}"] if files[0] != files[1] else [])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _unequal(a: Any, b: Any, where: str) -> Iterator[str]:
    import torch

    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
        yield from () if same else (where,)
    elif isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            yield f"{where}: keys"
        else:
            for key in a:
                if key not in TIMES and key not in LOCAL and not str(key).endswith("path"):
                    yield from _unequal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{where}: length"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from _unequal(x, y, f"{where}/{i}")
    elif a != b:
        yield f"{where}: {a!r} {b!r}"[:200]


# ------------------------------------------------------------------------------------------------- in the warm process


def _serve() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    configs: dict[str, Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        overrides = job.pop("overrides")
        if str(overrides) not in configs:
            configs[str(overrides)] = _compose(overrides)
            gc.freeze()  # a run looks for garbage of its own only, and copies no page for it
        os.write(answers, f"{_fork(configs[str(overrides)], **job)}\n".encode())


def _compose(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_module

    import mola_lightning.cli.train  # noqa: F401 - here, and so in all that is forked

    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        return compose("train", [*overrides, "paths.run=???"])


def _fork(config: Any, folder: str, kill: Any, without: str | None) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _child(config, folder, kill if isinstance(kill, list) else None, without)
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        except BaseException:  # noqa: BLE001 - it must not go on as if it were the warm process
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if isinstance(kill, int | float):
        end = time.monotonic() + kill
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(config: Any, folder: str, kill: Any, without: str | None) -> None:
    os.setsid()
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _take_out(without)
    from mola_lightning.cli.errors import command
    from mola_lightning.cli.train import train

    _arm(kill)
    config.paths.run = folder
    command(train)(config, Path(folder), sweep=True)


def _arm(kill: Any) -> None:
    """Let what is asked for happen at the n-th passing of its point."""
    if kill is None:
        return
    kind, point, number = kill
    passed = 0

    def now() -> bool:
        nonlocal passed
        passed += 1
        return passed == number

    def die() -> None:
        if now():
            os.killpg(0, signal.SIGKILL)

    if kind == "io":
        _at_file(point, die, now)
    elif kind == "twice":
        _at_hook(point, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)], now)
    elif kind == "fault":
        _at_fault(point, number, now)
    else:
        signum = signal.SIGKILL if kind == "hook" else signal.Signals[kind]
        _at_hook(point, lambda: os.kill(os.getpid(), signum), now)


def _at_hook(point: str, act: Callable[[], object], now: Callable[[], bool]) -> None:
    from lightning.pytorch.trainer import call

    before = call._call_callback_hooks

    def hooks(trainer: Any, hook: str, *args: Any, **kwargs: Any) -> None:
        before(trainer, hook, *args, **kwargs)
        if hook == point and now():
            act()

    call._call_callback_hooks = hooks


def _at_file(point: str, die: Callable[[], None], now: Callable[[], bool]) -> None:
    import torch

    from mola_lightning.training.journal import MetricsJournal

    save, replace, write = torch.save, os.replace, MetricsJournal.log_metrics

    def half(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        data = buffer.getvalue()
        file.write(data[: len(data) // 2])
        file.flush()
        die()
        file.write(data[len(data) // 2 :])

    def before(a: Any, b: Any) -> None:
        die()
        replace(a, b)

    def after(a: Any, b: Any) -> None:
        replace(a, b)
        die()

    def torn(self: Any, metrics: Any, step: Any = None) -> None:
        if now():
            self._open().write('{"epoch": 1, "st')
            self._file.flush()
            os.killpg(0, signal.SIGKILL)
        write(self, metrics, step)

    if point == "half":  # of a checkpoint is written
        torch.save = half
    elif point == "row":  # half of one is written
        MetricsJournal.log_metrics = torn
    else:
        os.replace = {"before_replace": before, "after_replace": after}[point]


def _at_fault(point: str, number: int, now: Callable[[], bool]) -> None:
    import torch
    from torch.utils.data import get_worker_info

    from mola_lightning.data.memory import InMemoryDataset

    load = InMemoryDataset.__getitems__

    def dying(self: Any, keys: Any) -> Any:
        if get_worker_info() is not None and now():
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, keys)

    def not_a_number(self: Any, keys: Any) -> Any:
        samples = load(self, keys)
        if now():
            samples[0].image.fill_(torch.nan)
        return samples

    if point == "readonly":  # from the n-th batch on, which is no longer written of
        InMemoryDataset.__getitems__ = _then_read_only(load, now)
    elif point == "full":  # files can grow to that many bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    else:
        InMemoryDataset.__getitems__ = {"worker": dying, "nan": not_a_number}[point]


def _then_read_only(load: Callable[..., Any], now: Callable[[], bool]) -> Callable[..., Any]:
    """Loads, and at some time lets every file that is opened for writing be refused."""
    import builtins
    import errno

    opened, low = builtins.open, os.open

    def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return opened(file, mode, *args, **kwargs)

    def low_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return low(path, flags, *args, **kwargs)

    def loading(self: Any, keys: Any) -> Any:
        if now():
            builtins.open, io.open, os.open = open_, open_, low_
        return load(self, keys)

    return loading


def _take_out(ingredient: str | None) -> None:
    from mola_lightning.data.loaders import ResumableLoader
    from mola_lightning.training.callbacks import ResumableCheckpoint
    from mola_lightning.training.journal import MetricsJournal
    from mola_lightning.training.meters import Meters

    if ingredient == "seeds":
        ResumableCheckpoint._reseed = lambda *_: None
    elif ingredient == "meters":
        Meters.load_state = lambda *_: None
    elif ingredient == "loader":
        ResumableLoader.load_state_dict = lambda *_: None
    elif ingredient == "loops":
        ResumableCheckpoint._rewind_loops = staticmethod(lambda *_: None)
    elif ingredient == "journal":
        MetricsJournal.rewind = lambda *_: None
    elif ingredient is not None:
        raise ValueError(f"no ingredient {ingredient}")


if __name__ == "__main__":
    _serve()
