"""Whatever lies in a run folder, a job of a sweep trains, takes what is done, or says why it does neither."""

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mola_lightning.cli.folders import RunFailed, claimed, read_failure, recorded_score, run_once
from mola_lightning.core import ConfigError

KEY, OTHER = "a" * 64, "b" * 64


class Training:
    """Writes what a run writes, and counts how often it was asked.

    Args:
        folder: the run folder.
        dies: after which file: ``config``, ``epoch`` or None.
        error: how.
    """

    def __init__(self, folder: Path, dies: str | None = None, error: BaseException | None = None) -> None:
        self.folder, self.dies, self.error, self.count = folder, dies, error or ConfigError("no luck"), 0

    def __call__(self) -> float:
        self.count += 1
        assert not (self.folder / "error.txt").exists()
        self.found_journal = (self.folder / "metrics.jsonl").exists()
        (self.folder / "config.yaml").write_text("seed: 0")
        if self.dies == "config":
            raise self.error
        (self.folder / "metrics.jsonl").write_text("{}")
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        if self.dies == "epoch":
            raise self.error
        summary = {"status": "done", "config_key": KEY, "score": 0.1 + 0.2}
        (self.folder / "summary.json").write_text(json.dumps(summary))
        return 0.1 + 0.2


def job(folder: Path, training: Training, key: str = KEY, skip_done: bool = True) -> float:
    return run_once(folder, key, skip_done, ["seed=0", "adapter.rank=0"], training)


def test_a_finished_run_is_taken_as_it_is(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert job(tmp_path, training) == job(tmp_path, training) == recorded_score(tmp_path, KEY) == 0.1 + 0.2
    assert training.count == 1


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    training = Training(tmp_path)
    job(tmp_path, training)
    with pytest.raises(RunFailed, match="skip_done=false.*hydra.sweep.dir"):
        job(tmp_path, training, skip_done=False)
    with pytest.raises(RunFailed, match="a finished run of another configuration"):
        job(tmp_path, training, key=OTHER)
    assert training.count == 1
    assert (tmp_path / "error.txt").exists()
    assert job(tmp_path, training) == 0.1 + 0.2
    assert not (tmp_path / "error.txt").exists()


def test_a_killed_run_finds_what_it_left(tmp_path: Path) -> None:
    killed, training = Training(tmp_path, "epoch", KeyboardInterrupt()), Training(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path, killed)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml", "metrics.jsonl", "checkpoints"}
    (tmp_path / "notes.txt").write_text("the user's own")
    with pytest.raises(RunFailed, match="an unfinished run of another configuration"):
        job(tmp_path, training, key=OTHER)
    assert (tmp_path / "metrics.jsonl").exists()
    assert job(tmp_path, training) == 0.1 + 0.2
    assert training.found_journal  # and decides by its checkpoints where it goes on
    assert not killed.found_journal
    assert (tmp_path / "notes.txt").exists()


def test_the_run_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """Without a key nobody knows which run it is."""
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(RunFailed, match="an unfinished run of another configuration"):
        job(tmp_path, Training(tmp_path))
    assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize(
    ("dies", "error", "message", "left"),
    [
        ("config", ConfigError("rank must be >= 1,\ngot 0"), "rank must be >= 1, got 0", set()),
        (
            "epoch",
            ValueError("loss is nan"),
            "ValueError: loss is nan",
            {"config.yaml", "metrics.jsonl", "checkpoints"},
        ),
    ],
)
def test_a_failure_leaves_its_reason(dies: str, error: Exception, message: str, left: set[str], tmp_path: Path) -> None:
    """And of a run that never trained, nothing that looks like a run."""
    with pytest.raises(RunFailed, match=message) as raised:
        job(tmp_path, Training(tmp_path, dies, error))
    assert read_failure(tmp_path) == (message, "seed=0 adapter.rank=0")
    text = (tmp_path / "error.txt").read_text()
    assert text.startswith(message + "\n")
    assert f"raise {'self.error'}" in text  # the traceback
    assert {path.name for path in tmp_path.iterdir()} == left | {".lock", "error.txt"}
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value) == f"{tmp_path}: {message}"
    assert job(tmp_path, Training(tmp_path)) == 0.1 + 0.2
    assert not (tmp_path / "error.txt").exists()


HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
sys.stdout.write("held\\n")
sys.stdout.flush()
time.sleep(60)
"""


def test_a_second_job_waits_until_the_first_is_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with claimed(tmp_path) as lock:
        json.dump({"config_key": KEY, "process": "process 7 on elsewhere"}, lock)
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    training = Training(tmp_path)
    second = threading.Thread(target=job, args=(tmp_path, training))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        second.start()
        second.join(0.2)
        assert training.count == 0
        first.kill()
    second.join(60)
    assert recorded_score(tmp_path, KEY) == 0.1 + 0.2
    assert "is being trained by process 7 on elsewhere; waiting" in caplog.text
