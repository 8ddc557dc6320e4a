"""MedMNIST: what its archives hold, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import medmnist as package
import numpy as np
import pytest
import torch

from mola_lightning.core import ConfigError, DataError, Regime
from mola_lightning.data import BalancedSampler, ImageTransforms, MedMNIST, MultiTaskDataModule
from mola_lightning.data.medmnist import PAPER
from mola_lightning.losses import WeightedCrossEntropy

PLAIN = ImageTransforms(28)


@pytest.fixture(scope="session")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes the archives."""
    return load_script("medmnist_files")


@pytest.fixture
def made(tmp_path: Path, files: ModuleType) -> Callable[..., MedMNIST]:
    """``made("pathmnist", ...)``: the source of these data sets, with their archives."""

    def make(*names: str, transforms: ImageTransforms = PLAIN, **options: Any) -> MedMNIST:
        files.write_sets(tmp_path / "archives", list(names), options.get("size", 28))
        return MedMNIST(tmp_path / "archives", transforms, names, cache_root=tmp_path / "cache", **options)

    return make


Made = Callable[..., MedMNIST]


def test_the_nine_of_the_paper(tmp_path: Path, files: ModuleType) -> None:
    files.write_sets(tmp_path)
    source = MedMNIST(tmp_path, PLAIN, cache_root=tmp_path / "cache")
    assert tuple(task.name for task in source.tasks) == PAPER
    assert [task.num_outputs for task in source.tasks] == [9, 4, 11, 8, 2, 7, 11, 11, 2]
    assert source.tasks[4].class_names == ("malignant", "normal, benign")
    assert source.regime is Regime.MULTI_INPUT
    data = MultiTaskDataModule(source, batch_size=18, sampler=BalancedSampler)
    assert data.sizes()["octmnist"] == {"train": 8, "val": 4, "test": 4}
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (18, 3, 28, 28)
    assert set(batch.rows.counts.values()) == {2}


