"""List files and class folders as they circulate."""

from pathlib import Path

import numpy as np
import pytest

from mola_lightning.core import DataError
from mola_lightning.data.listing import image_endings, images_below, read_list, scan_classes, subfolders


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_list_with_spaces_tabs_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa b/ü 1.jpg 3\n\nc.png\t0\r\n  d/e.png  12\n", encoding="utf-8")
    paths, labels = read_list(path)
    assert list(paths) == ["a b/ü 1.jpg", "c.png", "d/e.png"]
    assert labels.tolist() == [3, 0, 12]
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg 1\nb.jpg\n", "line 2 of .*list.txt must be a path, a space and a class index .*found 'b.jpg'"),
        ("a.jpg one\n", "line 1 .*found 'a.jpg one'"),
        ("7\n", "line 1 .*found '7'"),
        ("\n \n", "has no lines"),
        (None, "there is no list file"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "list.txt")


def test_folders_of_classes(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "my root",
        "photo/Alarm_Clock/2.jpg",
        "photo/Alarm_Clock/deeper/1.PNG",
        "photo/Alarm_Clock/.hidden.jpg",
        "photo/Alarm_Clock/notes.txt",
        "photo/chair/b ä.jpeg",
        "photo/chair/a.webp",
        "photo/.cache/x.jpg",
    )
    paths, labels = scan_classes(root / "photo", ["chair", "alarm clock", "dog"], root)
    assert list(paths) == [
        "photo/chair/a.webp", "photo/chair/b ä.jpeg", "photo/Alarm_Clock/2.jpg", "photo/Alarm_Clock/deeper/1.PNG",
    ]  # fmt: skip
    assert labels.tolist() == [0, 0, 1, 1]
    assert subfolders(root / "photo") == ["Alarm_Clock", "chair"]


def test_other_names_of_a_class(tmp_path: Path) -> None:
    root = touch(tmp_path, "tv/a.jpg", "dog/b.jpg")
    assert scan_classes(root, ["Dog", "Monitor"], root, {"TV": "monitor"})[1].tolist() == [0, 1]


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "dog/a.jpg", "cat/a.jpg")
    with pytest.raises(DataError, match="holds folders that are none of its classes: 'cat'; expected 'dog', 'bird'"):
        scan_classes(root, ["dog", "bird"], root)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        scan_classes(tmp_path / "nowhere", ["a"], tmp_path)
    touch(tmp_path, "file")
    with pytest.raises(DataError, match="cannot read the folder .*Not a directory"):
        list(images_below(tmp_path / "file", tmp_path))


def test_endings() -> None:
    endings = image_endings()
    assert {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm"} <= endings
    assert not {".pdf", ".txt", ".npy", ".mpg", ""} & endings
