"""Decoded images: the same pixels as from the files, made once, and never damaged without a word."""

import os
import pickle
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mola_lightning.core import ConfigError, DataError, RunFolderError
from mola_lightning.data import Manifest
from mola_lightning.data import image_cache as module
from mola_lightning.data.decode import ImageError, read_image
from mola_lightning.data.image_cache import ImageCache


@pytest.fixture
def manifest(tmp_path: Path, image_files: ModuleType) -> Manifest:
    """Images of all modes, so of one and three channels."""
    names = sorted(image_files.write_modes(tmp_path / "images"))
    return Manifest(names, {"a": (np.arange(len(names)), np.arange(len(names)))}, tmp_path / "images")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded, one after another."""
    found: list[Path] = []
    original = module.decode
    monkeypatch.setattr(module, "decode", lambda path, channels: found.append(path) or original(path, channels))
    return found


@pytest.mark.parametrize("kind", ["disk", "ram"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_files(kind: str, channels: int, manifest: Manifest, tmp_path: Path) -> None:
    cache = ImageCache.build(manifest, channels, kind, tmp_path / "cache")
    assert len(cache) == len(manifest)
    for row in range(len(manifest)):
        pixels = read_image(manifest.path(row), channels)
        for _ in range(2):
            assert torch.equal(cache.read(row), pixels)
            assert cache.read(row).stride()[0] == pixels.stride()[0] == 1 or channels == 1
            cache.read(row).zero_()  # a copy
    rows = np.array([3, 0, 5])
    selected = cache.select(rows)
    assert [selected.manifest.path(i) for i in range(3)] == [manifest.path(row) for row in rows]
    for i, row in enumerate(rows):
        assert torch.equal(selected.read(i), cache.read(row))


def test_grey_images_take_one_channel(manifest: Manifest, tmp_path: Path) -> None:
    cache = ImageCache.build(manifest, 3, "ram")
    grey = [name for name in manifest.paths if "grey." in name or "sixteen" in name or "bit" in name]
    assert cache.data.nbytes == 12 * 20 * (3 * len(manifest) - 2 * len(grey))


def test_it_is_made_once_and_again_when_a_file_changes(
    manifest: Manifest, tmp_path: Path, decoded: list[Path], image_files: ModuleType
) -> None:
    def build(channels: int = 3, rows: slice = slice(None)) -> int:
        decoded.clear()
        ImageCache.build(manifest.select(np.arange(len(manifest))[rows]), channels, "disk", tmp_path / "cache")
        return len(decoded)

    everything = len(manifest)
    assert [build(), build(), build(1), build(1), build()] == [everything, 0, everything, 0, 0]
    assert build(rows=slice(3)) == 3  # another list
    image_files.write_picture(manifest.path(2), 30, 20, seed=9)
    assert [build(), build()] == [everything, 0]
    os.utime(manifest.path(0), ns=(1, 1))
    assert build() == everything


@pytest.mark.parametrize("damage", ["cut", "gone", "byte", "index"])
def test_damage_is_found(damage: str, manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    ImageCache.build(manifest, 3, "disk", folder)
    (data,), (index,) = folder.glob("*.bin"), folder.glob("*.npz")
    content = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(content[:-1])
    elif damage == "gone":
        data.unlink()
    elif damage == "byte":
        content[0] ^= 1
        data.write_bytes(content)
    else:
        index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"data cache .*images-.* is damaged.*[Dd]elete"):
        ImageCache.build(manifest, 3, "disk", folder).read(0)


def test_bad_images_are_noted_or_stop_it(tmp_path: Path, image_files: ModuleType) -> None:
    broken = image_files.write_broken(tmp_path / "images")
    names = ["whole.jpg", *(path.name for path in broken.values())]
    manifest = Manifest(names, {}, tmp_path / "images")
    for kind in ("disk", "ram"):
        with pytest.raises(ImageError, match="half.jpg: truncated"):
            ImageCache.build(manifest, 3, kind, tmp_path / "cache")
        cache = ImageCache.build(manifest, 3, kind, tmp_path / "cache", on_bad_image="skip")
        assert torch.equal(cache.read(0), read_image(manifest.path(0)))
        for row, reason in enumerate(broken, 1):
            with pytest.raises(ImageError, match=f"{names[row]}: {reason}"):
                cache.read(row)
        for path in (tmp_path / "cache").glob("*"):
            path.unlink()


def test_a_failed_build_leaves_nothing_behind(manifest: Manifest, tmp_path: Path) -> None:
    manifest.path(4).write_bytes(b"")
    with pytest.raises(ImageError):
        ImageCache.build(manifest, 3, "disk", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_of_two_builders_one_waits_for_the_other(manifest: Manifest, tmp_path: Path, decoded: list[Path]) -> None:
    builders = [threading.Thread(target=ImageCache.build, args=(manifest, 3, "disk", tmp_path)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(decoded) == len(manifest)


def test_a_disk_that_is_too_small_is_told_before_it_is_full(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ConfigError, match=r"will need about 0\.0 GB, but .*choose another folder \(cache_root\)"):
        ImageCache.build(manifest, 3, "disk", tmp_path / "cache")


def test_a_folder_that_cannot_be_written(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"choose another \(cache_root\)"):
        ImageCache.build(manifest, 3, "disk", tmp_path / "file" / "cache")


def test_many_images_in_order(tmp_path: Path, image_files: ModuleType) -> None:
    """More than are decoded ahead at a time."""
    for i in range(5):
        image_files.write_picture(tmp_path / f"{i}.png", 4 + i, 3, seed=i)
    manifest = Manifest([f"{i % 5}.png" for i in range(600)], {}, tmp_path)
    cache = ImageCache.build(manifest, 3, "ram")
    assert all(torch.equal(cache.read(row), read_image(manifest.path(row))) for row in (0, 255, 256, 257, 511, 599))


def test_workers_that_are_not_forked_open_the_file(manifest: Manifest, tmp_path: Path) -> None:
    for kind in ("disk", "ram"):
        cache = ImageCache.build(manifest, 3, kind, tmp_path / "cache")
        sent = pickle.dumps(cache.select(np.array([2, 1])))
        assert (cache.data[:50].tobytes() in sent) == (kind == "ram")
        assert torch.equal(pickle.loads(sent).read(1), cache.read(1))


def test_no_images(tmp_path: Path) -> None:
    for kind in ("disk", "ram"):
        assert len(ImageCache.build(Manifest([], {}, tmp_path), 3, kind, tmp_path)) == 0
