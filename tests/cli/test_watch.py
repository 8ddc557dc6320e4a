"""What is said of a sweep while it runs, from its run folders alone."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mola_lightning.cli.folders import RunFailed
from mola_lightning.cli.progress import sweep_report
from mola_lightning.cli.watch import SweepWatch


def claim(folder: Path, journal: str = "") -> Path:
    """What a job does first; with ``journal``, also its training so far."""
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_text("{}")
    os.utime(folder / ".lock")
    if journal:
        (folder / "config.yaml").write_text("trainer: {max_epochs: 4}")
        (folder / "metrics.jsonl").write_text(journal)
    return folder


def finish(folder: Path, score: float) -> None:
    (folder / "summary.json").write_text(json.dumps({"status": "done", "score": score}))


def fail(folder: Path, message: str, overrides: str) -> None:
    (folder / "error.txt").write_text(f"{message}\noverrides: {overrides}\n\nTraceback")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A sweep's folder that an earlier launch has left."""
    for name in ("finished", "failed", "of_another_grid"):
        claim(tmp_path / name)
    finish(tmp_path / "finished", 0.5)
    finish(tmp_path / "of_another_grid", 0.6)
    fail(tmp_path / "failed", "out of memory", "seed=1")
    (tmp_path / "figures").mkdir()
    return tmp_path


@pytest.fixture
def watch(old: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[SweepWatch]:
    found = SweepWatch(old, 4, {"seed"}, every=0.01)
    found.start()
    yield found
    found.finish()


def test_only_what_this_launch_does_counts(watch: SweepWatch, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = claim(old / "running", '{"epoch": 0, "val/score": 0.25}\n{"epoch": 1, "val/score": 0.75}\n')
    claim(old / "finished")
    fail(claim(old / "new"), "rank must be >= 1", "adapter.rank=0 seed=3")
    claim(old / "failed")
    finish(old / "failed", 0.9)
    watch.finish()
    states = {name: run.state for name, run in watch.runs.items()}
    assert states == {
        "finished": "there", "failed": "done", "new": "failed", "running": "running",
        "of_another_grid": "elsewhere", "figures": "elsewhere",
    }  # fmt: skip
    run = watch.runs["running"]
    assert (run.folder, run.fraction, run.score) == (running, 0.5, 0.75)
    said = capsys.readouterr().err
    assert "4 runs in" in said
    assert "new failed: rank must be >= 1; " in said
    assert "failed: val score 0.9000; " in said
    assert "2 of 4 runs done (1 there already), 1 failed after 0.0 min, about 0 min" in said
    assert watch.failures() == "1 of 4 runs failed (1 did not run):\n  new (seed=3): rank must be >= 1"


def test_a_terminal_shows_what_is_at_it(old: Path) -> None:
    watch = SweepWatch(old, None, None, every=0.01)
    watch.console = Console(width=80, force_terminal=True, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    watch.start()
    claim(old / "running", '{"epoch": 2, "val/score": 0.75}\n')
    fail(claim(old / "failed"), "no luck", "seed=1")
    watch.finish()
    said = watch.console.export_text()
    assert "epoch 3/4" in said
    assert "val score 0.7500" in said
    assert "failed failed: no luck" in said
    assert "0 of ? runs done, 1 failed after 0.0 min" in said
    watch.console.file.close()


@pytest.mark.parametrize("error", [RunFailed("one"), KeyboardInterrupt(), None])
def test_the_watching_ends_with_the_sweep(error: BaseException | None, old: Path) -> None:
    with pytest.raises(BaseException) if error else pytest.MonkeyPatch.context() as raised, sweep_report():  # noqa: PT011
        SweepWatch(old, 1, set(), every=10).start()
        if error is not None:
            fail(claim(old / "new"), "no luck", "seed=3")
            raise error
    assert not [thread for thread in threading.enumerate() if isinstance(thread, SweepWatch)]
    if isinstance(error, RunFailed):
        message = str(raised.value)  # type: ignore[union-attr]
        assert message.startswith("1 of 1 runs failed:\n  new (): no luck\n")
        assert f"hydra.sweep.dir={old}" in message
    elif error is not None:
        assert raised.value is error  # type: ignore[union-attr]
