"""NYUv2: indoor photographs with classes, depth and surface normals per pixel."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mola_lightning.core import DataError, Regime
from mola_lightning.core.errors import require
from mola_lightning.data.base import SPLITS, Source, Split, check_split
from mola_lightning.data.dense import SCENE_TASKS, DenseDataset, scene_tasks
from mola_lightning.data.dense_transforms import DenseTransforms
from mola_lightning.data.parallel import in_parallel
from mola_lightning.data.splits import stratified_split
from mola_lightning.data.transforms import Normalize

CLASSES = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv", "wall",
    "window",
)  # fmt: skip
HEIGHT, WIDTH = 288, 384
FOLDERS = {"segmentation": "label", "depth": "depth", "normals": "normal"}  # of each task's targets
CHANNELS = {"image": 3, "label": None, "depth": 1, "normal": 3}  # of a map (H, W[, channels])
# numpy parses a file's header with `ast`, which in Python 3.11 counts the depth of all threads together, and then
# raises SystemError now and then.
_PARSING = threading.Lock()


class _Part(NamedTuple):
    """A split: rows of a folder of the archive."""

    folder: str
    rows: np.ndarray


class NYUv2(Source):
    """13 classes, depth in metres and surface normals (Silberman et al., ECCV 2012), in the pre-processed form of MTAN.

    Files are ``train/image/0.npy`` and so on: ``image`` (288, 384, 3) in 0..1, ``label`` (288, 384) with -1 where there
    is no class, ``depth`` (288, 384, 1) and ``normal`` (288, 384, 3), zero where nothing was measured. The folder
    ``val`` is what papers report on: it is the test split. Validation images are cut from ``train``, where the released
    code selects models on the split that it reports.

    Args:
        root: folder of ``train`` and ``val``.
        subset: which of the tasks ``segmentation``, ``depth`` and ``normals``, in task order.
        size: [height, width] that images and targets are brought to; None: 288 x 384.
        scales: see :class:`DenseTransforms`, as for ``flip``; [1] and 0 augment nothing.
        flip: probability of a flip of a training image.
        mean: subtracted from each channel of the images, which the paper does not do.
        std: by which each channel is divided.
        val_fraction: of the training images.
        seed: of the cut: the same for all training seeds.

    Raises:
        ConfigError: for settings that cannot work.
    """

    regime = Regime.SINGLE_INPUT
    expects = (
        "Get the NYUv2 archive that was pre-processed for MTAN (288 x 384, 13 classes, .npy files), unpack it, and set "
        "root to the folder that holds train and val, each with the folders image, label, depth and normal."
    )

    def __init__(
        self,
        root: str | Path,
        subset: Sequence[str] = SCENE_TASKS,
        size: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0, 1.2, 1.5),
        flip: float = 0.5,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        ok = isinstance(val_fraction, float) and 0 < val_fraction < 1
        require(ok, f"val_fraction must lie between 0 and 1, got {val_fraction!r}")
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        self.tasks = scene_tasks(subset, CLASSES)
        self.root = Path(root).expanduser()
        self.transforms = DenseTransforms(size, scales, flip)
        self.normalize = Normalize(mean, std)
        self.val_fraction, self.seed = val_fraction, seed
        height, width = self.transforms.size or (HEIGHT, WIDTH)
        self.image_shape = (3, height, width)

    def read(self, folder: str, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Image (3, H, W) and targets of a row of ``train`` or ``val``."""
        image = self._map(folder, "image", row)
        targets = {}
        for task in self.tasks:
            target = self._map(folder, FOLDERS[task.name], row)
            if target.shape[:2] != image.shape[:2]:
                raise DataError(
                    f"{self._path(folder, FOLDERS[task.name], row)} has {target.shape[0]} x {target.shape[1]} pixels, "
                    f"its image {image.shape[0]} x {image.shape[1]}; replace the one that is wrong"
                )
            tensor = torch.from_numpy(target)
            targets[task.name] = tensor.long() if target.ndim == 2 else tensor.permute(2, 0, 1).float()
        return torch.from_numpy(image).permute(2, 0, 1).float(), targets

    def _path(self, folder: str, kind: str, row: int) -> Path:
        return self.root / folder / kind / f"{row}.npy"

    def _map(self, folder: str, kind: str, row: int) -> np.ndarray:
        """One file, checked."""
        path = self._path(folder, kind, row)
        array = load_npy(path)
        channels = CHANNELS[kind]
        if array.ndim != (2 if channels is None else 3) or (channels is not None and array.shape[2] != channels):
            wanted = "(height, width)" if channels is None else f"(height, width, {channels})"
            raise DataError(f"{path} must be a map {wanted}, found shape {array.shape}; replace the file")
        if not np.isfinite(array).all():
            raise DataError(
                f"{path}: all values must be finite, found {int((~np.isfinite(array)).sum())} of {array.size} that are "
                "NaN or infinite; write 0 where nothing was measured, -1 where there is no class"
            )
        if kind == "label":
            bad = (array < -1) | (array >= len(CLASSES))
            if bad.any():
                raise DataError(
                    f"{path}: labels must lie in 0..{len(CLASSES) - 1}, or be -1 for no label; found "
                    f"{np.unique(array[bad])[:5].tolist()}; write -1 there"
                )
        return array

    @cached_property
    def _parts(self) -> dict[Split, _Part]:
        if not self.root.is_dir():
            raise DataError(f"{self.name}: there is no folder {self.root}. {self.expects}")
        train, test = self._count("train"), self._count("val")
        if train < 2:
            raise DataError(f"{self.name}: {self.root / 'train'} holds one image; two are needed at least")
        cut = stratified_split(
            np.zeros(train, dtype=np.int64), {"train": 1 - self.val_fraction, "val": self.val_fraction}, self.seed
        )
        return {
            "train": _Part("train", cut["train"]), "val": _Part("train", cut["val"]),
            "test": _Part("val", np.arange(test)),
        }  # fmt: skip

    def _count(self, folder: str) -> int:
        """The number of images of a folder of the archive, which must be numbered from 0 and have all their targets."""
        numbers = {}
        for kind in ("image", *(FOLDERS[task.name] for task in self.tasks)):
            place = self.root / folder / kind
            if not place.is_dir():
                raise DataError(f"{self.name}: there is no folder {place}. {self.expects}")
            numbers[kind] = {int(path.stem) for path in place.glob("*.npy") if path.stem.isdecimal()}
        every = set().union(*numbers.values())
        if not every:
            raise DataError(f"{self.name}: {self.root / folder / 'image'} holds no files 0.npy, 1.npy, ...")
        for kind, found in numbers.items():
            if missing := sorted(set(range(max(every) + 1)) - found):
                raise DataError(
                    f"{self.name}: {self.root / folder / kind} lacks {missing[0]}.npy"
                    f"{f' and {len(missing) - 1} more' * (len(missing) > 1)}; files must be numbered from 0 without "
                    f"gaps, as many as in the other folders ({max(every) + 1})"
                )
        return len(every)

    def prepare(self) -> None:
        """Check that all files are there."""
        assert self._parts

    def dataset(self, split: Split) -> DenseDataset:
        """The dataset of a split; training rows are augmented."""
        check_split(split)
        part = self._parts[split]
        read = _Reader(self, part.folder, part.rows)
        return DenseDataset(self.tasks, read, len(part.rows), self.transforms, split == "train", self.normalize)

    def record(self) -> dict[str, Any]:
        """Sizes of the splits, how validation was cut, and a digest of the files' sizes."""
        parts = self._parts
        digest = hashlib.blake2b(digest_size=16)
        for path, _ in self._files():
            digest.update(f"{path.relative_to(self.root)} {path.stat().st_size}\n".encode())
        return {
            "source": self.name,
            "root": str(self.root),
            "sizes": {task.name: {split: len(parts[split].rows) for split in SPLITS} for task in self.tasks},
            "digest": digest.hexdigest(),
            "cut": {"fractions": {"train": 1 - self.val_fraction, "val": self.val_fraction}, "seed": self.seed},
        }

    def _files(self) -> list[tuple[Path, tuple[str, str, int]]]:
        """All files, with (folder, kind, row) of each."""
        found = []
        for folder in ("train", "val"):
            count = sum(len(part.rows) for part in self._parts.values() if part.folder == folder)
            for kind in ("image", *(FOLDERS[task.name] for task in self.tasks)):
                found += [(self._path(folder, kind, row), (folder, kind, row)) for row in range(count)]
        return found

    def num_files(self) -> int:
        """Images and targets."""
        return len(self._files())

    def verify(self) -> Iterator[tuple[str, str]]:
        """Read each file."""
        files = self._files()

        def look(number: int) -> tuple[str, str]:
            path, (folder, kind, row) = files[number]
            try:
                array = self._map(folder, kind, row)
            except DataError as error:
                return str(path), str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
            return str(path), _not_of_unit_length(array) if kind == "normal" else ""

        yield from in_parallel(look, len(files))


class _Reader:
    """Rows of a split; a class, so that workers can be given it."""

    def __init__(self, source: NYUv2, folder: str, rows: np.ndarray) -> None:
        self.source, self.folder, self.rows = source, folder, rows

    def __call__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.source.read(self.folder, int(self.rows[row]))


def load_npy(path: Path) -> np.ndarray:
    """An array of numbers from a .npy file, which may hold nothing that is executed.

    Raises:
        DataError: when the file is missing, damaged, or holds something else.
    """
    try:
        with _PARSING:
            array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; put it back") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array of numbers ({error}); replace the file") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise DataError(f"{path} must hold an array of numbers; replace the file")
    return array


def _not_of_unit_length(normals: np.ndarray) -> str:
    lengths = np.linalg.norm(normals, axis=2)
    bad = (lengths > 0) & (np.abs(lengths - 1) > 0.05)
    return f"{int(bad.sum())} normals are not of length 1" if bad.any() else ""
