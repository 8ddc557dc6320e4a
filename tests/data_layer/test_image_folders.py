"""A user's own data: folders, tables, any mixture of them, partial annotation, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mola_lightning.core import ConfigError, DataError, Regime
from mola_lightning.data import ImageFolders, ImageTransforms, MultiTaskDataModule, entry_rows

SMALL = ImageTransforms(8)


@pytest.fixture(scope="session")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes folders and tables."""
    return load_script("own_files")


def made(root: Path, entries: dict[str, Any], **options: Any) -> ImageFolders:
    return ImageFolders(root, entries, SMALL, **{"test_fraction": 0.2, "val_fraction": 0.2, **options})


def targets(source: ImageFolders, split: str = "train") -> dict[str, dict[str, Any]]:
    """Task -> path -> target."""
    manifest = source.dataset(split).manifest
    return {
        name: {manifest.paths[row]: value.tolist() for row, value in zip(rows, values, strict=True)}
        for name, (rows, values) in manifest.targets.items()
    }


# ---------------------------------------------------------------------------------------------------------- layouts


def test_two_folders_are_two_domains(tmp_path: Path, files: ModuleType) -> None:
    files.write_folder(tmp_path / "my phone", ["gut", "schlecht ä"], 10)
    files.write_folder(tmp_path / "camera", ["schlecht ä", "gut"], 10)
    source = made(tmp_path, {"phone": {"folder": "my phone"}, "camera": {"folder": "camera"}})
    assert source.regime is Regime.DOMAINS
    assert [task.class_names for task in source.tasks] == [("gut", "schlecht ä")] * 2
    data = MultiTaskDataModule(source, batch_size=8)
    assert data.sizes()["phone"] == {"train": 12, "val": 4, "test": 4}
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (8, 3, 8, 8)
    assert all(label == int("schlecht" in path) for path, label in targets(source)["camera"].items())


def test_folders_of_splits(tmp_path: Path, files: ModuleType) -> None:
    for split, count in (("training", 4), ("valid", 1), ("test", 2)):
        files.write_folder(tmp_path / "a" / split, ["x", "y"], count)
    source = made(tmp_path, {"a": {"folder": "a"}})
    assert MultiTaskDataModule(source).sizes() == {"a": {"train": 8, "val": 2, "test": 4}}
    assert source.record()["cut"] is None


def test_folders_and_tables_with_other_classes_are_tasks(tmp_path: Path, files: ModuleType) -> None:
    files.write_folder(tmp_path / "a", ["x", "y"], 10)
    rows = [
        {"file": f"deep er/{n}.jpg", "n": n % 3 * 5, "part": ("train", "val", "test")[n % 3 if n > 20 else 0]}
        for n in range(30)
    ]
    files.write_table(tmp_path / "lists" / "b.tsv", rows)
    source = made(tmp_path, {"a": {"folder": "a"}, "b": {"table": "lists/b.tsv", "image": "file", "label": "n"}})
    assert source.regime is Regime.MULTI_INPUT
    assert source.tasks[1].class_names == ("0", "5", "10")  # as numbers, not as words
    assert targets(source)["b"]["lists/deep er/4.jpg"] == 1
    with_splits = {"b": {"table": "lists/b.tsv", "image": "file", "label": "n", "split": "part"}}
    assert MultiTaskDataModule(made(tmp_path, with_splits)).sizes()["b"]["train"] == 24
    with pytest.raises(DataError, match="b come with a val split, a without. All must have the same splits"):
        made(tmp_path, {"a": {"folder": "a"}, **with_splits}).prepare()


def test_images_may_lie_elsewhere(tmp_path: Path, files: ModuleType) -> None:
    photo = files.write_photo(tmp_path / "elsewhere" / "1.jpg")
    files.write_photo(tmp_path / "data" / "pictures" / "2.jpg")
    table = tmp_path / "data" / "lists" / "t.csv"
    table.parent.mkdir()
    table.write_text(f"image,label\n{photo},a\n2.jpg,b\n./2.jpg,a\n" + "2.jpg,b\n" * 20 + "2.jpg,a\n" * 20)
    source = made(tmp_path / "data", {"t": {"table": "lists/t.csv", "images": "pictures"}})
    assert source.num_files() == 43
    assert set(dict(source.verify()).values()) == {""}


# ------------------------------------------------------------------------------------------------------------- kinds


