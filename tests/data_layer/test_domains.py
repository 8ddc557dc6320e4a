"""VLCS, Office-Home, PACS and DomainNet in the layouts in which people have them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mola_lightning.core import ConfigError, DataError, Regime
from mola_lightning.data import (
    PACS,
    VLCS,
    BalancedSampler,
    DomainNet,
    ImageTransforms,
    MultiTaskDataModule,
    OfficeHome,
)
from mola_lightning.data.domains import DomainSource
from mola_lightning.data.office_home import OfficeHome as Home

SMALL = ImageTransforms(8)
FIVE = VLCS.class_names


@pytest.fixture(scope="session")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes the benchmarks."""
    return load_script("domain_files")


def paths_of(source: DomainSource, split: str) -> list[str]:
    manifest = source.dataset(split).manifest  # type: ignore[arg-type]
    return list(manifest.paths)


def disjoint(source: DomainSource) -> bool:
    everything = [path for split in ("train", "val", "test") for path in paths_of(source, split)]
    return len(set(everything)) == len(everything)


# ------------------------------------------------------------------------------------------------------------ VLCS


def test_vlcs_from_lists(tmp_path: Path, files: ModuleType) -> None:
    """Where the root's own name holds those of domains, and names hold spaces and letters that are not ASCII."""
    root = tmp_path / "SUN photos, PASCAL and CALTECH"
    for d, domain in enumerate(("PASCAL", "LABELME", "CALTECH", "SUN")):
        train = files.numbered(f"SUN x {domain} é", range(5), 4 + d)
        files.write_list(root, f"{domain}_train.txt", train)
        files.write_list(root, f"{domain}_crossval.txt", files.numbered(f"{domain}/kept", range(5), 2))
    source = VLCS(root, SMALL, val_fraction=0.25)
    assert source.regime is Regime.DOMAINS
    assert [task.name for task in source.tasks] == ["pascal", "labelme", "caltech", "sun"]
    assert source.tasks[0].class_names == ("bird", "car", "chair", "dog", "person")
    data = MultiTaskDataModule(source, batch_size=8, sampler=BalancedSampler)
    sizes = data.sizes()
    assert {name: n["test"] for name, n in sizes.items()} == dict.fromkeys(sizes, 10)
    assert {name: n["train"] + n["val"] for name, n in sizes.items()} == {
        "pascal": 20, "labelme": 25, "caltech": 30, "sun": 35,
    }  # fmt: skip
    for name, (_, values) in source.dataset("val").manifest.targets.items():
        assert set(values.tolist()) == set(range(5)), name
    assert all("kept" in path for path in paths_of(source, "test"))
    assert disjoint(source)
    assert paths_of(source, "val") == paths_of(VLCS(root, SMALL, val_fraction=0.25), "val")
    assert paths_of(source, "val") != paths_of(VLCS(root, SMALL, val_fraction=0.25, seed=1), "val")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (8, 3, 8, 8)
    assert set(batch.rows.counts.values()) == {2}
    assert source.record()["cut"]["fractions"] == {"train": 0.75, "val": 0.25}
    problems = dict(source.verify())
    assert len(problems) == source.num_files() == 110 + 40
    assert set(problems.values()) == {""}


@pytest.mark.parametrize("numbers", [False, True], ids=["names", "numbers"])
def test_vlcs_from_folders_of_splits(tmp_path: Path, files: ModuleType, numbers: bool) -> None:
    classes = "01234" if numbers else FIVE
    for split, count in (("train", 3), ("crossval", 1), ("test", 2), ("full", 1)):
        files.write_folders(tmp_path, [f"{d}/{split}" for d in ("CALTECH", "LABELME")], list(classes), count)
    source = VLCS(tmp_path, SMALL, domains=["labelme", "caltech"])
    sizes = MultiTaskDataModule(source).sizes()
    assert sizes == {key: {"train": 15, "val": 5, "test": 10} for key in ("labelme", "caltech")}
    labels = source.dataset("test").manifest.targets["caltech"][1]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(path.startswith(("CALTECH/test", "LABELME/test")) for path in paths_of(source, "test"))
    assert source.record()["cut"] is None


