"""Finding images and their classes: in list files, and in folders named after the classes."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mola_lightning.core import DataError
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.string_table import StringTable


def read_list(path: str | Path) -> tuple[StringTable, np.ndarray]:
    """A list file: a line an image, its path, white space, and its class index.

    Args:
        path: of the file, UTF-8. Paths in it may hold spaces: the last word of a line is the label.

    Returns:
        The paths as they stand there, and the labels (n,) int64.

    Raises:
        DataError: when the file is missing or unreadable, for a line without a path or a whole number, and for a file
            without lines.
    """
    path, labels = Path(path), []

    def paths() -> Iterator[str]:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                image, _, label = line.rstrip().replace("\t", " ").rpartition(" ")
                try:
                    labels.append(int(label))
                except ValueError:
                    image = ""
                if not image.strip():
                    raise DataError(
                        f"line {number} of {path} must be a path, a space and a class index (0, 1, ...), "
                        f"found {line.strip()!r}"
                    )
                yield image.strip()

    try:
        table = StringTable(paths())
    except FileNotFoundError as error:
        raise DataError(
            f"there is no list file {path}. Put it there, set root to the folder of the lists, or take layout=folders."
        ) from error
    except OSError as error:
        raise DataError(f"cannot read the list file {path}: {error.strerror or error}") from error
    if not labels:
        raise DataError(f"the list file {path} has no lines; each must be a path, a space and a class index")
    return table, np.array(labels, dtype=np.int64)


def subfolders(folder: str | Path) -> list[str]:
    """Names of the folders in ``folder``, sorted, without hidden ones.

    Raises:
        DataError: when there is no such folder, or it cannot be read.
    """
    with _folder(Path(folder)) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def split_folders(folder: str | Path) -> dict[Split, Path]:
    """The folders of the splits in ``folder``, by whatever name; empty unless there is one for training.

    Raises:
        DataError: when two folders mean the same split.
    """
    found: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for name in subfolders(folder):
        if (split := split_of(name)) is not None:
            found[split].append(name)
    for split, names in found.items():
        if len(names) > 1:
            raise DataError(f"{folder} holds {' and '.join(names)}, which both mean {split}: keep one")
    return {split: Path(folder) / names[0] for split, names in found.items() if names} if found["train"] else {}


def split_of(name: str) -> Split | None:
    """The split that a folder or a table means by ``name``."""
    return next((split for split, names in _SPLIT_NAMES.items() if folded(name) in names), None)


def scan_classes(
    folder: str | Path, class_names: Sequence[str], relative_to: str | Path, aliases: Mapping[str, str] | None = None
) -> tuple[StringTable, np.ndarray]:
    """The images below ``folder/<class>/``, at any depth, class after class.

    Args:
        folder: holds a folder for each class that has images.
        class_names: in order: the place of a name is its label. Names are matched exactly, but for upper and lower
            case and for ``_``, ``-`` and spaces, which archives of one data set do not agree about.
        relative_to: a folder above; paths are returned relative to it.
        aliases: other names of folders -> the class that they are.

    Returns:
        Paths, sorted within a class, and labels (n,) int64.

    Raises:
        DataError: when the folder is missing, or holds a folder that is none of the classes.
    """
    folder, relative_to = Path(folder), Path(relative_to)
    places = {folded(name): label for label, name in enumerate(class_names)}
    places |= {folded(alias): places[folded(name)] for alias, name in (aliases or {}).items()}
    found = {name: places.get(folded(name)) for name in subfolders(folder)}
    if unknown := [name for name, label in found.items() if label is None]:
        raise DataError(
            f"{folder} holds folders that are none of its classes: {', '.join(map(repr, unknown[:5]))}; "
            f"expected {', '.join(map(repr, class_names[:10]))}{' ...' if len(class_names) > 10 else ''}"
        )
    tables, labels = [], []
    for name, label in sorted(found.items(), key=lambda pair: (pair[1], pair[0])):
        tables.append(StringTable(images_below(folder / name, relative_to)))
        labels.append(np.full(len(tables[-1]), label, dtype=np.int64))
    return StringTable.concat(tables), np.concatenate([np.empty(0, dtype=np.int64), *labels])


def images_below(folder: str | Path, relative_to: str | Path) -> Iterator[str]:
    """Paths of the image files at any depth below ``folder``, sorted, relative to ``relative_to``.

    What counts is the ending that Pillow knows; hidden files and folders are passed over, links are followed.

    Raises:
        DataError: when there is no such folder, or a part of it cannot be read.
    """
    endings = image_endings()
    prefix = os.path.relpath(folder, relative_to)
    with _folder(Path(folder)) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from images_below(entry.path, relative_to)
        elif os.path.splitext(entry.name)[1].lower() in endings:
            yield os.path.normpath(os.path.join(prefix, entry.name))


def image_endings() -> set[str]:
    """Endings of the image files that Pillow reads, such as ``.jpg``; movies and documents that it also opens aside."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN} - _NO_IMAGES


_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "crossval", "dev"),
    "test": ("test", "testing"),
}
_NO_IMAGES = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".fit", ".fits"}


def folded(name: str) -> str:
    """A name without what archives of one data set do not agree about: case, and ``_``, ``-`` or spaces."""
    return name.casefold().replace("_", " ").replace("-", " ")


def _folder(folder: Path) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(folder)
    except FileNotFoundError as error:
        there = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        near = difflib.get_close_matches(folder.name, there) or there
        hint = f"; {folder.parent} has {', '.join(near[:5])}" if near else ""
        raise DataError(f"there is no folder {folder}{hint}") from error
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from error