def test_images_and_labels_are_those_of_the_archive(made: Made, files: ModuleType) -> None:
    source = made("bloodmnist", "octmnist")
    test = source.dataset("test")
    blood, oct_ = files.arrays("bloodmnist"), files.arrays("octmnist")
    for row, sample in enumerate(test[row] for row in range(len(test))):
        pixels = ((sample.image * 0.5 + 0.5) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        if row < 8:
            np.testing.assert_array_equal(pixels, blood["test_images"][row])
            assert {name: int(value) for name, value in sample.targets.items()} == {"bloodmnist": row}
        else:
            np.testing.assert_array_equal(pixels, np.repeat(oct_["test_images"][row - 8][..., None], 3, axis=2))
            assert {name: int(value) for name, value in sample.targets.items()} == {"octmnist": row - 8}
    assert made("bloodmnist", transforms=ImageTransforms(14, channels=1)).dataset("val")[0].image.shape == (1, 14, 14)


def test_several_labels_and_classes_in_an_order(made: Made, files: ModuleType) -> None:
    source = made("chestmnist", "retinamnist")
    chest, retina = source.tasks
    assert (chest.num_outputs, chest.discrete, chest.monitor) == (14, False, "auc")
    assert set(chest.metrics(14)) == {"auc", "accuracy"}
    assert set(retina.metrics(5)) == {"accuracy", "auc", "mae"}
    np.testing.assert_array_equal(
        source.dataset("val")[3].targets["chestmnist"], files.arrays("chestmnist")["val_labels"][3]
    )


def test_other_sizes_have_other_files(made: Made, tmp_path: Path) -> None:
    source = made("pneumoniamnist", size=64, transforms=ImageTransforms(32))
    assert source.dataset("train")[0].image.shape == (3, 32, 32)
    with pytest.raises(DataError, match="there is no file .*pneumoniamnist.npz. mola-data download medmnist root="):
        MedMNIST(tmp_path / "archives", PLAIN, ["pneumoniamnist"]).prepare()


def test_arrays_are_mapped_and_not_loaded(made: Made, tmp_path: Path) -> None:
    source = made("pathmnist")
    source.prepare()
    unpacked = sorted((tmp_path / "cache").glob("*.npy"))
    assert [path.name.rpartition("-")[2] for path in unpacked] == [
        "test_images.npy",
        "train_images.npy",
        "val_images.npy",
    ]
    times = [path.stat().st_mtime_ns for path in unpacked]
    images = source.dataset("train").cache
    assert isinstance(images._mapped[0], np.memmap)
    source.prepare()
    assert [path.stat().st_mtime_ns for path in unpacked] == times
    batch = next(iter(MultiTaskDataModule(source, batch_size=6, num_workers=1).train_dataloader()))
    assert batch.images.shape == (6, 3, 28, 28)


def test_classes_can_weigh_alike(made: Made) -> None:
    (task,) = made("bloodmnist", class_weights="balanced").tasks
    assert isinstance(task.criterion, WeightedCrossEntropy)


def test_checksums(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made("breastmnist", "octmnist")
    for name in ("breastmnist", "octmnist"):
        monkeypatch.setitem(package.INFO[name], "MD5", source.archive(name).md5())
    assert dict(source.verify()) == {str(tmp_path / "archives" / f"{name}mnist.npz"): "" for name in ("breast", "oct")}
    assert source.num_files() == 2
    monkeypatch.setitem(package.INFO["octmnist"], "MD5", "0" * 32)
    assert [reason for _, reason in source.verify()] == ["", f"its MD5 is not the published one, {'0' * 32}"]


def test_a_download_without_a_network_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(package, "OCTMNIST", failing)
    md5 = package.INFO["octmnist"]["MD5_64"]
    with pytest.raises(DataError, match=f"octmnist_64.npz could not be fetched.*put it into .*new; its MD5 is {md5}"):
        MedMNIST(tmp_path / "new", PLAIN, ["octmnist"], size=64).download()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": ["pathminst"]}, "MedMNIST has no data set 'pathminst'; did you mean 'pathmnist'"),
        ({"subset": ["imagenet"]}, "there are pathmnist, chestmnist"),
        ({"subset": ["organmnist3d"]}, "organmnist3d has volumes, and networks here read images; the 2D data sets are"),
        ({"subset": "pathmnist"}, "subset must be a list of names, got 'pathmnist'"),
        ({"subset": []}, "subset must be a list of names"),
        ({"subset": ["octmnist", "octmnist"]}, "task names must be unique, found twice: octmnist"),
        ({"size": 32}, "size must be one of 28, 64, 128, 224, got 32"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MedMNIST("somewhere", PLAIN, **settings)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "medmnist", None)
    with pytest.raises(ConfigError, match=r"install it with: uv pip install 'mola-lightning\[medmnist\]'"):
        MedMNIST("somewhere", PLAIN)


def spoilt(arrays: dict[str, np.ndarray], **changes: Any) -> dict[str, np.ndarray]:
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: spoilt(a, val_images=None),
            "has no array 'val_images'; it has 'test_images', 'test_labels', 'train_",
        ),
        (lambda a: spoilt(a, train_labels=a["train_labels"][:-1]), "train has 8 images but 7 labels"),
        (
            lambda a: spoilt(a, train_labels=a["train_labels"][:, 0]),
            r"train_labels must be \(n, 1\), found shape \(8,\)",
        ),
        (lambda a: spoilt(a, test_labels=a["test_labels"] + 1), "labels must lie in 0..3 .* found 4 in the test split"),
        (lambda a: spoilt(a, test_images=a["test_images"] / 255), "must be uint8 .*found float64"),
        (
            lambda a: spoilt(a, val_images=np.array([{}], dtype=object)),
            "cannot be read: .*pickle|Array can't be memory",
        ),
        (lambda a: b"PK\x03\x04 nothing", "is damaged or no archive of arrays"),
        (lambda a: b"", "is damaged or no archive of arrays"),
        (lambda a: "half", "is damaged or no archive of arrays"),
    ],
)
def test_broken_archives_are_named(tmp_path: Path, files: ModuleType, change: Callable, message: str) -> None:
    files.write_sets(tmp_path, ["octmnist"])
    path = tmp_path / "octmnist.npz"
    changed = change(files.arrays("octmnist"))
    if isinstance(changed, dict):
        np.savez_compressed(path, **changed)
    else:
        path.write_bytes(path.read_bytes()[:3000] if changed == "half" else changed)
    source = MedMNIST(tmp_path, PLAIN, ["octmnist"], cache_root=tmp_path / "cache")
    with pytest.raises(DataError, match=message) as caught:
        source.prepare()
    assert "octmnist" in str(caught.value)
    assert not list((tmp_path / "cache").glob(".*")) if (tmp_path / "cache").exists() else True
    assert [bool(reason) for _, reason in source.verify()] == [True]
