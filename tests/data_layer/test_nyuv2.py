"""NYUv2: its files, its splits, and what is wrong with either."""

import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from mola_lightning.core import ConfigError, DataError, Regime
from mola_lightning.data import MultiTaskDataModule, NYUv2


@pytest.fixture(scope="session")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes the benchmark."""
    return load_script("nyuv2_files")


@pytest.fixture
def root(tmp_path: Path, files: ModuleType) -> Path:
    return files.write_nyuv2(tmp_path / "nyu v2")


def test_what_is_read_is_what_was_written(root: Path, files: ModuleType) -> None:
    source = NYUv2(root, size=None)
    assert source.regime is Regime.SINGLE_INPUT
    assert source.image_shape == (3, 288, 384)
    assert [(task.name, task.num_outputs, task.monitor) for task in source.tasks] == [
        ("segmentation", 13, "miou"), ("depth", 1, "abs_err"), ("normals", 3, "mean_angle"),
    ]  # fmt: skip
    test = source.dataset("test")
    assert len(test) == 4
    written = files.scene(102)
    sample = test[2]
    np.testing.assert_allclose(sample.image.permute(1, 2, 0), written["image"], atol=1e-6)
    np.testing.assert_array_equal(sample.targets["segmentation"], written["label"])
    np.testing.assert_allclose(sample.targets["depth"][0], written["depth"][..., 0], atol=1e-6)
    np.testing.assert_allclose(sample.targets["normals"].permute(1, 2, 0), written["normal"], atol=1e-6)
    assert sample.targets["segmentation"].dtype == torch.int64


def test_validation_is_cut_from_train(root: Path) -> None:
    sources = [NYUv2(root, val_fraction=0.2, seed=seed) for seed in (0, 0, 1)]
    rows = [[source.dataset(split).read.rows.tolist() for split in ("train", "val")] for source in sources]
    assert sorted(rows[0][0] + rows[0][1]) == list(range(10))
    assert len(rows[0][1]) == 2
    assert rows[0] == rows[1] != rows[2]
    record = sources[0].record()
    assert record["sizes"]["depth"] == {"train": 8, "val": 2, "test": 4}
    assert record["cut"] == {"fractions": {"train": 0.8, "val": 0.2}, "seed": 0}


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(root: Path, workers: int) -> None:
    data = MultiTaskDataModule(NYUv2(root, size=(12, 16)), batch_size=3, num_workers=workers)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (3, 3, 12, 16)
    assert batch.targets["segmentation"].shape == (3, 12, 16)
    assert batch.targets["normals"].shape == (3, 3, 12, 16)
    assert batch.rows.counts == dict.fromkeys(("segmentation", "depth", "normals"), 3)


def test_a_part_of_the_tasks_needs_a_part_of_the_files(root: Path) -> None:
    for split in ("train", "val"):
        for file in (root / split / "normal").iterdir():
            file.unlink()
        (root / split / "normal").rmdir()
    source = NYUv2(root, subset=["depth", "segmentation"])
    assert set(source.dataset("train")[0].targets) == {"depth", "segmentation"}
    with pytest.raises(DataError, match="nyuv2: there is no folder .*train/normal. Get the NYUv2 archive"):
        NYUv2(root).prepare()


def test_sound_files_are_found_sound(root: Path) -> None:
    source = NYUv2(root)
    found = dict(source.verify())
    assert len(found) == source.num_files() == 14 * 4
    assert set(found.values()) == {""}


def test_one_thread_at_a_time_parses_a_header(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 raises SystemError now and then where two do."""
    load, busy = np.load, threading.Lock()

    def alone(*args: Any, **kwargs: Any) -> Any:
        assert busy.acquire(blocking=False), "two threads parse at a time"
        try:
            time.sleep(0.001)
            return load(*args, **kwargs)
        finally:
            busy.release()

    monkeypatch.setattr(np, "load", alone)
    assert set(dict(NYUv2(root).verify()).values()) == {""}


def broken(root: Path, kind: str, array: object) -> Path:
    path = root / "val" / kind / "1.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("image", np.zeros((24, 32)), r"must be a map \(height, width, 3\), found shape \(24, 32\)"),
        ("label", np.full((24, 32), 13), r"labels must lie in 0..12, or be -1 for no label; found \[13\]"),
        ("label", np.full((24, 32), 255), r"found \[255\]"),
        ("depth", np.full((24, 32, 1), np.nan), "must be finite, found 768 of 768 that are NaN or infinite; write 0"),
        ("depth", np.full((24, 32, 1), np.inf), "must be finite, found 768 of 768"),
        ("normal", np.array([["x"]]), "must hold an array of numbers"),
        ("depth", b"", "cannot be read as an array of numbers"),
        ("depth", b"\x93NUMPY\x01\x00v\x00{'descr'", "cannot be read as an array of numbers"),
        ("depth", pickle.dumps({"a": 1}), "cannot be read as an array of numbers"),
        ("depth", np.ones((12, 16, 1)), "has 12 x 16 pixels, its image 24 x 32"),
    ],
)
def test_a_broken_file_is_named(root: Path, kind: str, content: object, message: str) -> None:
    path = broken(root, kind, content)
    source = NYUv2(root)
    with pytest.raises(DataError, match=message) as caught:
        source.dataset("test")[1]
    assert str(path) in str(caught.value)
    bad = {file: reason for file, reason in source.verify() if reason}
    assert list(bad) == ([] if "12 x 16" in message else [str(path)])


def test_normals_of_another_length_are_found(root: Path) -> None:
    path = broken(root, "normal", np.full((24, 32, 3), 0.9))
    assert {f: reason for f, reason in NYUv2(root).verify() if reason} == {str(path): "768 normals are not of length 1"}


def test_missing_files_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder .*nowhere. Get the NYUv2 archive"):
        NYUv2(tmp_path / "nowhere").prepare()
    (root / "train" / "depth" / "4.npy").unlink()
    with pytest.raises(DataError, match=r"train/depth lacks 4.npy; files must be numbered from 0 .*\(10\)"):
        NYUv2(root).prepare()
    for row in range(10):
        for kind in ("image", "label", "depth", "normal"):
            (root / "train" / kind / f"{row}.npy").unlink(missing_ok=True)
    with pytest.raises(DataError, match="train/image holds no files 0.npy"):
        NYUv2(root).prepare()


def test_settings_that_cannot_work(root: Path) -> None:
    with pytest.raises(ConfigError, match="each of subset must be one of 'segmentation', 'depth', 'normals', got 'x'"):
        NYUv2(root, subset=["x"])
    with pytest.raises(ConfigError, match="val_fraction must lie between 0 and 1, got 1"):
        NYUv2(root, val_fraction=1)
    with pytest.raises(DataError, match="nyuv2 cannot be fetched by a program. Get the NYUv2 archive"):
        NYUv2(root).download()
