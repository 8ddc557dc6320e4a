"""Rooms: ray-cast indoor scenes in which the class, depth and surface normal of every pixel are known exactly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mola_lightning.core import Regime, RunFolderError, seed_of
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.data.base import SPLITS, Source, Split, check_split
from mola_lightning.data.cache import cache_folder, read_arrays, write_arrays
from mola_lightning.data.contact_sheet import draw_dense_sheet, write_sheet
from mola_lightning.data.dense import SCENE_TASKS, DenseDataset, scene_tasks
from mola_lightning.data.dense_transforms import DenseTransforms
from mola_lightning.data.parallel import in_processes
from mola_lightning.data.ray_casting import (
    CEILING,
    CLASSES,
    FLOOR,
    PILLAR,
    RUG,
    WALL,
    Box,
    Camera,
    Room,
    Scene,
    Shape,
    Sphere,
    Vector,
    View,
    render,
    with_voids,
)
from mola_lightning.data.transforms import Normalize

FORMAT = 1  # of the cached arrays; raise it with every change of what is drawn


@dataclass(frozen=True)
class Difficulty:
    """What makes a scene hard to read.

    Args:
        spheres: fewest and most.
        boxes: fewest and most.
        pillar: probability that there is one.
        turn: degrees that a box is turned at most.
        texture: strength of the pattern on surfaces, in 0..1.
        noise: standard deviation of the image's noise, where white is 1.
        field_of_view: degrees, smallest and largest: where it varies, size says less about depth.
        voids: whether targets have holes; see :func:`with_voids`.
    """

    spheres: tuple[int, int]
    boxes: tuple[int, int]
    pillar: float
    turn: float
    texture: float
    noise: float
    field_of_view: tuple[float, float]
    voids: bool = False


DIFFICULTIES: Mapping[str, Difficulty] = {
    "easy": Difficulty((1, 2), (1, 2), 0.3, 0, 0.1, 0.005, (69, 69)),
    "medium": Difficulty((2, 4), (1, 3), 0.6, 45, 0.25, 0.015, (60, 78)),
    "hard": Difficulty((3, 6), (2, 5), 0.8, 45, 0.5, 0.04, (50, 90), voids=True),
}


class Part(NamedTuple):
    """One split: (n, ...) of what :class:`View` has; normals are float16, which turns them by 0.03 degrees at most."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