def test_vlcs_from_plain_folders_with_other_names(tmp_path: Path, files: ModuleType) -> None:
    files.write_folders(tmp_path, ["VOC2007", "LabelMe", "Caltech101", "SUN09"], FIVE, 4)
    source = VLCS(tmp_path, SMALL, val_fraction=0.25, test_fraction=0.25)
    sizes = MultiTaskDataModule(source).sizes()
    assert sizes == {key: {"train": 10, "val": 5, "test": 5} for key in ("pascal", "labelme", "caltech", "sun")}
    assert disjoint(source)


# --------------------------------------------------------------------------------------------- Office-Home, PACS, ...


def test_office_home_from_folders(tmp_path: Path, files: ModuleType) -> None:
    classes = ["Alarm_Clock", "TV", "Table", "Webcam"]
    files.write_folders(tmp_path, ["Art", "Clipart", "Product", "Real World"], classes, 10, "png")
    source = OfficeHome(tmp_path, SMALL)
    assert [task.name for task in source.tasks] == ["product", "art", "clipart", "real_world"]
    assert len(set(Home.class_names)) == 65
    assert list(Home.class_names) == sorted(Home.class_names)
    sizes = MultiTaskDataModule(source).sizes()
    assert sizes == {key: {"train": 32, "val": 4, "test": 4} for key in sizes}
    found = source.dataset("test").manifest.targets["real_world"][1].tolist()
    assert [Home.class_names[label] for label in found] == classes
    assert disjoint(source)


@pytest.mark.parametrize("absolute", [True, False])
def test_office_home_from_lists(tmp_path: Path, files: ModuleType, absolute: bool) -> None:
    for domain, folder in (("Product", "Product"), ("Real_World", "Real World")):
        lines = files.numbered(folder, (0, 64), 10)
        files.write_list(tmp_path, f"{domain}_img_label_list.txt", lines, absolute)
    source = OfficeHome(tmp_path, SMALL, domains=["product", "real_world"])
    assert MultiTaskDataModule(source).sizes()["real_world"] == {"train": 16, "val": 2, "test": 2}
    assert source.dataset("train")[0].image.shape == (3, 8, 8)


def test_pacs_lists_count_from_one(tmp_path: Path, files: ModuleType) -> None:
    for domain in ("photo", "sketch"):
        train = {f"{domain}/dog/{n}.jpg": 1 for n in range(10)} | {f"{domain}/person/{n}.jpg": 7 for n in range(10)}
        files.write_list(tmp_path, f"{domain}_train_kfold.txt", train)
        files.write_list(tmp_path, f"{domain}_crossval_kfold.txt", {f"{domain}/dog/v.jpg": 1})
        (tmp_path / f"{domain}_test_kfold.txt").write_text((tmp_path / f"{domain}_train_kfold.txt").read_text())
    source = PACS(tmp_path, SMALL, domains=["photo", "sketch"])
    assert MultiTaskDataModule(source).sizes()["sketch"] == {"train": 18, "val": 1, "test": 2}
    assert source.dataset("test").manifest.targets["photo"][1].tolist() == [0, 6]
    assert disjoint(source)
    files.write_list(tmp_path, "photo_crossval_kfold.txt", {"photo/dog/w.jpg": 0})
    with pytest.raises(DataError, match=r"photo_crossval_kfold.txt: labels must lie in 1..7 \(7 classes\), found 0"):
        PACS(tmp_path, SMALL, domains=["photo", "sketch"]).dataset("val")


def test_domain_net_finds_its_classes(tmp_path: Path, files: ModuleType) -> None:
    files.write_folders(tmp_path, ["clipart"], ["zebra", "apple"], 4)
    files.write_folders(tmp_path, ["real"], ["apple", "the_moon"], 4)
    source = DomainNet(tmp_path, SMALL, num_classes=3, domains=["real", "clipart"], test_fraction=0.25)
    (_, real), (_, clipart) = source.dataset("train").manifest.targets.values()
    assert set(real.tolist()) == {0, 1}
    assert set(clipart.tolist()) == {0, 2}
    with pytest.raises(DataError, match="345 classes are expected, but the domains real, clipart have 3 class folders"):
        DomainNet(tmp_path, SMALL, domains=["real", "clipart"]).dataset("train")


def test_domain_net_from_lists(tmp_path: Path, files: ModuleType) -> None:
    files.write_list(tmp_path, "quickdraw_train.txt", files.numbered("quickdraw", (0, 344), 10))
    files.write_list(tmp_path, "quickdraw_test.txt", files.numbered("quickdraw", (0, 344), 2, start=10))
    source = DomainNet(tmp_path, SMALL, domains=["quickdraw"])
    assert MultiTaskDataModule(source).sizes()["quickdraw"] == {"train": 18, "val": 2, "test": 4}


