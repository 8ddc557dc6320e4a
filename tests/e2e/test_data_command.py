"""``mola-data``: what it says of data sets that are there, broken, missing or unknown."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mola_lightning.cli.data import main

Command = Callable[..., Any]
SMALL = ("num_train=24", "image_size=14")


@pytest.fixture(scope="module")
def files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes a user's folders."""
    return load_script("own_files")


@pytest.fixture
def own(tmp_path: Path, files: ModuleType) -> tuple[Path, Path]:
    """A folder of two domains, and a folder of configs that names them ``photos``."""
    root, conf = tmp_path / "my photos", tmp_path / "conf"
    for name in ("phone", "camera"):
        files.write_folder(root / name, ["bad", "good"], 10)
    (conf / "data").mkdir(parents=True)
    (conf / "data" / "photos.yaml").write_text(
        "# Photographs of mine.\n_target_: mola_lightning.data.MultiTaskDataModule\nsource:\n"
        f"  _target_: mola_lightning.data.ImageFolders\n  root: {root}\n"
        "  entries: {phone: {folder: phone}, camera: {folder: camera}}\n  transforms: ${transform}\n"
        "  test_fraction: 0.2\n  val_fraction: 0.2\n"
    )
    return root, conf


def test_list(command: Command, own: tuple[Path, Path]) -> None:
    (own[1] / "data" / "broken.yaml").write_text("# Half a [/file].\na: [\n")
    (own[1] / "data" / "digits.yaml").write_text("# Not what data=digits takes.\n")
    outcome = command(main, "--config-dir", str(own[1]), "list")
    assert outcome.code == 0
    for words in (
        "digits",
        "made here",
        "vlcs",
        "not in data/vlcs",
        "photos",
        "Photographs of mine.",
        "2: phone, camera",
        "Half a [/file]. (a config is not valid YAML",
    ):
        assert words in outcome.out
    assert "Not what" not in outcome.out


def test_describe(command: Command, own: tuple[Path, Path], tmp_path: Path) -> None:
    outcome = command(main, "describe", "digits", *SMALL, "output=sheet.png")
    assert outcome.code == 0, outcome.err
    assert "(3, 14, 14)" in outcome.out
    (sheet,) = tmp_path.rglob("sheet.png")
    pixels = np.asarray(Image.open(sheet))
    assert pixels.std() > 20
    photos = command(main, "--config-dir", str(own[1]), "describe", "photos", "transform.size=16", "figure=false")
    assert photos.code == 0, photos.err
    assert "regime: domains" in photos.out
    assert "cut from all images: train 60%, val 20%, test 20% (seed 0)" in photos.out
    assert not list(tmp_path.rglob("photos.png"))
    command(main, "--config-dir", str(own[1]), "describe", "photos", "transform.size=16")
    assert list(tmp_path.rglob("photos.png"))


def test_verify(command: Command, own: tuple[Path, Path], tmp_path: Path) -> None:
    root, conf = own
    call = ("--config-dir", str(conf), "verify", "photos")
    sound = command(main, *call)
    assert sound.code == 0, sound.err
    assert "40 files, all sound" in sound.out
    broken = root / "phone" / "good" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    outcome = command(main, *call, "output=bad.csv")
    assert outcome.code == 1
    assert f"{broken}: truncated" in outcome.out
    assert "40 files, 1 of them not sound" in outcome.out
    (table,) = tmp_path.rglob("bad.csv")
    with open(table, newline="") as lines:
        assert list(csv.reader(lines)) == [["file", "problem"], [str(broken), "truncated"]]
    assert not list(tmp_path.rglob("*.tmp"))
    assert "phone" in sound.out
    assert "│ 12    │ 4   │ 4    │" in sound.out
    made = command(main, "verify", "digits", *SMALL)
    assert made.code == 0
    assert "digits is made here" in made.out


