"""Which images an input names, and what becomes of those that cannot be read."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from mola_lightning.core import ConfigError, DataError
from mola_lightning.data import Digits, ImageTransforms
from mola_lightning.prediction.inputs import ImageFiles, find_images, transforms_for


@pytest.fixture
def photos(load_script, tmp_path: Path) -> Path:
    files = load_script("image_files")
    for seed, name in enumerate(("b.png", "deep/a.jpg", "c.png")):
        files.write_picture(tmp_path / "photos" / name, seed=seed)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "broken.png").write_bytes(b"")
    return tmp_path / "photos"


def test_the_ways_to_name_images(photos: Path) -> None:
    assert list(find_images(str(photos)).paths) == ["b.png", "broken.png", "c.png", "deep/a.jpg"]
    assert [Path(path).name for path in find_images(f"{photos}/*.png").paths] == ["b.png", "broken.png", "c.png"]
    assert [Path(path).name for path in find_images(f"{photos}/**/*.jpg").paths] == ["a.jpg"]
    assert find_images(str(photos / "b.png")).path(0) == photos / "b.png"
    (photos / "list.csv").write_text("file,label\nb.png,1\n,2\ndeep/a.jpg,3\nb.png,1\n")
    listed = find_images(str(photos / "list.csv"), column="file")
    assert list(listed.paths) == ["b.png", "deep/a.jpg", "b.png"]
    assert listed.path(1) == photos / "deep/a.jpg"


def test_images_are_told_apart(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names in another folder are other images, and so is a file that has changed."""
    before = find_images(str(photos)).key()
    assert find_images(f"{photos}/../photos").key() == before
    shutil.copytree(photos, tmp_path / "others")  # with their times
    others = find_images(str(tmp_path / "others")).key()
    assert {name for name in before if before[name] != others[name]} == {"root"}
    os.utime(photos / "b.png", ns=(0, 10**18))
    assert {name for name, value in find_images(str(photos)).key().items() if before[name] != value} == {"files"}
    keys = []
    for folder in (photos, tmp_path / "others"):
        monkeypatch.chdir(folder)
        keys.append(find_images("*.png").key())
    assert keys[0] != keys[1]
    (photos / "list.csv").write_text("image\nb.png\ngone.png\n")
    listed = find_images(str(photos / "list.csv")).key()
    (photos / "gone.png").write_bytes(b"here again")
    assert find_images(str(photos / "list.csv")).key() != listed


def test_inputs_that_name_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "list.csv").write_text("file,label\nb.png,1\n")
    (tmp_path / "empty").mkdir()
    refusals = {
        str(photos / "list.csv"): "no column 'image', its columns are file, label",
        str(tmp_path / "nowhere"): "there is no .*nowhere",
        str(tmp_path / "nowhere.csv"): "no table",
        str(tmp_path / "empty"): "names no image",
        f"{photos}/*.gif": "names no image",
    }
    for given, message in refusals.items():
        with pytest.raises(DataError, match=message):
            find_images(given)


def test_images_are_those_of_an_evaluation_and_bad_ones_are_named(photos: Path) -> None:
    transforms = ImageTransforms(8, mean=0.3, std=0.2)
    batch = ImageFiles(find_images(str(photos)), transforms).__getitems__([3, 1, 0])
    assert batch.rows.tolist() == [3, 0]
    assert batch.bad == {1: "empty"}
    assert batch.images.shape == (2, 3, 8, 8)
    assert abs(float(batch.images.mean() * 0.2 + 0.3) - 0.5) < 0.2
    nothing = ImageFiles(find_images(str(photos)), transforms)[1]
    assert (len(nothing.rows), nothing.images.shape) == (0, (0, 3, 8, 8))


def test_digits_say_how_files_become_images(tmp_path: Path) -> None:
    found = transforms_for(Digits(image_size=14, channels=1, root=tmp_path), "photo")
    assert found.image_shape == (1, 14, 14)
    white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(found.normalize(white), torch.ones(1, 1, 2, 2))


class OfEachTask:
    name = "mine"

    def __init__(self) -> None:
        self.transforms = {"a": ImageTransforms(8), "b": ImageTransforms(8, mean=0.1)}


def test_transforms_of_a_task(source) -> None:
    mine = OfEachTask()
    assert transforms_for(mine, "b") is mine.transforms["b"]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="say task=<name>, one of a, b"):
        transforms_for(mine, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not say how an image file becomes an input"):
        transforms_for(source, None)
