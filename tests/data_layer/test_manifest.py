"""Manifests in columns: what goes in comes out, whatever is selected and joined."""

import pickle
import re
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mola_lightning.core import DataError, Regime
from mola_lightning.data import ImageTransforms, Manifest, ManifestSource, MultiTaskDataModule, make_task
from mola_lightning.data.string_table import StringTable

NAMES = ["a.jpg", "", "a name with spaces/fußgänger Ж 犬.png", b"latin1-\xe9.png".decode(errors="surrogateescape"), "z"]


def test_strings_come_back_as_they_went_in() -> None:
    table = StringTable(name for name in NAMES)
    assert list(table) == NAMES
    assert (len(table), table[2], table[-1]) == (5, NAMES[2], "z")
    assert list(pickle.loads(pickle.dumps(table))) == NAMES
    assert list(StringTable()) == []
    with pytest.raises(IndexError):
        table[5]


def test_selected_and_joined_strings() -> None:
    table = StringTable(NAMES)
    rows = np.array([4, 0, 2, 2])
    assert list(table.select(rows)) == ["z", "a.jpg", NAMES[2], NAMES[2]]
    assert list(table.select(rows).select(np.array([1, 3]))) == ["a.jpg", NAMES[2]]
    assert list(StringTable.concat([table.select(rows), StringTable(), table])) == [*table.select(rows), *NAMES]
    assert list(StringTable.concat([])) == []


def test_digests_tell_strings_and_their_order_apart() -> None:
    digest = StringTable(NAMES).digest()
    assert StringTable(NAMES[::-1]).select(np.arange(5)[::-1]).digest() == digest
    assert (
        len({StringTable(names).digest() for names in (NAMES, NAMES[::-1], NAMES[:-1], ["ab", "c"], ["a", "bc"])}) == 5
    )


def overlapping() -> Manifest:
    """Five images: task a labels four of them, task b two; rows are given out of order."""
    targets = {
        "a": (np.array([3, 0, 1, 4]), np.array([13, 10, 11, 14])),
        "b": (np.array([1, 2]), np.array([[0.5, 1], [2, 3]])),
    }
    return Manifest(["p0", "p1", "p2", "p3", "/elsewhere/p4"], targets, root="/data")


def as_dict(manifest: Manifest) -> list[tuple[str, dict[str, object]]]:
    found: list[tuple[str, dict[str, object]]] = [(str(manifest.path(i)), {}) for i in range(len(manifest))]
    for name, (rows, values) in manifest.targets.items():
        assert (np.diff(rows) > 0).all()
        for row, value in zip(rows, values.tolist(), strict=True):
            found[row][1][name] = value
    return found


def test_rows_are_put_in_order_with_their_values() -> None:
    assert as_dict(overlapping()) == [
        ("/data/p0", {"a": 10}),
        ("/data/p1", {"a": 11, "b": [0.5, 1]}),
        ("/data/p2", {"b": [2, 3]}),
        ("/data/p3", {"a": 13}),
        ("/elsewhere/p4", {"a": 14}),
    ]
    assert overlapping().targets["a"][1].dtype == np.int64
    assert overlapping().targets["b"][1].dtype == np.float32


@pytest.mark.parametrize("rows", [[4, 0, 2], [1], [], [3, 3], [0, 1, 2, 3, 4]])
def test_a_selection_keeps_each_row_with_its_targets(rows: list[int]) -> None:
    selected = overlapping().select(np.array(rows, dtype=int))
    assert as_dict(selected) == [as_dict(overlapping())[row] for row in rows]
    assert list(selected.targets) == ["a", "b"]


def test_task_ids_exist_where_each_row_has_one_task() -> None:
    assert overlapping().task_ids() is None
    assert overlapping().owners().tolist() == [1, 2, 1, 1, 1]
    assert overlapping().select(np.array([2, 0, 4])).task_ids().tolist() == [1, 0, 0]
    domains = Manifest.of_domains({"x": (["p"], np.array([3])), "y": (["q", "r"], np.array([1, 2]))}, "/data")
    assert domains.task_ids().tolist() == [0, 1, 1]
    assert as_dict(domains) == [("/data/p", {"x": 3}), ("/data/q", {"y": 1}), ("/data/r", {"y": 2})]