# ------------------------------------------------------------------------------------------------------------ faults


def test_settings_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each of domains must be one of 'pascal', .* got 'PASCAL'"):
        VLCS(tmp_path, SMALL, domains=["PASCAL"])
    with pytest.raises(ConfigError, match=r"domains must be a list of names, got 'sun'; write \[sun\]"):
        VLCS(tmp_path, SMALL, domains="sun")
    with pytest.raises(ConfigError, match="domains must name one at least"):
        VLCS(tmp_path, SMALL, domains=[])
    with pytest.raises(ConfigError, match="task names must be unique, found twice: sun"):
        VLCS(tmp_path, SMALL, domains=["sun", "sun"])
    with pytest.raises(ConfigError, match="layout must be one of"):
        VLCS(tmp_path, SMALL, layout="txt")


def test_what_is_missing_is_named(tmp_path: Path, files: ModuleType) -> None:
    with pytest.raises(DataError, match=r"vlcs: there is no folder .*nowhere. VLCS circulates as an archive"):
        VLCS(tmp_path / "nowhere", SMALL).prepare()
    files.write_folders(tmp_path, ["SUN09 photos", "PASCAL"], FIVE, 2)
    with pytest.raises(
        DataError, match="no folder of the domain 'sun' in .*; it may be called sun, SUN09. The folders"
    ):
        VLCS(tmp_path, SMALL, domains=["pascal", "sun"]).prepare()
    with pytest.raises(DataError, match="there is no list file .*PASCAL_train.txt"):
        VLCS(tmp_path, SMALL, layout="lists").prepare()
    files.write_folders(tmp_path, ["Sun"], FIVE, 2)
    files.write_folders(tmp_path, ["SUN09"], FIVE, 2)
    with pytest.raises(DataError, match="there is 2 folders of the domain 'sun' .*: SUN09, Sun"):
        VLCS(tmp_path, SMALL, domains=["sun"]).prepare()


def test_labels_classes_and_splits_that_do_not_fit(tmp_path: Path, files: ModuleType) -> None:
    files.write_list(tmp_path, "SUN_train.txt", files.numbered("SUN", range(6), 3))
    files.write_list(tmp_path, "SUN_crossval.txt", files.numbered("SUN", range(5), 3))
    with pytest.raises(DataError, match=r"SUN_train.txt: labels must lie in 0..4 .* found 5 for SUN/5/0.jpg"):
        VLCS(tmp_path, SMALL, domains=["sun"]).prepare()
    files.write_list(tmp_path, "SUN_train.txt", files.numbered("SUN", range(5), 4, start=2))
    with pytest.raises(
        DataError, match="the splits train and test share 5 images, first .*SUN/0/2.jpg; leave them out"
    ):
        VLCS(tmp_path, SMALL, domains=["sun"]).prepare()
    files.write_folders(tmp_path, ["pascal"], [*FIVE, "cat"], 1)
    with pytest.raises(DataError, match="holds folders that are none of its classes: 'cat'; expected 'bird', 'car'"):
        VLCS(tmp_path, SMALL, domains=["pascal"]).prepare()
    files.write_folders(tmp_path, ["caltech/train", "caltech/test", "labelme/train"], FIVE, 3)
    with pytest.raises(DataError, match="caltech come with a test split, labelme without"):
        VLCS(tmp_path, SMALL, domains=["caltech", "labelme"], layout="folders").prepare()
    for name in ("bird", "dog"):
        (tmp_path / "empty" / "sun" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="task 'sun' has no image in the train split"):
        VLCS(tmp_path / "empty", SMALL, domains=["sun"]).prepare()


def test_a_broken_file_is_found(tmp_path: Path, files: ModuleType) -> None:
    files.write_folders(tmp_path, ["sun", "pascal"], FIVE, 2)
    broken = tmp_path / "sun" / "dog" / "image 1.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    found = dict(VLCS(tmp_path, SMALL, domains=["sun", "pascal"]).verify())
    assert {path: reason for path, reason in found.items() if reason} == {str(broken): "truncated"}
    assert np.count_nonzero([not reason for reason in found.values()]) == 19
    with pytest.raises(DataError, match=r"vlcs cannot be fetched by a program. VLCS circulates as an archive"):
        VLCS(tmp_path, SMALL).download()
