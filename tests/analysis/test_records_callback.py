"""What a test leaves behind, through a real Trainer, against the same numbers from plain loops."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mola_lightning.analysis import Records, conflict_statistics, mean_mixing, routing_statistics, task_gradients
from mola_lightning.core import Batch, ModelOutput, Routing, Task, TaskRows
from mola_lightning.training.callbacks.records import TestRecords

TASKS = (Task("a", 3, ("x", "y", "z")), Task("b", 2))


class Toy(nn.Module):
    """A shared layer and a router, on images of 1 x 2 x 2."""

    def __init__(self, routes: str = "soft") -> None:
        super().__init__()
        self.shared, self.router, self.routes, self.num_experts = nn.Linear(4, 5), nn.Linear(4, 3), routes, 3

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.shared.parameters())

    def routing(self, x: Tensor) -> Routing | None:
        logits = self.router(x)
        soft, hard = Routing(logits.softmax(1)), Routing(expert_ids=logits.argmax(1))
        return {"soft": soft, "hard": hard, "diverged": Routing(logits * torch.nan), "none": None}[self.routes]


class ToyModule(pl.LightningModule):
    """The parts of a module that the callback reads."""

    def __init__(self, routes: str = "soft") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.tasks, self.architecture = TASKS, Toy(routes)
        self.heads = nn.ModuleDict({task.name: nn.Linear(5, task.num_outputs) for task in TASKS})

    def forward(self, images: Tensor, rows: TaskRows) -> ModelOutput:
        x = images.flatten(1)
        features = self.architecture.shared(x).tanh()
        return ModelOutput({n: self.heads[n](features[rows[n]]) for n in rows}, rows, self.architecture.routing(x))

    def test_step(self, batch: Batch, batch_idx: int) -> ModelOutput:
        return self(batch.images, batch.rows)


def batches(rows: list[dict[str, list[int]]], size: int = 6) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for parts in rows:
        targets = {t.name: torch.randint(t.num_outputs, (len(parts[t.name]),), generator=generator) for t in TASKS}
        images = torch.randn(size, 1, 2, 2, generator=generator)
        made.append(Batch(images, targets, TaskRows({n: torch.tensor(p).long() for n, p in parts.items()}, size)))
    return made


ONE_TASK_A_BATCH = [{"a": list(range(6)), "b": []}, {"a": [], "b": list(range(6))}]
MIXED = [{"a": [0, 2, 4], "b": [1, 3, 5]}, {"a": [5], "b": [0, 1, 2, 3, 4]}]
SEVERAL_TARGETS = [{"a": [0, 1, 2, 3, 4, 5], "b": [0, 5]}]


def run_test(module: ToyModule, data: list[Batch], callback: TestRecords, **trainer: object) -> None:
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False} | trainer
    runner = pl.Trainer(callbacks=[callback], enable_model_summary=False, enable_checkpointing=False, **settings)
    runner.test(module, DataLoader(data, batch_size=None), verbose=False)


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize(
    "rows", [ONE_TASK_A_BATCH, MIXED, SEVERAL_TARGETS], ids=["by task", "mixed", "several targets"]
)
def test_against_plain_loops(rows: list[dict[str, list[int]]], inference_mode: bool, tmp_path: Path) -> None:
    module, data, callback = ToyModule(), batches(rows), TestRecords(tmp_path)
    run_test(module, data, callback, inference_mode=inference_mode)
    confusion = {task.name: np.zeros((task.num_outputs, task.num_outputs), int) for task in TASKS}
    mixing, ids, losses = [], [], dict.fromkeys(confusion, torch.zeros(()))
    for batch in data:
        output = module(batch.images, batch.rows)
        for t, (name, matrix) in enumerate(confusion.items()):
            for k, row in enumerate(batch.rows[name].tolist()):
                matrix[batch.targets[name][k], output.predictions[name][k].argmax()] += 1
                mixing.append(output.routing.mixing[row].detach())
                ids.append(t)
            losses[name] = losses[name] + TASKS[t].criterion(output.predictions[name], batch.targets[name])[0]
    records = Records.load(tmp_path)
    for name, matrix in confusion.items():
        np.testing.assert_array_equal(records.confusion[name], matrix)
    mixing, ids = torch.stack(mixing), torch.tensor(ids)
    expected = routing_statistics(mixing, ids)
    assert callback.routing_statistics.pop("mixing") == [pytest.approx(row) for row in expected.pop("mixing")]
    assert callback.routing_statistics == pytest.approx(expected)
    np.testing.assert_allclose(records.mean_mixing, mean_mixing(mixing, ids))
    assert sorted(records.mixing_task_ids) == sorted(ids.tolist())
    conflict = conflict_statistics(task_gradients(losses, module.architecture.shared_parameters()), ["a", "b"])
    assert callback.conflict_statistics["mean_cosine"] == pytest.approx(conflict["mean_cosine"], abs=1e-5)
    assert module.architecture.shared.weight.grad is None
    assert records.class_names == {"a": ("x", "y", "z")}


def test_hard_routing_counts_experts(tmp_path: Path) -> None:
    callback = TestRecords(tmp_path, num_conflict_batches=0)
    run_test(ToyModule("hard"), batches(MIXED), callback)
    assert set(Records.load(tmp_path).mixing.flatten().tolist()) <= {0.0, 1.0}
    assert callback.conflict_statistics is None
    assert Records.load(tmp_path).cosine is None


def test_without_routing_and_without_shared_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "shared_parameters", lambda self: [])
    callback = TestRecords(tmp_path)
    run_test(ToyModule("none"), batches(MIXED), callback)
    assert callback.routing_statistics is None
    assert callback.conflict_statistics is None
    assert [path.name for path in callback.draw()] == ["confusion_a.png", "confusion_b.png"]


def test_a_diverged_router_does_not_cost_the_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TestRecords(tmp_path)
    run_test(ToyModule("diverged"), batches(MIXED), callback)
    assert callback.routing_statistics is None
    assert Records.load(tmp_path).confusion["a"].sum() == 4
    assert len([r for r in caplog.records if "routing statistics are left out" in r.message]) == 1


def test_two_tests_do_not_add_up(tmp_path: Path) -> None:
    callback = TestRecords(tmp_path)
    for _ in range(2):
        run_test(ToyModule(), batches(MIXED), callback)
        assert Records.load(tmp_path).confusion["b"].sum() == 8


def test_kept_rows_are_bounded_and_shared_among_tasks(tmp_path: Path) -> None:
    data = batches([{"a": list(range(3000)), "b": []}, {"a": [], "b": list(range(3000))}], size=3000)
    run_test(ToyModule(), data, TestRecords(tmp_path, num_conflict_batches=1))
    assert np.bincount(Records.load(tmp_path).mixing_task_ids).tolist() == [1000, 1000]


def test_queries_that_ran_instead_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: ToyModule, images: Tensor, rows: TaskRows) -> ModelOutput:
        ids = rows.queries[1]
        features = self.architecture.shared(images.flatten(1)).tanh()
        predictions = {name: self.heads[name](features[rows[name]]) for name in rows}
        return ModelOutput(predictions, rows, Routing(expert_ids=ids), TaskRows.from_task_ids(ids, rows.names))

    monkeypatch.setattr(ToyModule, "forward", forward)
    callback = TestRecords(tmp_path)
    run_test(ToyModule(), batches(SEVERAL_TARGETS), callback)
    assert callback.routing_statistics["mixing"] == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert callback.routing_statistics["normalised_mutual_information"] == pytest.approx(1.0)


class SaysWhatItSaw(TestRecords):
    """Leaves a file per rank with the rows it saw of each task."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seen = [int(counts.sum()) for counts in self._confusion.values()]
        (self.folder / f"rank{trainer.global_rank}").write_text(str(seen))
        super().on_test_end(trainer, pl_module)


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    data = batches(ONE_TASK_A_BATCH)  # rank 0 never sees task b, rank 1 never sees task a
    (tmp_path / "two").mkdir()
    single, double = TestRecords(tmp_path / "one"), SaysWhatItSaw(tmp_path / "two")
    run_test(ToyModule(), data, single)
    run_test(ToyModule(), data, double, devices=2, strategy="ddp_notebook")
    one, two = Records.load(tmp_path / "one"), Records.load(tmp_path / "two")
    for name in ("a", "b"):
        np.testing.assert_array_equal(one.confusion[name], two.confusion[name])
    np.testing.assert_allclose(one.mean_mixing, two.mean_mixing)
    np.testing.assert_allclose(one.cosine, two.cosine, atol=1e-6)
    assert [(tmp_path / "two" / f"rank{rank}").read_text() for rank in (0, 1)] == ["[6, 0]", "[0, 6]"]