class Rooms(Source):
    """Three tasks per pixel on each image: 7 classes, depth in metres, and surface normals.

    Each scene is a furnished room of its own: walls, floor and ceiling, spheres, boxes, perhaps a pillar, a rug, and a
    lamp that casts shadows. It is a function of ``seed``, its split and its number alone, so the splits share no scene,
    and a smaller split is the beginning of a larger one.

    ======== ======= ===== ======= ================ ======= ===== ============= =====
    .        spheres boxes pillar  turned boxes     texture noise field of view holes
    ======== ======= ===== ======= ================ ======= ===== ============= =====
    easy     1-2     1-2   30 %    no               0.1     0.005 69 degrees    no
    medium   2-4     1-3   60 %    up to 45 degrees 0.25    0.015 60-78 degrees no
    hard     3-6     2-5   80 %    up to 45 degrees 0.5     0.04  50-90 degrees yes
    ======== ======= ===== ======= ================ ======= ===== ============= =====

    Holes are pixels without depth and normals, on surfaces that are far or dark, and along outlines, where there is no
    class either. Views are cast once, by as many processes as the machine has cores, into one file a split: 56 kB an
    image of 64 x 64.

    Args:
        num_train: training scenes.
        num_val: validation scenes.
        num_test: test scenes.
        subset: which of the tasks ``segmentation``, ``depth`` and ``normals``, in task order.
        difficulty: ``easy``, ``medium`` or ``hard``.
        image_size: height and width in pixels.
        augment: whether training images are scaled, cropped and flipped; see :class:`DenseTransforms`.
        seed: of the data set: the same for all training seeds.
        root: cache folder; the user's cache folder by default.

    Raises:
        ConfigError: for settings that cannot work.
    """

    regime = Regime.SINGLE_INPUT

    def __init__(
        self,
        num_train: int = 1000,
        num_val: int = 200,
        num_test: int = 300,
        subset: Sequence[str] = SCENE_TASKS,
        difficulty: str = "medium",
        image_size: int = 64,
        augment: bool = False,
        seed: int = 0,
        root: str | Path | None = None,
    ) -> None:
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        for split, count in self.counts.items():
            positive_int(f"num_{split}", count)
        one_of("difficulty", difficulty, DIFFICULTIES)
        positive_int("image_size", image_size)
        require(isinstance(augment, bool), f"augment must be true or false, got {augment!r}")
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        self.tasks = scene_tasks(subset, CLASSES)
        self.image_shape = (3, image_size, image_size)
        self.difficulty, self.seed = difficulty, seed
        self.transforms = DenseTransforms() if augment else None
        self.root = cache_folder(root)

    def cache_file(self, split: Split) -> Path:
        """Where a split is cached. The name changes with all that its views depend on."""
        key = seed_of(self.seed, self.counts[split], self.image_shape, DIFFICULTIES[self.difficulty])
        return self.root / f"rooms-{split}-v{FORMAT}-{key:016x}.npz"

    def prepare(self) -> None:
        """Cast the splits that are not cached yet, and verify the others.

        Raises:
            DataError: for a damaged file of the cache; it says which one to delete.
            RunFolderError: when the cache folder cannot be written.
        """
        for split in SPLITS:
            path = self.cache_file(split)
            if path.exists():
                read_arrays(path)
                continue
            view = partial(cast_view, self.seed, split, size=self.image_shape[1], difficulty=self.difficulty)
            views = in_processes(view, self.counts[split], f"casting rooms: {split}")
            write_arrays(path, _stacked(views, self.counts[split], self.image_shape[1]))

    def part(self, split: Split) -> Part:
        """The views of a split, from the cache."""
        check_split(split)
        path = self.cache_file(split)
        if not path.exists():
            raise RunFolderError(f"the data cache {path} is missing; call prepare() first")
        return Part(**read_arrays(path))

    def dataset(self, split: Split) -> DenseDataset:
        """The dataset of a split; training rows are augmented where ``augment`` is set."""
        check_split(split)
        if not self.cache_file(split).exists():
            self.prepare()
        read = _Reader(self.part(split), tuple(task.name for task in self.tasks))
        normalize = Normalize(mean=0.5, std=0.5)  # [0, 1] to [-1, 1]
        return DenseDataset(self.tasks, read, self.counts[split], self.transforms, split == "train", normalize)

    def record(self) -> dict[str, Any]:
        """Sizes of the splits, and what else the scenes depend on."""
        sizes = {task.name: dict(self.counts) for task in self.tasks}
        return {"source": self.name, "sizes": sizes, "difficulty": self.difficulty, "seed": self.seed, "format": FORMAT}

    def contact_sheet(self, count: int = 8, scale: int = 2) -> Image.Image:
        """The first training images above their targets; see :func:`draw_dense_sheet`."""
        return draw_dense_sheet(self.dataset("train"), count, scale)

    def write_contact_sheet(self, path: str | Path, count: int = 8) -> Path:
        """Write :meth:`contact_sheet` as a PNG file, and return its path."""
        return write_sheet(self.contact_sheet(count), path)


class _Reader:
    """Rows of a split; a class, so that workers can be given it."""

    def __init__(self, part: Part, tasks: tuple[str, ...]) -> None:
        self.part, self.tasks = part, tasks

    def __call__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, labels, depth, normals = (torch.from_numpy(array[row]) for array in self.part)
        targets = {"segmentation": labels.long(), "depth": depth[None], "normals": normals.float()}
        return image, {task: targets[task] for task in self.tasks}


