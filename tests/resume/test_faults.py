"""What goes wrong leaves a message and a folder from which the run goes on, to the same end."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mola_lightning.core import RunFolderError
from mola_lightning.training.checkpoints import AtomicCheckpointIO, newest_checkpoint
from mola_lightning.training.journal import MetricsJournal

Whole = Callable[[str], Path]


def said(folder: Path) -> str:
    return " ".join(Path(f"{folder}.log").read_text(encoding="utf-8").split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGUSR2", 140), pytest.param("SIGTERM", 143, marks=pytest.mark.soak)]
)
def test_a_signal_saves_and_ends(
    killer: Any, killing: Any, whole: Whole, methods: Any, tmp_path: Path, name: str, code: int
) -> None:
    run = tmp_path / "run"
    assert killer.run(run, methods["grad"], (name, "on_validation_batch_end", 1)) == code
    assert f"stopped by {name} in epoch 2, after step 3" in said(run)
    assert newest_checkpoint(run / "checkpoints")[1]["global_step"] == 3
    assert killer.run(run, methods["grad"]) == 0
    assert killing.differences(whole("grad"), run) == []
    assert json.loads((run / "summary.json").read_text())["resumes"] == 1


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(killer: Any, killing: Any, whole: Whole, methods: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert killer.run(run, methods["grad"], ("twice", "on_train_batch_end", 9)) == 1
    assert "stopped in the midst of a step" in said(run)
    assert newest_checkpoint(run / "checkpoints")[1]["global_step"] == 3
    assert killer.run(run, methods["grad"]) == 0
    assert killing.differences(whole("grad"), run) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("fault", "worker", 4), r"error: DataLoader worker \(.*\. Usually the memory did not suffice"),
        (("fault", "full", 20_000), "error: cannot write .*: File too large"),
        (("fault", "readonly", 4), "error: cannot write .*: Read-only file system"),
        (("fault", "nan", 9), "the loss of .* is not finite"),
    ],
    ids=["worker", "disk", "read-only", "nan"],
)
def test_a_fault_leaves_a_run_that_goes_on(
    killer: Any, killing: Any, whole: Whole, methods: Any, tmp_path: Path, fault: Any, message: str
) -> None:
    run, method = tmp_path / "run", "router" if fault[1] == "worker" else "stateful"
    assert killer.run(run, methods[method], ("hook", "on_train_batch_end", 7)) < 0
    assert killer.run(run, methods[method], fault) == 1

    assert re.search(message, said(run))
    assert "Traceback" not in said(run)
    assert killer.run(run, methods[method]) == 0
    assert killing.differences(whole(method), run) == []


@pytest.mark.slow
def test_a_batch_that_is_not_a_number_is_left_out(killer: Any, methods: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert killer.run(run, (*methods["stateful"], "on_nan=skip_batch"), ("fault", "nan", 3)) == 0
    assert "is not finite (epoch 1, batch 3); batch left out, the 1. of this run" in said(run)
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)


@pytest.mark.soak
@pytest.mark.parametrize("damage", ["half", "empty", "flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    killer: Any, killing: Any, whole: Whole, methods: Any, tmp_path: Path, damage: str
) -> None:
    run = tmp_path / "run"
    assert killer.run(run, methods["grad"], ("hook", "on_train_batch_end", 10)) < 0
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes(255 - byte for byte in content[middle : middle + 64]) + content[middle + 64 :]
    last.write_bytes({"half": content[:middle], "empty": b"", "flipped": flipped}[damage])
    assert killer.run(run, methods["grad"]) == 0
    assert "cannot read the checkpoint" in said(run)
    assert "going on from an older one" in said(run)
    assert killing.differences(whole("grad"), run) == []


@pytest.mark.soak
def test_which_checkpoint_a_run_takes(killer: Any, methods: Any, tmp_path: Path) -> None:
    run, grad = tmp_path / "run", methods["grad"]
    assert killer.run(run, (*grad, "resume=must")) == 1
    assert "resume=must, but" in said(run)
    assert killer.run(run, grad, ("hook", "on_train_batch_end", 8)) < 0
    assert killer.run(run, (*grad, "optimizer.lr=5e-3", "seed=3")) == 1
    assert "of another configuration (" in said(run)
    assert "optimizer.lr: 0.002 there, 0.005 here; seed: 0 there, 3 here" in said(run)
    best = run / "checkpoints" / "best.ckpt"
    kept = tmp_path / "kept"
    shutil.copytree(run, kept)
    shutil.copy(best, kept / "checkpoints" / "last.ckpt")
    Path(f"{kept}.log").touch()
    assert killer.run(kept, grad) == 1
    assert "does not say of which configuration it is" in said(kept)
    assert killer.run(run, (*grad, "resume=must", "seed=0")) == 0
    assert killer.run(run, (*grad, "resume=never")) == 1
    assert "Results are not overwritten" in said(run)
    assert killer.run(kept, (*grad, "resume=never")) == 0  # begins anew
    assert json.loads((kept / "summary.json").read_text())["resumes"] == 0


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = AtomicCheckpointIO()
    for number in range(3):
        writer.save_checkpoint({"number": number}, tmp_path / "last.ckpt")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        writer.save_checkpoint({"number": 3}, tmp_path / "last.ckpt")
    assert newest_checkpoint(tmp_path) == (tmp_path / "last.ckpt", {"number": 2})
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match="No space left on device"):
        MetricsJournal(tmp_path).log_metrics({"a": 1.0}, step=0)


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    for number in range(3):
        AtomicCheckpointIO().save_checkpoint({"number": number}, tmp_path / "last.ckpt")
    assert [torch.load(tmp_path / f"{name}.ckpt")["number"] for name in ("last", "previous")] == [2, 1]


def test_a_journal_is_cut_to_its_checkpoint(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path)
    journal.log_metrics({"epoch": 0, "a": 1.0}, step=0)
    length = journal.length()
    journal.log_metrics({"epoch": 1, "a": 2.0}, step=1)
    again = MetricsJournal(tmp_path)  # of a process that has not written yet
    assert again.length() > length
    again.rewind(length)
    again.log_metrics({"epoch": 1, "a": 3.0}, step=1)
    assert [json.loads(row)["a"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1.0, 3.0]
    with pytest.raises(RunFolderError, match="and had 10000 when the checkpoint was written"):
        again.rewind(10_000)
