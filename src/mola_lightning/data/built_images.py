"""The base of benchmarks whose images are built from what Python packages ship: cached task by task, kept in memory."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from mola_lightning.core import ConfigError, RunFolderError, seed_of
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.data.base import Source, Split, check_split
from mola_lightning.data.cache import cache_folder, read_arrays, write_arrays
from mola_lightning.data.contact_sheet import draw_contact_sheet, write_sheet
from mola_lightning.data.digit_sources import SIZE, Part, resize
from mola_lightning.data.memory import InMemoryDataset
from mola_lightning.data.transforms import ImageTransforms, RandomShift


class Content(Protocol):
    """What a task can give."""

    @property
    def max_train(self) -> int | None:
        """Training images at most; None where they are rendered and so without end."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Their versions determine the images."""


class Builder(Protocol):
    """Builds the images of a task."""

    def build(self, name: str, num_train: int) -> dict[Split, Part]:
        """The three splits of a task."""


class BuiltImages(Source):
    """Tasks of small images, each image of one task. A subclass says of what and how they are built.

    Args:
        num_train: task -> its training images, in task order.
        image_size: height and width in pixels. Images are made at 28 pixels and resized.
        channels: 3, or 1 (photographs in grey).
        augment: largest random shift of training images, in pixels.
        seed: of the data set: the same for all training seeds.
        root: cache folder; the user's cache folder by default.

    Raises:
        ConfigError: for settings that cannot work.
    """

    prefix: str  # of cache files
    format: int  # of the cached arrays; raised with every change of what is built
    contents: Mapping[str, Content]
    noun: str = "task"  # what a task is called in messages

    def __init__(
        self,
        num_train: Mapping[str, int],
        image_size: int,
        channels: int,
        augment: int,
        seed: int,
        root: str | Path | None,
    ) -> None:
        positive_int("image_size", image_size)
        one_of("channels", channels, (1, 3))
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        self.num_train = dict(num_train)
        self.image_shape = (channels, image_size, image_size)
        self.seed = seed
        self.root = cache_folder(root)
        self._shift = RandomShift(augment)

    @abstractmethod
    def builder(self) -> Builder:
        """What builds the tasks that are not cached."""

    def placed(self, images: np.ndarray, task: str) -> np.ndarray:
        """Images (n, H, W[, 3]) of a task as they are seen: a subclass may turn them."""
        return images

    def _stored(self, task: str) -> int:
        """How many training images are cached: all where there is an end to them."""
        return self.contents[task].max_train or self.num_train[task]

    def cache_file(self, task: str) -> Path:
        """Where a task is cached. The name changes with all that its images depend on, package versions included."""
        versions = [(package, _version(package)) for package in self.contents[task].packages]
        key = seed_of(task, self._stored(task), self.seed, versions)
        return self.root / f"{self.prefix}-{task}-v{self.format}-{key:016x}.npz"

    def prepare(self) -> None:
        """Build the tasks that are not cached yet, and verify the others.

        Raises:
            DataError: for a damaged file of the cache, which it says to delete; for a font that is missing.
            RunFolderError: when the cache folder cannot be written.
        """
        builder = self.builder()
        for task in self.num_train:
            path = self.cache_file(task)
            if path.exists():
                read_arrays(path)
                continue
            parts = builder.build(task, self._stored(task))
            arrays = {f"{split}_{name}": a for split, part in parts.items() for name, a in part._asdict().items()}
            write_arrays(path, arrays)

    def part(self, task: str, split: Split) -> Part:
        """The images (at 28 pixels, as they were built), labels and origins of a task's split, from the cache."""
        one_of(self.noun, task, tuple(self.num_train))
        check_split(split)
        path = self.cache_file(task)
        if not path.exists():
            raise RunFolderError(f"the data cache {path} is missing; call prepare() first")
        arrays = read_arrays(path)
        count = self.num_train[task] if split == "train" else None
        return Part(*(arrays[f"{split}_{name}"][:count] for name in Part._fields))

    def dataset(self, split: Split) -> InMemoryDataset:
        """The rows of all tasks, task after task; training rows are shifted where ``augment`` is set."""
        check_split(split)
        if not all(self.cache_file(task).exists() for task in self.num_train):
            self.prepare()
        images, targets, start = [], {}, 0
        for task in self.num_train:
            part = self.part(task, split)
            images.append(self._seen(part.images, task))
            targets[task] = (torch.arange(start, start + len(part.labels)), torch.from_numpy(part.labels.copy()))
            start += len(part.labels)
        # [0, 1] to [-1, 1] for all tasks alike: statistics of each would take away a part of their difference.
        normalize = self.transforms.normalize
        shift = self._shift if split == "train" else None
        return InMemoryDataset(self.tasks, torch.from_numpy(np.concatenate(images)), targets, normalize, shift)

    @property
    def transforms(self) -> ImageTransforms:
        """What makes an input of the model of an image file, at evaluation; it is not turned or placed."""
        channels, size, _ = self.image_shape
        return ImageTransforms(size, mean=0.5, std=0.5, channels=channels)

    def _seen(self, images: np.ndarray, task: str) -> np.ndarray:
        """(n, 28, 28[, 3]) uint8 -> (n, channels, image_size, image_size) uint8."""
        channels, size, _ = self.image_shape
        if channels == 1 and images.ndim == 4:
            images = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
        if size != SIZE:
            images = np.stack([resize(image, size) for image in images])
        images = self.placed(images, task)
        if images.ndim == 3:
            images = np.repeat(images[..., None], channels, axis=3)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def contact_sheet(self, per_task: int = 16, scale: int = 2) -> Image.Image:
        """Training images as the model sees them, a row a task; see :func:`draw_contact_sheet`."""
        return draw_contact_sheet(self.dataset("train"), per_task, scale)

    def write_contact_sheet(self, path: str | Path, per_task: int = 16) -> Path:
        """Write :meth:`contact_sheet` as a PNG file, and return its path."""
        return write_sheet(self.contact_sheet(per_task), path)

    @classmethod
    def check_names(cls, names: Sequence[str]) -> tuple[str, ...]:
        """The names of tasks as a tuple.

        Raises:
            ConfigError: for a string, none, an unknown one, or one twice.
        """
        what = f"{cls.noun}s"
        if isinstance(names, str):
            raise ConfigError(f"{what} must be a list of names, got the string {names!r}; write [{names}]")
        names = tuple(names)
        require(bool(names), f"{what} must name at least one of {', '.join(cls.contents)}; got none")
        for name in names:
            one_of(f"each of {what}", name, cls.contents)
        require(len(set(names)) == len(names), f"{what} must differ, got {list(names)}")
        return names

    @classmethod
    def check_num_train(
        cls, names: tuple[str, ...], num_train: int | Mapping[str, int], default: Mapping[str, int]
    ) -> dict[str, int]:
        """Task -> its training images, from one number or one for some.

        Raises:
            ConfigError: for an unknown task, or a number that it cannot have.
        """
        if isinstance(num_train, Mapping):
            for name in num_train:
                one_of("each key of num_train", name, cls.contents)
            numbers = {name: num_train.get(name, default[name]) for name in names}
        else:
            numbers = dict.fromkeys(names, num_train)
        for name, number in numbers.items():
            positive_int(f"num_train of {name}", number)
            limit = cls.contents[name].max_train
            if limit is not None and number > limit:
                raise ConfigError(
                    f"num_train of {name} is {number}, but this {cls.noun} has {limit} training images at most"
                )
        return numbers


@cache  # it parses the package's metadata
def _version(package: str) -> str:
    return version(package)