def test_verify_looks_at_files_and_not_at_a_cache(command: Command, own: tuple[Path, Path], tmp_path: Path) -> None:
    root, conf = own
    (root / "phone" / "good" / "3.jpg").write_bytes(b"x")
    config = conf / "data" / "photos.yaml"
    config.write_text(f"{config.read_text()}  cache: disk\n  cache_root: {tmp_path / 'cache'}\n")
    outcome = command(main, "--config-dir", str(conf), "verify", "photos")
    assert outcome.code == 1
    assert "3.jpg: not an image" in outcome.out
    assert not (tmp_path / "cache").exists()


def test_many_bad_files_are_counted_and_all_in_the_table(command: Command, own: tuple[Path, Path]) -> None:
    for path in (own[0] / "phone").rglob("*.jpg"):
        path.write_bytes(b'"')
    for path in (own[0] / "camera" / "bad").rglob("*.jpg"):
        path.unlink()
        path.symlink_to(own[0] / "nowhere")
    call = ("verify", "photos", "--config-dir", str(own[1]))
    outcome = command(main, *call)
    assert outcome.code == 1
    assert outcome.out.count("not an image") + outcome.out.count("missing") == 20
    assert "... and 10 more; output=bad.csv writes all to a file" in outcome.out
    outcome = command(main, *call, "output=all.csv")
    assert "... and 10 more; all are in all.csv" in outcome.out
    assert len(Path("all.csv").read_text().splitlines()) == 31


def test_verify_names_classes_that_a_split_lacks(command: Command, own: tuple[Path, Path], files: ModuleType) -> None:
    root, conf = own
    for split, classes in (("train", ["bad", "good"]), ("val", ["bad"]), ("test", ["bad", "good"])):
        files.write_folder(root / "split" / split, classes, 2)
    config = conf / "data" / "photos.yaml"
    whole = "{phone: {folder: phone}, camera: {folder: camera}}"
    config.write_text(config.read_text().replace(whole, "{phone: {folder: split}}"))
    outcome = command(main, "verify", "photos", "--config-dir", str(conf))
    assert outcome.code == 0
    assert "task 'phone': no val image of good" in outcome.out
    assert "train image" not in outcome.out


def test_a_path_is_taken_as_it_is_typed(command: Command, own: tuple[Path, Path]) -> None:
    root, conf = own
    odd = root.rename(root.parent / "mine, (2024) [it's]")
    outcome = command(main, "verify", "photos", f"root={odd}", "--config-dir", str(conf))
    assert outcome.code == 0, outcome.err
    assert "40 files, all sound" in outcome.out


def test_what_is_made_here_needs_no_download(command: Command) -> None:
    outcome = command(main, "download", "digits")
    assert outcome.code == 0
    assert "nothing to fetch" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "digit"], "there is no data set 'digit'; did you mean 'digits'?"),
        (["describe", "nothing"], "there is no data set 'nothing'; there are digits, domainnet"),
        (["describe", "digits", "rots=3"], "the data set 'digits' has no option 'rots'; it has domains, num_train"),
        (["describe", "digits", "rots"], "expected key=value after the name of the data set, got 'rots'"),
        (["describe", "digits", "data.source.rots=3"], "this config has no key 'data.source.rots'"),
        (["describe", "vlcs", "root=nowhere"], "vlcs: there is no folder nowhere. VLCS circulates as an archive"),
        (["verify", "nyuv2"], "nyuv2: there is no folder data/nyuv2. Get the NYUv2 archive"),
        (["download", "pacs"], "pacs cannot be fetched by a program. Get the PACS images"),
        (["describe", "digits", *SMALL, "figure=perhaps"], "figure must be one of 'true', 'false', got 'perhaps'"),
        (["--config-dir", "nowhere", "list"], "--config-dir: there is no folder nowhere"),
    ],
)
def test_what_a_user_can_mend_is_said(command: Command, arguments: list[str], message: str) -> None:
    outcome = command(main, *arguments)
    assert outcome.code == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_wrong_usage(command: Command) -> None:
    outcome = command(main)
    assert outcome.code == 2
    assert "mola-data verify vlcs root=photos/VLCS" in outcome.err
    assert command(main, "descibe", "digits").code == 2
    assert command(main, "describe").code == 2
