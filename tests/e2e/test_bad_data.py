"""Images that are odd train; images that are broken stop a run with a message, or are left out and told."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mola_lightning.cli.train import main

Command = Callable[..., Any]
SETTINGS = (
    "data=image_folders",
    "~data.source.entries.camera",
    "+data.source.entries.web.folder=camera",
    "data.source.val_fraction=0.2",
    "data.source.test_fraction=0.2",
    "data.num_workers=0",
    "data.batch_size=8",
    "transform.size=16",
    "architecture=hps",
    "backbone.widths=[4,6]",
    "backbone.blocks=[1,1]",
    "trainer.max_epochs=1",
    "figures=false",
    "hydra.run.dir=run",
)


# of benchmarks in their true layouts: small, and with the loading in the main process
TINY = (
    "data.num_workers=0",
    "data.batch_size=4",
    "architecture=hps",
    "backbone.widths=[4,6]",
    "backbone.blocks=[1,1]",
    "trainer.max_epochs=1",
    "figures=false",
    "paths.data=.",
    "paths.cache=cache",
    "hydra.run.dir=run",
)


@pytest.fixture
def root(tmp_path: Path, load_script: Callable[[str], ModuleType]) -> Path:
    """Two domains of photographs, and in one class every mode that an image file can have."""
    folder = tmp_path / "photos ä"
    for name in ("phone", "camera"):
        load_script("own_files").write_folder(folder / name, ["bad", "good"], 10)
    load_script("image_files").write_modes(folder / "phone" / "good")
    load_script("own_files").write_photo(folder / "phone" / "bad" / "mit Kratzern, größer (2).jpg")
    return folder


def test_grey_palette_cmyk_and_16_bit_images_and_any_name_train(command: Command, root: Path) -> None:
    outcome = command(main, *SETTINGS, f"data.source.root='{root}'")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(("content", "reason"), [(0.5, "truncated"), (0, "empty")])
def test_a_broken_image_stops_a_run_or_is_left_out(command: Command, root: Path, content: float, reason: str) -> None:
    for broken in sorted((root / "camera" / "good").iterdir()):
        data = broken.read_bytes()
        broken.write_bytes(data[: int(len(data) * content)])
    outcome = command(main, *SETTINGS, f"data.source.root='{root}'")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert f": {reason}" in outcome.err
    assert "on_bad_image=skip" in outcome.err
    skipped = command(main, *SETTINGS, f"data.source.root='{root}'", "data.source.on_bad_image=skip", "hydra.run.dir=b")
    assert skipped.code == 0, skipped.err
    assert f"({reason})" in skipped.err
    assert "images of the train split could not be read and were left out" in " ".join(skipped.err.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source.root=nowhere", "there is no folder nowhere"),
        ("data.source.entries.phone.folder=pone", "there is no folder"),
        ("data.source.entries.phone.class_names=[good,worse]", "none of its classes: 'bad'; expected 'good', 'worse'"),
    ],
)
def test_missing_data_leave_nothing_behind(command: Command, root: Path, override: str, message: str) -> None:
    place = () if "root" in override else (f"data.source.root='{root}'",)
    outcome = command(main, *SETTINGS, *place, override)
    assert outcome.code == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("run").exists()


Script = Callable[[str], ModuleType]


def vlcs(script: Script) -> None:
    files = script("domain_files")
    for domain in ("PASCAL", "SUN"):
        files.write_list(Path("vlcs"), f"{domain}_train.txt", files.numbered(domain, range(5), 4))
        files.write_list(Path("vlcs"), f"{domain}_crossval.txt", files.numbered(f"{domain}/kept", range(5), 1))


def vlcs_without_a_list(script: Script) -> None:
    vlcs(script)
    Path("vlcs/SUN_crossval.txt").unlink()


def vlcs_mislabelled(script: Script) -> None:
    vlcs(script)
    with open("vlcs/SUN_crossval.txt", "a") as file:
        file.write("SUN/odd one.jpg 5\n")


def vlcs_with_an_empty_domain(script: Script) -> None:
    vlcs_with_folders(script)
    shutil.rmtree("vlcs/SUN")
    Path("vlcs/SUN/bird").mkdir(parents=True)


def vlcs_with_folders(script: Script) -> None:
    five = ["bird", "car", "chair", "dog", "person"]
    script("domain_files").write_folders(Path("vlcs"), ["PASCAL", "SUN"], five, 10)


def archive_without_labels(script: Script) -> None:
    arrays = script("medmnist_files").arrays("octmnist")
    Path("medmnist").mkdir()
    np.savez("medmnist/octmnist.npz", **{name: array for name, array in arrays.items() if name != "val_labels"})


def depth_that_is_no_number(script: Script) -> None:
    script("nyuv2_files").write_nyuv2(Path("nyuv2"), train=8, test=2)
    for row in range(8):
        path = Path(f"nyuv2/train/depth/{row}.npy")
        depth = np.load(path)
        depth[3, 4] = np.nan
        np.save(path, depth)


def a_table_without_labels(script: Script) -> None:
    script("own_files").write_table(Path("own/camera.csv"), [{"file": f"{n}.jpg", "kind": ""} for n in range(9)])


def an_entry_twice(script: Script) -> None:
    Path("mine/data").mkdir(parents=True)
    Path("mine/data/parts.yaml").write_text(
        "_target_: mola_lightning.data.MultiTaskDataModule\nsource:\n  entries:\n"
        "    phone: {folder: a}\n    phone: {folder: b}\n"
    )


VLCS = ("data=vlcs", "data.source.domains=[pascal,sun]", "transform.size=16")
OWN = ("data=image_folders", "data.source.root=own", "~data.source.entries.phone")
BROKEN = {
    "no root": (None, (*VLCS,), ["vlcs: there is no folder vlcs. VLCS circulates as an archive"]),
    "no list": (vlcs_without_a_list, VLCS, ["there is no list file vlcs/SUN_crossval.txt. Put it there"]),
    "a label out of range": (
        vlcs_mislabelled,
        VLCS,
        ["vlcs/SUN_crossval.txt: labels must lie in 0..4 (5 classes), found 5 for SUN/odd one.jpg. Mend the line"],
    ),
    "an empty domain": (
        vlcs_with_an_empty_domain,
        (*VLCS, "data.source.test_fraction=0.2"),
        ["task 'sun' has no image in the train split. Add images, leave the task out"],
    ),
    "no test split": (
        vlcs_with_folders,
        VLCS,
        ["vlcs has no test split; it has train, val; set test=false, or cut one from train (test_fraction)"],
    ),
    "an empty task": (
        a_table_without_labels,
        OWN,
        ["entry 'camera': no image with a label in own/camera.csv; one at least is needed, with a cell in kind"],
    ),
    "an archive without an array": (
        archive_without_labels,
        ("data=medmnist", "data.source.subset=[octmnist]"),
        ["medmnist/octmnist.npz has no array 'val_labels'; it has 'test_images', ", "Replace the file. mola-data"],
    ),
    "depth that is NaN": (
        depth_that_is_no_number,
        ("data=nyuv2", "head=light", "data.source.size=[12,16]", "head.width=4"),
        [
            "nyuv2/train/depth/",
            ".npy: all values must be finite, found 1 of 768 that are NaN",
            "write 0 where nothing was",
        ],
    ),
    "a domain twice": (
        vlcs,
        ("data=vlcs", "data.source.domains=[sun,sun]"),
        ["task names must be unique, found twice: sun; rename or remove one"],
    ),
    "a task of rooms twice": (
        None,
        ("data=rooms", "head=light", "data.source.subset=[depth,depth]"),
        ["the tasks in subset must differ, got ['depth', 'depth']"],
    ),
    "an entry twice": (an_entry_twice, ("--config-dir", "mine", "data=parts"), ["a config is not valid YAML", "phone"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_are_told(case: str, command: Command, load_script: Script) -> None:
    """Expected, found, what to do next; and no run folder that looks like a run."""
    write, overrides, parts = BROKEN[case]
    if write is not None:
        write(load_script)
    outcome = command(main, *overrides, *TINY)
    assert outcome.code == 1, outcome.err
    for part in parts:
        assert part in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("run").exists()
