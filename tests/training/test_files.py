"""What a run writes: the journal, checkpoints, the summary; and the small callbacks beside them."""

import csv
import json
import logging
import os
import pickle
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mola_lightning.core import RunFolderError, Task
from mola_lightning.training import summary
from mola_lightning.training.callbacks import Progress, StepTimer
from mola_lightning.training.checkpoints import AtomicCheckpointIO, load_checkpoint
from mola_lightning.training.journal import MetricsJournal, read_journal
from mola_lightning.training.parameters import count_parameters

Make = Callable[..., Any]

# -------------------------------------------------------------------------------------------------------------- journal


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_journal_becomes_a_table(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing is made before there is something to write
    journal.log_metrics({"val/b": 0.5, "epoch": 0}, step=3)
    journal.log_metrics({"train/a": torch.tensor(0.25), "epoch": 0}, step=3)
    journal.log_metrics({"val/b": 0.75, "epoch": 1}, step=6)
    journal.finalize("success")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert file.readline().strip() == "epoch,step,train/a,val/b"
    assert rows_of(tmp_path / "run" / "metrics.csv") == [
        {"epoch": "0", "step": "3", "train/a": "", "val/b": "0.5"},
        {"epoch": "0", "step": "3", "train/a": "0.25", "val/b": ""},
        {"epoch": "1", "step": "6", "train/a": "", "val/b": "0.75"},
    ]
    assert journal.epoch_row(0) == {"epoch": 0, "step": 3, "train/a": 0.25, "val/b": 0.5}
    assert journal.epoch_row(7) == {}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_the_journal_is_only_appended_to(tmp_path: Path) -> None:
    earlier = b""
    for run in range(3):  # each time another process, as after a resume
        journal = MetricsJournal(tmp_path)
        for step in range(4):
            journal.log_metrics({"epoch": run, f"m{run}": step / 3}, step)
            now = journal.path.read_bytes()
            assert now.startswith(earlier)
            assert len(now) > len(earlier)
            earlier = now
        journal.finalize("failed")
        assert journal.path.read_bytes() == earlier
    assert len(rows_of(tmp_path / "metrics.csv")) == 12


def test_a_line_torn_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path)
    for step in range(3):
        journal.log_metrics({"epoch": 0, "loss": 0.5}, step)
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) - len(lines[-1]), len(whole) - 2):
        journal.path.write_bytes(whole[:length])
        assert [row["step"] for row in read_journal(journal.path)] == [0, 1]
        assert len(rows_of(journal.write_csv())) == 2
    assert read_journal(tmp_path / "nothing.jsonl") == []


def test_values_that_are_no_numbers_survive(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path)
    journal.log_metrics({"epoch": 0, "loss": float("nan"), "other": float("inf")}, 0)
    (row,) = read_journal(journal.path)
    assert row["loss"] != row["loss"]
    assert row["other"] == float("inf")


def test_a_journal_is_a_lightning_logger(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path)
    assert (journal.name, journal.version, journal.save_dir) == ("", "", str(tmp_path))
    journal.log_hyperparams({"a": 1})
    journal.log_hyperparams(Namespace(a=1))
    journal.save()
    journal.finalize("success")
    assert list(tmp_path.iterdir()) == []  # a run that logged nothing has no files


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*file/run/metrics\.jsonl.*paths\.runs"):
        MetricsJournal(tmp_path / "file" / "run").log_metrics({"epoch": 0}, 0)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    content = {"state_dict": {"w": torch.arange(6.0)}, "epoch": 3, "names": ["a", "b"]}
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "deep" / "last.ckpt")
    found = load_checkpoint(tmp_path / "deep" / "last.ckpt")
    assert torch.equal(found["state_dict"].pop("w"), content["state_dict"].pop("w"))
    assert found == content
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.ckpt"]


