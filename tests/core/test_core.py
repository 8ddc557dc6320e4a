"""Tasks, samples, batches, routings, seeds and files."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mola_lightning.core import (
    Batch,
    Collate,
    ConfigError,
    DataError,
    Sample,
    Task,
    TaskRows,
    check_tasks,
    cross_entropy,
)

NAMES = ("art", "clipart", "product")
TASKS = [Task("art", 3), Task("clipart", 5), Task("depth", 1, discrete=False)]


def partial_rows() -> TaskRows:
    """Row 0 of the first task, row 1 of all, row 2 of none, row 3 of the last."""
    return TaskRows({"art": torch.tensor([0, 1]), "clipart": torch.tensor([1]), "product": torch.tensor([1, 3])}, 4)


# TaskRows


def test_rows_from_task_ids() -> None:
    ids = torch.tensor([2, 0, 2, 2, 0])
    rows = TaskRows.from_task_ids(ids, NAMES)
    assert {name: rows[name].tolist() for name in rows} == {"art": [1, 4], "clipart": [], "product": [0, 2, 3]}
    assert rows.names == NAMES
    assert rows.present == ("art", "product")
    assert rows.counts == {"art": 2, "clipart": 0, "product": 3}
    assert rows.disjoint
    assert torch.equal(rows.task_ids, ids)


def test_task_ids_go_both_ways() -> None:
    for _ in range(20):
        ids = torch.randint(3, (int(torch.randint(12, ())),))
        assert torch.equal(TaskRows.from_task_ids(ids, NAMES).task_ids, ids)


def test_all_rows() -> None:
    rows = TaskRows.all_rows(4, NAMES)
    assert all(rows[name].tolist() == [0, 1, 2, 3] for name in NAMES)
    assert not rows.disjoint
    assert TaskRows.all_rows(4, NAMES[:1]).disjoint


def test_queries_are_the_pairs() -> None:
    index, ids = partial_rows().queries
    assert list(zip(index.tolist(), ids.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1), (1, 2), (3, 2)]


@pytest.mark.parametrize(
    "rows",
    [
        TaskRows.all_rows(3, NAMES),
        partial_rows(),
        TaskRows({"art": torch.tensor([0]), "clipart": torch.tensor([], dtype=torch.long)}, 2),
        TaskRows({"art": torch.tensor([0, 1]), "clipart": torch.tensor([1])}, 3),  # as many entries as rows
    ],
)
def test_rows_that_have_no_one_task(rows: TaskRows) -> None:
    assert not rows.disjoint
    with pytest.raises(DataError, match="exactly one task"):
        _ = rows.task_ids


def test_empty_batch() -> None:
    rows = TaskRows.from_task_ids(torch.empty(0, dtype=torch.long), NAMES)
    assert rows.disjoint
    assert rows.present == ()
    assert rows.task_ids.shape == (0,)
    assert [part.shape for part in rows.queries] == [(0,), (0,)]


@pytest.mark.parametrize("ids", [[0, 3], [-1, 0]])
def test_task_ids_out_of_range(ids: list[int]) -> None:
    with pytest.raises(DataError, match=r"0\.\.2"):
        TaskRows.from_task_ids(torch.tensor(ids), NAMES)


def test_select() -> None:
    rows = partial_rows()
    selected = rows.select("product")
    assert {name: selected[name].tolist() for name in selected} == {"art": [], "clipart": [], "product": [1, 3]}
    assert selected.names == rows.names
    assert selected.batch_size == rows.batch_size


def test_rows_are_a_mapping() -> None:
    rows = partial_rows()
    assert len(rows) == 3
    assert "art" in rows
    assert "photo" not in rows
    assert dict(rows).keys() == {"art", "clipart", "product"}


def test_moving_asks_nothing_again() -> None:
    """On another device, whether rows are disjoint is known without waiting for it."""
    for rows in (partial_rows(), TaskRows.from_task_ids(torch.tensor([1, 0]), NAMES)):
        moved = rows.to("meta")  # has no values: reading one would fail
        assert moved.disjoint is rows.disjoint
        assert moved.counts == rows.counts
        assert moved.present == rows.present
        assert moved["art"].device.type == "meta"
    assert moved.task_ids.device.type == "meta"


# Task


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "a b", 3, None])
def test_bad_task_name(name: object) -> None:
    with pytest.raises(ConfigError, match="name must be a word"):
        Task(name, 2)


@pytest.mark.parametrize("num_outputs", [0, -1, 2.0, True, None])
def test_bad_num_outputs(num_outputs: object) -> None:
    with pytest.raises(ConfigError, match="num_outputs of task 'art' must be an integer >= 1"):
        Task("art", num_outputs)


def test_class_names_must_be_as_many() -> None:
    assert Task("art", 2, ("cat", "dog")).class_names == ("cat", "dog")
    with pytest.raises(ConfigError, match="2 outputs but 1 class names"):
        Task("art", 2, ("cat",))


@pytest.mark.parametrize("labels", [[0, 3], [-1], [[0, 1], [2, 9]]])
def test_labels_out_of_range(labels: list) -> None:
    with pytest.raises(DataError, match=r"task 'art': labels must lie in 0\.\.2 .* in the training split\. Labels are"):
        TASKS[0].check_targets(torch.tensor(labels), "the training split")


def test_good_labels() -> None:
    TASKS[0].check_targets(torch.tensor([0, 2]))
    TASKS[0].check_targets(torch.empty(0))
    TASKS[2].check_targets(torch.tensor([-7.5]))  # not classes


def test_check_tasks() -> None:
    assert check_tasks(TASKS) == tuple(TASKS)
    with pytest.raises(ConfigError, match="at least one task"):
        check_tasks([])
    with pytest.raises(ConfigError, match="found twice: art; rename or remove one of them$"):
        check_tasks([Task("art", 2), Task("photo", 2), Task("art", 3)])


def test_cross_entropy_is_a_sum_and_a_count() -> None:
    outputs, targets = torch.randn(7, 3), torch.randint(3, (7,))
    total, count = cross_entropy(outputs, targets)
    torch.testing.assert_close(total / count, F.cross_entropy(outputs, targets))
    parts = [cross_entropy(outputs[part], targets[part]) for part in (slice(0, 2), slice(2, 7))]
    torch.testing.assert_close(sum(t for t, _ in parts) / sum(n for _, n in parts), total / count)


def test_cross_entropy_without_rows() -> None:
    outputs = torch.zeros(0, 3, requires_grad=True)
    total, count = cross_entropy(outputs, torch.empty(0, dtype=torch.long))
    total.backward()
    assert (total, count) == (0, 0)
    assert outputs.grad.shape == (0, 3)


def test_default_metrics() -> None:
    task = Task("art", 3)
    metrics = task.metrics(task.num_outputs)
    metrics.update(torch.eye(3), torch.tensor([0, 1, 1]))
    assert metrics.compute()[task.monitor] == pytest.approx(2 / 3)


# Collate and Batch


def sample(value: float, **targets: float) -> Sample:
    return Sample(torch.full((3, 4, 4), value), {name: torch.tensor(target) for name, target in targets.items()})


def test_collate() -> None:
    samples = [sample(0.0, art=2), sample(1.0, clipart=4, depth=0.5), sample(2.0), sample(3.0, art=0)]
    batch = Collate(TASKS)(samples)
    assert len(batch) == 4
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert {name: batch.rows[name].tolist() for name in batch.rows} == {"art": [0, 3], "clipart": [1], "depth": [1]}
    assert {name: target.tolist() for name, target in batch.targets.items()} == {
        "art": [2, 0],
        "clipart": [4],
        "depth": [0.5],
    }
    assert batch.rows.names == ("art", "clipart", "depth")


def test_collate_keeps_targets_with_their_rows() -> None:
    samples = [sample(float(i), art=i % 3) if i % 2 else sample(float(i), clipart=i % 5) for i in range(9)]
    batch = Collate(TASKS)(samples)
    assert batch.rows.disjoint is False or batch.rows.task_ids.shape == (9,)
    for name, target in batch.targets.items():
        assert [samples[i].targets[name].item() for i in batch.rows[name]] == target.tolist()


def test_absent_tasks_have_entries() -> None:
    batch = Collate(TASKS)([sample(0.0, art=1)])
    assert batch.targets["clipart"].shape[0] == batch.rows.counts["clipart"] == 0


def test_collate_refuses() -> None:
    collate = Collate(TASKS)
    with pytest.raises(DataError, match=r"unknown tasks \['photo'\]; the tasks are \['art', 'clipart', 'depth'\]"):
        collate([sample(0.0, photo=1)])
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.2"):
        collate([sample(0.0, art=3)])
    with pytest.raises(DataError, match=r"one shape, found \[\(3, 4, 4\), \(3, 5, 4\)\]; resize"):
        collate([sample(0.0, art=1), Sample(torch.zeros(3, 5, 4), {})])


def test_batches_through_worker_processes() -> None:
    samples = [sample(float(i), art=i % 3) for i in range(4)]
    (batch,) = DataLoader(samples, batch_size=4, collate_fn=Collate(TASKS), num_workers=1)
    assert isinstance(batch, Batch)
    assert batch.rows["art"].tolist() == [0, 1, 2, 3]


def test_batch_moves_as_a_whole() -> None:
    moved = Collate(TASKS)([sample(0.0, art=1)]).to("meta")
    tensors: list[Tensor] = [moved.images, *moved.targets.values(), *moved.rows.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