def _stacked(views: Iterator[View], count: int, size: int) -> dict[str, np.ndarray]:
    """What :class:`Part` has, by name."""
    part = Part(
        np.empty((count, 3, size, size), np.uint8), np.empty((count, size, size), np.int8),
        np.empty((count, size, size), np.float32), np.empty((count, 3, size, size), np.float16),
    )  # fmt: skip
    for row, view in enumerate(views):
        for array, found in zip(part, view, strict=True):
            array[row] = found
    return part._asdict()


# --------------------------------------------------------------------------------------------------------------- scenes


def cast_view(seed: int, split: Split, number: int, *, size: int, difficulty: str) -> View:
    """The view of a scene: a pure function of the arguments."""
    rng, level = np.random.default_rng(seed_of("rooms", seed, split, number)), DIFFICULTIES[difficulty]
    view = render(draw_scene(rng, level), size, rng)
    return with_voids(view) if level.voids else view


def draw_scene(rng: np.random.Generator, level: Difficulty) -> Scene:
    """A room with what is in it, seen from near its back wall."""
    width, height, length = rng.uniform((4, 2.4, 5), (6.4, 3, 8))
    colors = {label: _color(rng, 0.25) for label in (FLOOR, CEILING, WALL, RUG)}
    rug = (rng.uniform(-0.2, 0.2) * width, rng.uniform(0, 0.25) * length, *rng.uniform(0.5, 1.3, 2))
    camera = Camera(
        (rng.uniform(-0.25, 0.25) * width, rng.uniform(1.2, 1.7), 0.3 - length / 2),
        rng.uniform(-0.35, 0.35), rng.uniform(-0.28, 0.02), rng.uniform(*level.field_of_view),
    )  # fmt: skip
    lamp = (rng.uniform(-0.25, 0.25) * width, height - 0.15, rng.uniform(-0.25, 0.25) * length)
    room = Room(width, height, length, colors, rug)
    return Scene(room, _objects(rng, level, room), camera, lamp, rng.uniform(1, 3), level.texture, level.noise)


def _objects(rng: np.random.Generator, level: Difficulty, room: Room) -> tuple[Shape, ...]:
    """What stands in a room: a pillar near a wall first, then spheres and boxes where there is space."""
    placed: list[Shape] = []
    taken: list[tuple[float, float, float]] = []  # x, z and radius of the ground that each covers

    def place(radius: float) -> tuple[float, float] | None:
        reach = room.width / 2 - radius
        for _ in range(20):
            x, z = rng.uniform((-reach, -0.1 * room.length), (reach, room.length / 2 - radius))
            if all(np.hypot(x - other_x, z - other_z) > radius + other for other_x, other_z, other in taken):
                taken.append((x, z, radius))
                return x, z
        return None

    if rng.random() < level.pillar:
        x, z = rng.choice((-0.4, 0.4)) * room.width, rng.uniform(0, 0.4) * room.length
        placed.append(Box((x, room.height / 2, z), (0.15, room.height / 2, 0.15), _color(rng, 0.15), PILLAR))
        taken.append((x, z, 0.22))
    for _ in range(rng.integers(level.spheres[0], level.spheres[1] + 1)):
        radius = rng.uniform(0.25, 0.6)
        if (spot := place(radius)) is not None:
            placed.append(Sphere((spot[0], radius, spot[1]), radius, _color(rng, 0.15)))
    for _ in range(rng.integers(level.boxes[0], level.boxes[1] + 1)):
        half = rng.uniform(0.2, 0.6, 3)
        if (spot := place(np.hypot(half[0], half[2]))) is not None:
            angle = np.deg2rad(rng.uniform(-level.turn, level.turn))
            placed.append(Box((spot[0], half[1], spot[1]), tuple(half), _color(rng, 0.15), angle=angle))
    return tuple(placed)


def _color(rng: np.random.Generator, darkest: float) -> Vector:
    red, green, blue = rng.uniform(darkest, 0.95, 3)
    return red, green, blue