class Failing:
    """Fails in the middle of being written."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failing_write_keeps_the_old_checkpoint(error: BaseException, tmp_path: Path) -> None:
    path, writer = tmp_path / "best.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)
    expected = RunFolderError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        writer.save_checkpoint({"big": torch.zeros(100_000), "bad": Failing(error)}, path)
    assert load_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_kill_before_the_rename_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writer = tmp_path / "best.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)

    def killed(*_: Any) -> None:
        assert load_checkpoint(path) == {"epoch": 1}  # the old one is whole while the new one is written
        raise SystemExit

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        writer.save_checkpoint({"epoch": 2}, path)
    assert load_checkpoint(path) == {"epoch": 1}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*file/last\.ckpt"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "file" / "last.ckpt")


def test_a_missing_checkpoint_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint .*best.ckpt; the run has not saved any yet"):
        load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(RunFolderError, match="best.ckpt; there are: last.ckpt"):
        load_checkpoint(tmp_path / "best.ckpt")


class Stranger:
    """Would run code when it is read."""

    def __reduce__(self) -> Any:
        return (os.getcwd, ())


def damaged(kind: str) -> bytes:
    file = Path("whole.ckpt")
    torch.save({"w": torch.arange(1000.0)}, file)
    whole = file.read_bytes()
    return {
        "empty": b"",
        "text": b"not a checkpoint",
        "cut": whole[: len(whole) // 2],
        "nearly empty": whole[:10],
        "pickle": pickle.dumps(Stranger()),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "nearly empty", "pickle", "object"])
def test_a_damaged_or_foreign_checkpoint_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best.ckpt"
    if kind == "object":
        torch.save({"x": Stranger()}, path)
    else:
        path.write_bytes(damaged(kind))
    with pytest.raises(RunFolderError, match="cannot read the checkpoint .*best.ckpt") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_lightning_checkpoint_holds_only_plain_content(
    make_source: Make, make_module: Make, fit: Make, tmp_path: Path
) -> None:
    source = make_source("domains")
    module, last = make_module("mola_router", source), ModelCheckpoint(tmp_path, "last")
    fit(module, source, callbacks=[last], enable_checkpointing=True, plugins=[AtomicCheckpointIO()])
    found = load_checkpoint(tmp_path / "last.ckpt")
    again = make_module("mola_router", source)
    again.load_state_dict(found["state_dict"])
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), again.parameters(), strict=True))


# -------------------------------------------------------------------------------------------------------------- summary


def test_metrics_by_task() -> None:
    tasks = (Task("a", 2), Task("mean_b", 3))
    metrics = {"test/a/accuracy": torch.tensor(0.5), "test/mean_b/loss": 2, "test/mean/loss": 1.5, "test/score": 0.5}
    metrics |= {"val/a/accuracy": 0.1, "epoch": 4}
    found = summary.nested_metrics(metrics, "test", tasks)
    assert found == {"a": {"accuracy": 0.5}, "mean_b": {"loss": 2.0}, "mean": {"loss": 1.5}}
    assert list(found) == ["a", "mean_b", "mean"]
    assert summary.nested_metrics({}, "test", tasks) == {}
    assert summary.monitors(tasks)["a"] == {"metric": "accuracy", "higher_is_better": True}


def test_versions_and_git(tmp_path: Path) -> None:
    found = summary.versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "lightning", "timm", "torchmetrics", "hydra-core", "mola-lightning"} <= set(found)
    assert summary.git_state(tmp_path) == {}
    assert summary.git_state(tmp_path / "nothing") == {}


def test_the_commit_of_a_checkout_is_not_that_of_what_lies_in_it(tmp_path: Path) -> None:
    """Such as this package, installed into an environment within the user's own repository."""
    (tmp_path / "tracked").mkdir()
    (tmp_path / "tracked/file").touch()
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed/file").touch()
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q"), ("add", "tracked"), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert set(summary.git_state(tmp_path / "tracked")) == {"commit", "dirty"}
    assert summary.git_state(tmp_path / "installed") == {}


def test_a_summary_is_json_that_anyone_reads(tmp_path: Path) -> None:
    path = summary.write_summary(tmp_path, {"seed": 1, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"seed": 1, "name": "é"}
    with pytest.raises(TypeError):
        summary.write_summary(tmp_path, {"seed": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("method", ["hps", "single_task", "mola_grad", "mola_router"])
def test_counts_of_parameters(method: str, make_source: Make, make_module: Make) -> None:
    source = make_source("multi_input")
    module = make_module(method, source)
    found = count_parameters(module)
    parts = ("backbone", "adapters", "router", "heads", "other")
    assert found["total"] == sum(found[part] for part in parts) == sum(p.numel() for p in module.parameters())
    assert found["heads"] == sum((8 + 1) * classes for classes in (3, 4, 2))
    layers = getattr(module.architecture.backbone, "adapted", {}) if "mola" in method else {}
    assert found["adapters"] == sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in layers.values())
    assert found["router"] == (sum(p.numel() for p in module.architecture.router.parameters()) if layers else 0)
    assert found["other"] == ((3 + 1) * 32 if method == "mola_router" else 0)  # the projection of TwD
    assert (
        found["backbone"]
        == {"single_task": 3}.get(method, 1) * count_parameters(make_module("hps", source))["backbone"]
    )
    for parameter in module.architecture.parameters():
        parameter.requires_grad_(False)
    assert count_parameters(module)["trainable"] == found["heads"] + found["other"]


# ------------------------------------------------------------------------------------------------------------ callbacks


def test_steps_are_timed_after_the_warmup(make_source: Make, make_module: Make, fit: Make) -> None:
    source, timer = make_source("domains"), StepTimer(warmup=3)
    assert timer.statistics() == {"median": None, "mean": None}
    trainer = fit(make_module("hps", source), source, callbacks=[timer])
    assert len(timer.seconds) == trainer.global_step - 3
    found = timer.statistics()
    assert min(timer.seconds) <= found["median"] <= max(timer.seconds)
    assert found["mean"] == pytest.approx(sum(timer.seconds) / len(timer.seconds))
    assert 0 < found["mean"] < 5


def test_progress_outside_a_terminal_is_a_line_an_epoch(
    make_source: Make, make_module: Make, fit: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source("domains", {"train": 12, "val": 4})
    with caplog.at_level(logging.INFO, logger="mola_lightning"):
        trainer = fit(make_module("hps", source), source, max_epochs=2, num_sanity_val_steps=1, callbacks=[Progress()])
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("mola_lightning")]
    score = float(trainer.callback_metrics["val/score"])
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-1] == f"epoch 2/2: val score {score:.4f}"
