"""Sources of image files: splits that exist or are cut, checked, recorded, and refused with a reason."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mola_lightning.core import ConfigError, DataError, Regime
from mola_lightning.data import ImageTransforms, Manifest, ManifestSource, MultiTaskDataModule, make_task
from mola_lightning.losses import WeightedCrossEntropy

PLAIN = ImageTransforms(8)
TASKS = (make_task("a", num_outputs=3), make_task("b", num_outputs=2))


class Made(ManifestSource):
    """Whatever splits a test gives it."""

    expects = "Fetch it from nowhere."
    splits: dict
    patients: np.ndarray | None = None

    def manifests(self) -> dict:
        return self.splits

    def groups(self) -> np.ndarray | None:
        return self.patients


def domains(a: list[int], b: list[int], split: str = "train") -> Manifest:
    """A manifest with so many rows of each class of tasks a and b; files need not exist."""
    items = {}
    for name, sizes in (("a", a), ("b", b)):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        items[name] = ([f"{name}/{label}/{i}.png" for i, label in enumerate(labels)], labels)
    return Manifest.of_domains(items, f"/data/{split}")


def made(splits: dict, tasks: tuple = TASKS, **options: object) -> Made:
    source = Made(tasks, Regime.MULTI_INPUT, None, PLAIN, **options)
    source.splits = splits
    return source


def paths(source: Made, split: str) -> set[str]:
    manifest = source.dataset(split).manifest
    return {str(manifest.path(row)) for row in range(len(manifest))}


def test_published_splits_are_taken_as_they_are() -> None:
    splits = {name: domains([4, 4, 4], [size, 5], name) for name, size in (("train", 9), ("val", 2), ("test", 3))}
    source = made(splits)
    for split, manifest in splits.items():
        dataset = source.dataset(split)
        assert dataset.manifest is manifest
        assert dataset.training == (split == "train")
    assert source.record()["cut"] is None
    assert source.record()["sizes"]["b"] == {"train": 14, "val": 7, "test": 8}


def test_splits_that_share_images_are_refused() -> None:
    splits = {"train": domains([4, 4, 4], [4, 5]), "val": domains([1, 1, 1], [1, 1], "val"), "test": domains([1], [1])}
    with pytest.raises(DataError, match="the splits train and test share 2 images, first /data/train/a/0/0.png; leave"):
        made(splits).dataset("val")


def test_a_missing_validation_split_is_cut_from_train() -> None:
    splits = {"train": domains([20, 10, 10], [50, 30]), "test": domains([1, 1, 1], [1, 1], "test")}
    source = made(splits, seed=4)
    train, val = paths(source, "train"), paths(source, "val")
    assert not train & val
    assert train | val == {str(splits["train"].path(row)) for row in range(120)}
    labels = source.dataset("val").labels()
    assert (np.bincount(labels["a"]).tolist(), np.bincount(labels["b"]).tolist()) == ([2, 1, 1], [5, 3])
    assert paths(made(splits, seed=4), "val") == val
    assert paths(made(splits, seed=5), "val") != val
    record = json.loads(json.dumps(source.record()))
    assert record["cut"] == {"fractions": {"train": 0.9, "val": 0.1}, "seed": 4}
    assert record["sizes"]["a"] == {"train": 36, "val": 4, "test": 3}
    digests = [made(splits, seed=seed).record()["digests"] for seed in (4, 5)]
    assert digests[0] == record["digests"]
    assert (digests[0]["train"] != digests[1]["train"], digests[0]["test"] == digests[1]["test"]) == (True, True)


def test_a_missing_test_split_is_cut_only_where_it_is_asked_for() -> None:
    splits = {"train": domains([20, 10, 10], [50, 30])}
    with pytest.raises(DataError, match="made has no test split; it has train, val"):
        made(splits).dataset("test")
    source = made(splits, val_fraction=0.2, test_fraction=0.3)
    sizes = source.record()["sizes"]
    assert sizes == {"a": {"train": 20, "val": 8, "test": 12}, "b": {"train": 40, "val": 16, "test": 24}}
    assert not paths(source, "test") & (paths(source, "train") | paths(source, "val"))


def test_groups_stay_on_one_side_of_a_cut() -> None:
    source = made({"train": domains([20, 10, 10], [50, 30])}, val_fraction=0.25)
    source.patients = np.arange(120) // 4
    manifest = source.splits["train"]
    patient_of = {str(manifest.path(row)): row // 4 for row in range(120)}
    train, val = ({patient_of[path] for path in paths(source, split)} for split in ("train", "val"))
    assert not train & val
    assert 6 <= len(val) <= 9


def test_rows_of_several_tasks_and_kinds_are_cut_too() -> None:
    """By the first task of a row: its class, its rarest label, or where its number lies."""
    rng = np.random.default_rng(0)
    labels = np.zeros((100, 3), dtype=np.float32)
    labels[:, 0] = 1
    labels[:10, 1] = 1
    labels[90:, 0] = 0
    tasks = (make_task("findings", "multi_label", 3), make_task("age", "regression", 1), make_task("c", num_outputs=2))
    targets = {
        "findings": (np.arange(100), labels),
        "age": (np.arange(100, 200), rng.uniform(0, 90, 100)),
        "c": (np.arange(150, 250), np.repeat([0, 1], 50)),
    }
    source = made({"train": Manifest([f"{i}.png" for i in range(250)], targets)}, tasks)
    found = source.dataset("val").manifest.targets
    assert found["findings"][1].sum(axis=0).tolist() == [9, 1, 0]  # the rare label once, no label at all once
    assert len(found["findings"][0]) == 10
    assert len(found["age"][0]) == 10
    assert np.histogram(found["age"][1], np.quantile(targets["age"][1], np.linspace(0, 1, 11)))[0].tolist() == [1] * 10
    assert source.dataset("train").task_ids() is None


def test_balanced_class_weights() -> None:
    source = made({"train": domains([20, 10, 10], [50, 30])}, class_weights="balanced")
    data = MultiTaskDataModule(source, batch_size=4)
    criteria = [task.criterion for task in data.tasks]
    assert all(isinstance(criterion, WeightedCrossEntropy) for criterion in criteria)
    counts = np.array([18, 9, 9])  # of the rows that are trained on
    assert criteria[0].weights == pytest.approx(36 / (3 * counts))
    assert source.dataset("train").tasks == data.tasks


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_missing_root_is_told_with_what_to_do(tmp_path: Path) -> None:
    source = Made(TASKS, Regime.MULTI_INPUT, tmp_path / "nowhere", PLAIN)  # not before data are asked for
    with pytest.raises(DataError, match=r"made: there is no folder .*nowhere\. Fetch it from nowhere\."):
        source.prepare()


GOOD = domains([4, 4, 4], [6, 6])


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"val": GOOD}, r"there is no train split; found \['val'\]. Fetch it"),
        ({"train": GOOD, "valid": GOOD}, "split must be one of"),
        ({"train": domains([4, 4, 4], [])}, "task 'b' has no image in the train split"),
        ({"train": GOOD, "test": domains([], [2, 2])}, "task 'a' has no image in the test split"),
        ({"train": domains([4, 4, 4], [1])}, "task 'b' has no image in the val split. .*a larger fraction"),
        (
            {"train": domains([4, 4, 4, 4], [6, 6])},
            r"task 'a': labels must lie in 0\.\.2.*found 3 in .*at /data/train/a/3/12.png",
        ),
        ({"train": Manifest(["p"], {"x": (np.array([0]), np.array([0]))})}, r"targets of unknown tasks \['x'\]"),
        (
            {"train": Manifest(["p"], {"a": (np.array([0]), np.array([0.5]))})},
            r"task 'a': a class index an image is needed in the train split, got float32 \(1,\)",
        ),
    ],
)
def test_splits_that_cannot_be_used(splits: dict, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        made(splits).dataset("train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.0, 1.0]]), r"task 'n': 1 floats an image are needed in the train split, got float32 \(1, 2\)"),
        (np.array([3]), "got int64"),
        (np.array([np.nan]), "not a finite number in the train split, first at p; leave the row out"),
    ],
)
def test_numbers_that_cannot_be_learned(values: np.ndarray, message: str) -> None:
    manifest = Manifest(["p"], {"n": (np.array([0]), values)})
    with pytest.raises(DataError, match=message):
        made({"train": manifest, "val": manifest}, (make_task("n", "regression", 1),)).dataset("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction must lie between 0 and 1, got 0.0"),
        ({"val_fraction": None}, "model selection needs validation images"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"test_fraction": 1.5}, "test_fraction must lie between"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be one of 'error', 'skip'"),
        ({"cache": "gpu"}, "cache must be one of None, 'disk', 'ram'"),
        ({"class_weights": "inverse"}, "class_weights must be one of None, 'balanced'"),
        ({"tasks": (TASKS[0], TASKS[0])}, "task names must be unique, found twice: a"),
    ],
)
def test_settings_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made({"train": GOOD}, **options)


def test_one_cache_serves_all_that_is_cut_from_a_split(tmp_path: Path, image_files: ModuleType) -> None:
    for name in ("a", "b"):
        for i in range(10):
            image_files.write_picture(tmp_path / "images" / f"{name}{i}.png", seed=i)
    items = {name: ([f"{name}{i}.png" for i in range(10)], np.arange(10) % 2) for name in ("a", "b")}
    tasks = tuple(make_task(name, num_outputs=2) for name in ("a", "b"))
    for seed in (0, 1):
        source = Made(
            tasks,
            Regime.DOMAINS,
            tmp_path / "images",
            PLAIN,
            0.2,
            seed=seed,
            cache="disk",
            cache_root=tmp_path / "cache",
        )
        source.splits = {"train": Manifest.of_domains(items, tmp_path / "images")}
        source.prepare()
        for split in ("train", "val"):
            dataset, plain = (
                source.dataset(split),
                made(source.splits, tasks, val_fraction=0.2, seed=seed).dataset(split),
            )
            assert all((dataset[row].image == plain[row].image).all() for row in range(len(plain)))
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1