def test_joined_manifests() -> None:
    one, other = overlapping(), Manifest(["q"], {"b": (np.array([0]), np.array([[7.0, 8.0]]))}, root="/other")
    joined = Manifest.concat([one, other])
    assert as_dict(joined) == as_dict(one) + as_dict(other)
    same_root = Manifest.concat([one, one.select(np.array([1]))])
    assert as_dict(same_root) == [*as_dict(one), as_dict(one)[1]]
    assert same_root.root == Path("/data")
    with pytest.raises(DataError, match="task 'b' has targets of several kinds"):
        Manifest.concat([one, Manifest(["q"], {"b": (np.array([0]), np.array([1]))})])
    with pytest.raises(DataError, match="at least one manifest"):
        Manifest.concat([])


def test_digests_change_with_paths_and_targets() -> None:
    manifest = overlapping()
    other_value = Manifest(manifest.paths, {**manifest.targets, "a": (np.array([0]), np.array([11]))}, "/data")
    assert manifest.digest() == Manifest(list(manifest.paths), manifest.targets, "/moved").digest()
    assert len({m.digest() for m in (manifest, other_value, manifest.select(np.arange(4)))}) == 3


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([0, 1], [0], "task 'a': 2 rows but 1 targets"),
        ([0, 2], [0, 1], r"rows must lie in 0\.\.1 \(2 paths\), found 0\.\.2"),
        ([-1], [0], r"found -1\.\.-1"),
        ([1, 1], [0, 1], r"row 1 \(q\) has two targets"),
        ([0], ["cat"], "integers .classes. or floats"),
    ],
)
def test_targets_that_do_not_fit(rows: list[int], values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Manifest(["p", "q"], {"a": (np.array(rows), np.array(values))})


class Repeated(ManifestSource):
    """A few files, over and over: a million rows without a million files."""

    num_rows = 0

    def manifests(self) -> dict:
        names = [f"{'a_folder_with_a_rather_long_name':_<50}/{i}.jpg" for i in range(8)]
        half = self.num_rows // 2
        parts = {name: ((names[i % 8] for i in range(half)), np.arange(half) % 10) for name in ("a", "b")}
        return {"train": Manifest.of_domains(parts, self.root)}


def _first_batch(root: Path, num_rows: int, num_workers: int, told: Connection) -> None:
    """In a process of its own: what the first batch takes in memory (bytes) and time (seconds of this process)."""

    def status(key: str) -> int:
        return 1024 * int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    memory, started = status("VmRSS"), time.process_time()
    tasks = [make_task(name, num_outputs=10) for name in ("a", "b")]
    source = Repeated(tasks, Regime.MULTI_INPUT, root, ImageTransforms(8))
    source.num_rows = num_rows
    data = MultiTaskDataModule(source, batch_size=8, num_workers=num_workers)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    seconds = time.process_time() - started
    told.send((len(batch), status("VmHWM") - memory, seconds, len(pickle.dumps(data.dataset("train").manifest))))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("num_rows", "num_workers"), [(100_000, 0), (100_000, 2), pytest.param(1_000_000, 2, marks=pytest.mark.slow)]
)
def test_a_million_rows_take_little_memory(
    num_rows: int, num_workers: int, tmp_path: Path, image_files: ModuleType
) -> None:
    for i in range(8):
        image_files.write_picture(tmp_path / f"{'a_folder_with_a_rather_long_name':_<50}/{i}.jpg")
    here, there = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_first_batch, args=(tmp_path, num_rows, num_workers, there))
    process.start()
    assert here.poll(120), "no batch within two minutes"
    rows, memory, seconds, pickled = here.recv()
    process.join()
    millions = num_rows / 1e6
    assert rows == 8
    assert memory < 50e6 + 250e6 * millions
    assert seconds < 1 + 9 * millions
    assert pickled < 120e6 * millions
