"""RadImageNet: one label space in the lists, eleven in the tasks."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mola_lightning.core import ConfigError, DataError, Regime
from mola_lightning.data import ImageTransforms, MultiTaskDataModule, RadImageNet
from mola_lightning.data.radimagenet import NUM_LABELS, STARTS, TASKS

SMALL = ImageTransforms(8)


@pytest.fixture(scope="session")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes the benchmarks."""
    return load_script("domain_files")


def test_the_ranges_are_those_of_the_released_lists() -> None:
    assert NUM_LABELS == 165
    assert list(STARTS.values()) == [0, 6, 34, 36, 49, 67, 81, 90, 115, 141, 151]
    assert [width for width, _ in TASKS.values()] == [6, 28, 2, 13, 18, 14, 9, 25, 26, 10, 14]


def test_labels_become_those_of_their_task(tmp_path: Path, files: ModuleType) -> None:
    files.write_list(tmp_path, "rad_train_shuffled.txt", {f"x {n}/{y}.png": y for n in range(3) for y in range(165)})
    files.write_list(tmp_path, "rad_test.txt", {f"kept/{label}.png": label for label in range(165)})
    source = RadImageNet(tmp_path, SMALL)
    assert source.regime is Regime.MULTI_INPUT
    sizes = MultiTaskDataModule(source).sizes()
    assert {name: n["test"] for name, n in sizes.items()} == {name: width for name, (width, _) in TASKS.items()}
    manifest = source.dataset("test").manifest
    for name, (rows, values) in manifest.targets.items():
        assert values.tolist() == list(range(TASKS[name][0]))
        assert [manifest.paths[row] for row in rows] == [f"kept/{STARTS[name] + value}.png" for value in values]
    part = RadImageNet(tmp_path, SMALL, subset=["mr_hip", "us_thyroid"])
    sizes = MultiTaskDataModule(part).sizes()
    assert {name: sum(n.values()) for name, n in sizes.items()} == {"mr_hip": 56, "us_thyroid": 8}
    sample = part.dataset("test")[15]
    assert {name: int(value) for name, value in sample.targets.items()} == {"mr_hip": 13}


def test_from_folders(tmp_path: Path, files: ModuleType) -> None:
    files.write_folders(tmp_path, ["US/thyroid"], ["nodule", "normal"], 10, "png")
    files.write_folders(tmp_path, ["MR/ankle foot"], [f"finding {n:02}" for n in range(25)], 10, "png")
    settings = {"subset": ["us_thyroid", "mr_ankle"], "folders": {"mr_ankle": "MR/ankle foot"}}
    source = RadImageNet(tmp_path, SMALL, **settings)
    sizes = MultiTaskDataModule(source).sizes()
    assert sizes["us_thyroid"] == {"train": 16, "val": 2, "test": 2}
    assert sum(sizes["mr_ankle"].values()) == 250


def test_what_does_not_fit_is_said(tmp_path: Path, files: ModuleType) -> None:
    with pytest.raises(ConfigError, match="each of subset must be one of 'ct_lung', .* got 'lung'"):
        RadImageNet(tmp_path, SMALL, subset=["lung"])
    with pytest.raises(DataError, match="there is no folder .*CT/lung"):
        RadImageNet(tmp_path, SMALL).prepare()
    files.write_folders(tmp_path, ["US/thyroid"], ["a", "b", "c"], 1)
    with pytest.raises(
        DataError, match=r"'us_thyroid' has 2 classes, but .*US/thyroid holds 3 folders.*option folders"
    ):
        RadImageNet(tmp_path, SMALL, subset=["us_thyroid"]).prepare()
    files.write_list(tmp_path, "rad_train_shuffled.txt", {"a.png": 165})
    with pytest.raises(DataError, match=r"labels must lie in 0..164 \(165 classes\), found 165 for a.png"):
        RadImageNet(tmp_path, SMALL).prepare()
    files.write_list(tmp_path, "rad_train_shuffled.txt", {f"{label}.png": label for label in range(150)})
    with pytest.raises(DataError, match="there is no list file .*rad_test.txt"):
        RadImageNet(tmp_path, SMALL).prepare()
    files.write_list(tmp_path, "rad_test.txt", {f"t{label}.png": label for label in range(165)})
    with pytest.raises(DataError, match="task 'mr_hip' has no image in the train split"):
        RadImageNet(tmp_path, SMALL).prepare()