FACES = [
    {"file": f"{n}.jpg", "age": n + 0.5 if n % 4 else "", "mood": ("glad", "sad")[n % 2],
     "mass": n % 2, "nodule": int(n % 3 == 0),
     "finds": "-" if n % 5 == 0 else "mass|nodule" if n % 2 else "nodule", "x": n, "y": -n, "who": n // 4}
    for n in range(40)
]  # fmt: skip


def test_an_image_of_several_entries_is_one_sample(tmp_path: Path, files: ModuleType) -> None:
    files.write_table(tmp_path / "faces.csv", FACES)
    table = {"table": "faces.csv", "image": "file"}
    source = made(
        tmp_path,
        {
            "age": {**table, "label": "age", "kind": "regression"},
            "mood": {**table, "label": "mood"},
            "finds": {**table, "label": "finds", "kind": "multi_label"},
            "flags": {**table, "label": ["mass", "nodule"], "kind": "multi_label", "metrics": ["auc"]},
            "place": {**table, "label": ["x", "y"], "kind": "regression"},
        },
    )
    assert source.regime is Regime.SINGLE_INPUT
    assert [(task.num_outputs, task.class_names, task.monitor) for task in source.tasks] == [
        (1, (), "mae"), (2, ("glad", "sad"), "accuracy"), (2, ("mass", "nodule"), "auc"),
        (2, ("mass", "nodule"), "auc"), (2, ("x", "y"), "mae"),
    ]  # fmt: skip
    found = {task: {} for task in ("age", "mood", "finds", "flags", "place")}
    for split in ("train", "val", "test"):
        for task, values in targets(source, split).items():
            found[task] |= values
    assert len(found["mood"]) == 40
    assert len(found["age"]) == 30  # the others are empty cells
    assert found["age"]["5.jpg"] == 5.5
    assert "4.jpg" not in found["age"]
    assert (found["finds"]["5.jpg"], found["finds"]["1.jpg"], found["finds"]["2.jpg"]) == ([0, 0], [1, 1], [0, 1])
    assert (found["flags"]["3.jpg"], found["place"]["3.jpg"]) == ([1, 1], [3, -3])
    batch = next(iter(MultiTaskDataModule(source, batch_size=24).train_dataloader()))
    assert len(batch) == 24
    assert batch.rows.counts["mood"] == 24 > batch.rows.counts["age"] > 0
    assert batch.targets["place"].shape == (24, 2)


def test_a_table_of_several_entries_is_read_once(tmp_path: Path, files: ModuleType, monkeypatch: Any) -> None:
    files.write_table(tmp_path / "faces.csv", FACES)
    opened = []
    read = entry_rows.read_table
    monkeypatch.setattr(entry_rows, "read_table", lambda path, *rest: opened.append(path) or read(path, *rest))
    table = {"table": "faces.csv", "image": "file"}
    made(tmp_path, {"a": {**table, "label": "age", "kind": "regression"}, "b": {**table, "label": "mood"}}).prepare()
    assert opened == [tmp_path / "faces.csv"]


def test_an_image_in_two_rows_of_a_table_is_one_sample(tmp_path: Path, files: ModuleType) -> None:
    rows = [("1.jpg", "a", ""), ("2.jpg", "b", 5), ("1.jpg", "", 7), ("3.jpg", "", 8), ("2.jpg", "a", "")]
    files.write_table(tmp_path / "t.csv", [dict(zip(("file", "mood", "age"), row, strict=True)) for row in rows])
    table = {"table": "t.csv", "image": "file"}
    entries = {"mood": {**table, "label": "mood"}, "age": {**table, "label": "age", "kind": "regression"}}
    manifest = made(tmp_path, entries).manifests()["train"]
    found = {
        task: [(manifest.paths[row], value) for row, value in zip(*pair, strict=True)]
        for task, pair in manifest.targets.items()
    }
    assert len(manifest) == 4
    assert sorted(found["mood"]) == [("1.jpg", 0), ("2.jpg", 0), ("2.jpg", 1)]
    assert sorted(found["age"]) == [("1.jpg", 7), ("2.jpg", 5), ("3.jpg", 8)]
    owners = dict(zip(manifest.paths, manifest.owners(), strict=True))
    assert (owners["1.jpg"], owners["3.jpg"]) == (2, 1)


def test_a_path_written_in_two_ways_is_one_sample(tmp_path: Path, files: ModuleType) -> None:
    files.write_table(tmp_path / "faces.csv", FACES)
    files.write_table(tmp_path / "again.csv", [{**row, "file": f"./{row['file']}"} for row in FACES])
    source = made(
        tmp_path,
        {
            "mood": {"table": "faces.csv", "image": "file", "label": "mood"},
            "again": {"table": "again.csv", "image": "file", "label": "mood"},
        },
    )
    for split in ("train", "val", "test"):  # else a cut could put one image into two splits
        mood, again = targets(source, split).values()
        assert mood == again


def test_groups_stay_together(tmp_path: Path, files: ModuleType) -> None:
    files.write_table(tmp_path / "faces.csv", FACES)
    table = {"table": "faces.csv", "image": "file"}
    entries = {"mood": {**table, "label": "mood", "group": "who"}, "mass": {**table, "label": "mass", "group": "who"}}
    source = made(tmp_path, entries)
    who = [
        {int(path.split(".")[0]) // 4 for path in targets(source, split)["mood"]} for split in ("train", "val", "test")
    ]
    assert sum(map(len, who)) == 10 == len(set().union(*who))


def test_class_weights_and_order(tmp_path: Path, files: ModuleType) -> None:
    files.write_folder(tmp_path / "a", ["x", "y"], 10)
    source = made(tmp_path, {"a": {"folder": "a", "class_names": ["y", "x"], "class_weights": [1, 3]}})
    assert all(label == int("/x/" in path) for path, label in targets(source)["a"].items())
    assert source.tasks[0].criterion.weights == (1.0, 3.0)


def test_repeated_rows_stay_rows(tmp_path: Path, files: ModuleType) -> None:
    files.write_table(tmp_path / "t.csv", [{"file": f"{n % 4}.jpg", "label": n % 2} for n in range(100)])
    entries = {"t": {"table": "t.csv", "image": "file"}}
    assert sum(MultiTaskDataModule(made(tmp_path, entries)).sizes()["t"].values()) == 100
    twice = {"a": entries["t"], "b": entries["t"]}
    source = made(tmp_path, twice)
    assert source.num_files() == 100
    assert source.regime is Regime.SINGLE_INPUT


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "entries must name one domain or task at least"),
        ({"a": "phone"}, r"entry 'a' must be a mapping such as {folder: a}, got 'phone'"),
        ({"a": {"dir": "phone"}}, "each key of entry 'a' must be one of 'folder', 'table', .*got 'dir'"),
        ({"a": {}}, "entry 'a' must have either a folder of images or a table of them"),
        ({"a": {"folder": "a", "table": "b"}}, "either a folder of images or a table"),
        ({"a": {"folder": "a", "label": "x"}}, "entry 'a' is a folder; label are for tables"),
        ({"a": {"folder": "a", "kind": "regression"}}, "a folder gives each image one class, so its kind cannot be"),
        ({"a": {"table": "a", "kind": "single"}}, "the kind of entry 'a' must be one of 'single_label'"),
        ({"a": {"table": "t", "label": ["x", "y"]}}, "of kind single_label has one column of labels"),
        ({"a": {"folder": "a", "class_names": ["x", "y"]}, "A": {"folder": "b", "class_names": ["x", "y"]}},
         "more than their case"),
        ({"a b": {"folder": "a", "class_names": ["x", "y"]}}, "a task's name must be a word"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path: Path, entries: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, entries)


def test_nothing_is_read_where_everything_is_said(tmp_path: Path) -> None:
    entry = {"folder": "a", "class_names": ["x", "y"]}
    source = made(tmp_path / "nowhere", {"a": entry})
    with pytest.raises(DataError, match="there is no folder .*nowhere. Set root to the folder"):
        source.prepare()
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        made(tmp_path / "nowhere", {"a": {"folder": "a"}})


@pytest.mark.parametrize(
    ("content", "entry", "message"),
    [
        (None, {}, "there is no table .*t.csv"),
        ("image,kind\na.jpg,1\n", {}, "t.csv has no column 'label'; its columns are 'image', 'kind'"),
        ("image,label\n", {"class_names": ["a", "b"]}, "entry 't': no image with a label in .*t.csv"),
        ("image,label\na.jpg,\n", {"class_names": ["a", "b"]}, "no image with a label"),
        ("image,label\na.jpg,cat\nb.jpg,dgo\n", {"class_names": ["cat", "dog"]},
         "row 3 of .*t.csv: a class must be one of cat, dog, found 'dgo' for task 't'"),
        ("image,label\na.jpg,1\n,2\n", {}, "row 3 of .*t.csv names no image in its column 'image'"),
        ("image,label\na.jpg,1.5\nb.jpg,old\n", {"kind": "regression"},
         "row 3 of .*: a finite number is needed.*'old'"),
        ("image,label\na.jpg,nan\n", {"kind": "regression"}, "row 2 of .*a finite number is needed.*found 'nan'"),
        ("image,x,y\na.jpg,1,\n", {"kind": "regression", "label": ["x", "y"]},
         "row 2 of .* but not y; fill in all, or"),
        ("image,x,y\na.jpg,1,2\n", {"kind": "multi_label", "label": ["x", "y"]},
         "row 2 .*labels must be 0 or 1, found"),
        ("image,label\na.jpg,x|z\n", {"kind": "multi_label", "class_names": ["x", "y"]}, "labels must be among x, y"),
        ("image,label,part\na.jpg,1,train\nb.jpg,2,tset\n", {"split": "part"},
         "row 3 of .*'tset' in the column 'part' is no split; expected train, val or test"),
        ("image,label,part\na.jpg,1,train\nb.jpg,2,test\n", {"split": "part"},
         "entry 't': no training image of '2', which other splits have"),
        ("image,label\na.jpg,only\n", {}, "needs 2 classes or more, got 1"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path: Path, content: str | None, entry: dict, message: str) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises((DataError, ConfigError), match=message):
        made(tmp_path, {"t": {"table": "t.csv", **entry}}).prepare()


def test_an_image_that_is_missing_is_found(tmp_path: Path, files: ModuleType) -> None:
    files.write_table(tmp_path / "t.csv", [{"file": f"{n}.jpg", "label": n % 2} for n in range(20)])
    (tmp_path / "7.jpg").unlink()
    source = made(tmp_path, {"t": {"table": "t.csv", "image": "file"}})
    assert [reason for _, reason in source.verify() if reason] == ["missing"]
    assert np.isfinite(source.num_files())
