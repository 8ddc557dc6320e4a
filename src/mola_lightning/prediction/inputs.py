"""What to predict: image files, named by a folder, a table, a pattern or one by one; and how the model sees them."""

import csv
import glob
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mola_lightning.core import ConfigError, DataError
from mola_lightning.data import ImageTransforms, Source
from mola_lightning.data.decode import ImageError, read_image
from mola_lightning.data.listing import image_endings, images_below
from mola_lightning.data.string_table import StringTable

log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """Paths of images as they were named, and the folder that relative ones start from (None: the working one)."""

    paths: StringTable
    root: Path | None

    def path(self, row: int) -> Path:
        """Where the image of a row lies."""
        return Path(self.paths[row]) if self.root is None else self.root / self.paths[row]

    def key(self) -> dict[str, str]:
        """What tells these images from others: their folder, their names, and a checksum of sizes and times of change.

        No file is opened; one that is missing has a place in the checksum, too.
        """
        root = (self.root or Path()).resolve()
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            try:
                found = os.stat(os.path.join(root, path))
            except (OSError, ValueError):  # ValueError: a name that no file can have
                digest.update(b"missing")
            else:
                digest.update(b"%d %d;" % (found.st_size, found.st_mtime_ns))
        return {"root": str(root), "input": self.paths.digest(), "files": digest.hexdigest()}


def find_images(given: str, column: str = "image") -> Inputs:
    """The images that ``given`` names.

    Args:
        given: a folder (its images at any depth, named relative to it), a .csv or .tsv file (a row an image, named
            relative to the file), a pattern such as ``photos/**/*.jpg``, or one image.
        column: of the table, with the paths.

    Raises:
        DataError: when there is no such file or folder, or no image in it.
    """
    path, root = Path(given).expanduser(), None
    if path.is_dir():
        names, root = StringTable(images_below(path, path)), path
    elif path.suffix.lower() in (".csv", ".tsv"):
        names, root = StringTable(_column(path, column)), path.parent
    elif path.is_file() and path.suffix.lower() in image_endings():
        names = StringTable([str(path)])
    elif any(character in given for character in "*?["):
        endings = image_endings()
        names = StringTable(
            found
            for found in sorted(glob.glob(str(path), recursive=True))
            if os.path.splitext(found)[1].lower() in endings and os.path.isfile(found)
        )
    else:
        there = f"{given} is no image" if path.is_file() else f"there is no {given}"
        raise DataError(f"{there}; input must be a folder, an image, a .csv or .tsv file, or a pattern")
    if not len(names):
        raise DataError(f"input {given} names no image; what counts is the ending, such as .jpg or .png")
    return Inputs(names, root)


def _column(path: Path, column: str) -> Iterator[str]:
    """The cells of a column, without empty ones."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            if column not in (rows.fieldnames or ()):
                raise DataError(
                    f"{path} has no column {column!r}, its columns are {', '.join(rows.fieldnames or ()) or 'none'}; "
                    "name the one with the paths by column=..."
                )
            empty = []
            for row in rows:
                if (row[column] or "").strip():
                    yield row[column].strip()
                else:
                    empty.append(rows.line_num)
            if empty:
                log.warning(
                    "%s names no image in line %s", path, ", ".join(map(str, empty[:5])) + " ..." * (len(empty) > 5)
                )
    except FileNotFoundError as error:
        raise DataError(f"there is no table {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the table {path}: {error}") from error


def transforms_for(source: Source, task: str | None) -> ImageTransforms:
    """How the source's images become what the model sees, at evaluation.

    Args:
        source: what the model was trained on.
        task: whose transforms; None: of any image, whose task is not known.

    Raises:
        ConfigError: when the source says no transforms of single images, or other ones for each task.
    """
    found = getattr(source, "transforms", None)
    if isinstance(found, ImageTransforms):
        return found
    if isinstance(found, dict) and task is not None:
        return found[task]
    if isinstance(found, dict) and len({id(each) for each in found.values()}) == 1:
        return next(iter(found.values()))
    if isinstance(found, dict):
        raise ConfigError(
            f"{source.name} transforms the images of each task in its own way, so the task of an image must be known "
            f"before it can be seen: say task=<name>, one of {', '.join(found)}"
        )
    raise ConfigError(
        f"{source.name} does not say how an image file becomes an input of the model; mola-predict needs a source with "
        "ImageTransforms"
    )


class ReadImages(NamedTuple):
    """A batch of image files: those that could be read, and why the others could not.

    Attributes:
        rows: (k,) int64, of the images in the list of inputs.
        images: (k, C, H, W) float, normalised.
        bad: row -> reason.
    """

    rows: Tensor
    images: Tensor
    bad: dict[int, str]


class ImageFiles(Dataset[ReadImages]):
    """The images of a list, read and transformed as at evaluation.

    Args:
        inputs: the list.
        transforms: of the model's data.
    """

    def __init__(self, inputs: Inputs, transforms: ImageTransforms) -> None:
        self.inputs, self.transforms = inputs, transforms

    def __len__(self) -> int:
        return len(self.inputs.paths)

    def __getitem__(self, row: int) -> ReadImages:
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int]) -> ReadImages:
        """A whole batch, so that its images are normalised in one call."""
        kept, images, bad = [], [], {}
        for row in rows:
            try:
                pixels = read_image(self.inputs.path(row), self.transforms.channels)
            except ImageError as error:
                bad[row] = error.reason
                continue
            kept.append(row)
            images.append(self.transforms.eval(pixels))
        empty = torch.zeros(0, *self.transforms.image_shape)
        normalized = self.transforms.normalize(torch.stack(images)) if images else empty
        return ReadImages(torch.tensor(kept, dtype=torch.long), normalized, bad)
