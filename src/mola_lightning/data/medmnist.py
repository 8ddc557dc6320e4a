"""MedMNIST: small medical images, a task for each of its data sets."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mola_lightning.core import ConfigError, DataError, Regime, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import SPLITS, Split, check_split
from mola_lightning.data.cache import cache_folder
from mola_lightning.data.decode import spread
from mola_lightning.data.images import ManifestDataset
from mola_lightning.data.kinds import make_task
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.manifest_source import ManifestSource
from mola_lightning.data.npz_arrays import NpzFile
from mola_lightning.data.string_table import StringTable
from mola_lightning.data.transforms import ImageTransforms

# The nine of the paper, in its order.
PAPER = (
    "pathmnist", "octmnist", "organcmnist", "bloodmnist", "breastmnist", "dermamnist", "organamnist", "organsmnist",
    "pneumoniamnist",
)  # fmt: skip
SIZES = (28, 64, 128, 224)
_KINDS = {
    "multi-class": "single_label",
    "binary-class": "single_label",
    "ordinal-regression": "ordinal",
    "multi-label, binary-class": "multi_label",
}
_METRICS = {
    "single_label": ("accuracy", "auc"),
    "ordinal": ("accuracy", "auc", "mae"),
    "multi_label": ("auc", "accuracy"),
}


class MedMNIST(ManifestSource):
    """The 2D data sets of MedMNIST v2 (Yang et al., Scientific Data 2023), each a task with its own classes.

    From the archives ``pathmnist.npz``, ``pathmnist_224.npz`` and so on, as the package ``medmnist`` names them, which
    also says their classes. Their own splits are used; the released code of the MoLA paper selects models on test, and
    never reads ``val``. Accuracy and AUC are reported, as MedMNIST does. Labels are those of the archives, local to
    their task. Images are unpacked once, to be read from disk as they are needed: a set at 224 pixels is many GB.

    Args:
        root: folder of the archives.
        transforms: of all images, or data set -> transforms; all give one shape. Grey images are repeated to its
            channels.
        subset: names of data sets, in task order; by default the nine of the paper. ``chestmnist`` has several labels
            an image, ``retinamnist`` classes in an order.
        size: 28, 64, 128 or 224: which archives.
        cache_root: folder of the unpacked arrays; the user's cache folder by default.
        class_weights: see :class:`ManifestSource`.

    Raises:
        ConfigError: for an unknown name or size, and where the package ``medmnist`` is missing.
    """

    def __init__(
        self,
        root: str | Path,
        transforms: ImageTransforms | Mapping[str, ImageTransforms],
        subset: Sequence[str] = PAPER,
        size: int = 28,
        cache_root: str | Path | None = None,
        class_weights: str | None = None,
    ) -> None:
        require(not isinstance(subset, str) and len(subset) > 0, f"subset must be a list of names, got {subset!r}")
        one_of("size", size, SIZES)
        self.info = {name: _info(name) for name in subset}
        self.size = size
        super().__init__(
            [_task(name, self.info[name]) for name in subset],
            Regime.MULTI_INPUT,
            root,
            transforms,
            cache_root=cache_root,
            class_weights=class_weights,
        )

    @property
    def expects(self) -> str:  # type: ignore[override]
        """What to fetch and where to put it."""
        return (
            f"mola-data download medmnist root={self.root} size={self.size} fetches the archives; or get "
            f"{', '.join(self._file(name) for name in self.info)} from the MedMNIST home page (medmnist.com), and put "
            "them there."
        )

    def _file(self, name: str) -> str:
        return f"{name}{'' if self.size == 28 else f'_{self.size}'}.npz"

    def archive(self, name: str) -> NpzFile:
        """The archive of a data set."""
        assert self.root is not None
        return NpzFile(self.root / self._file(name), cache_folder(self.cache_root), self.expects)

    def manifests(self) -> dict[Split, Manifest]:
        """The labels of all archives; images are named after their place, as ``pathmnist.npz/train/7``."""
        found: dict[Split, dict[str, tuple[StringTable, np.ndarray]]] = {split: {} for split in SPLITS}
        for name, info in self.info.items():
            archive = self.archive(name)
            archive.require([f"{split}_{what}" for split in SPLITS for what in ("images", "labels")])
            for split in SPLITS:
                labels = archive.read(f"{split}_labels")
                wanted = len(info["label"]) if _KINDS[info["task"]] == "multi_label" else 1
                if labels.ndim != 2 or labels.shape[1] != wanted:
                    raise DataError(f"{archive.path}: {split}_labels must be (n, {wanted}), found shape {labels.shape}")
                values = labels[:, 0].astype(np.int64) if wanted == 1 else labels.astype(np.float32)
                paths = StringTable(f"{archive.path.name}/{split}/{row}" for row in range(len(labels)))
                found[split][name] = paths, values
        return {split: Manifest.of_domains(items, self.root) for split, items in found.items()}

    def prepare(self) -> None:
        """Unpack what is not unpacked yet."""
        for split in self._published:
            assert self._images(split)

    def dataset(self, split: Split) -> ManifestDataset:
        """The dataset of a split; training rows are augmented."""
        check_split(split)
        manifest = self._published[split]
        return ManifestDataset(self.tasks, manifest, self.transforms, split == "train", cache=self._images(split))

    def _images(self, split: Split) -> "NpzImages":
        images = NpzImages([self.archive(name) for name in self.info], f"{split}_images", self.image_shape[0])
        for name, count in zip(self.info, images.counts, strict=True):
            labels = len(self._published[split].targets[name][0])
            if count != labels:
                raise DataError(f"{self.archive(name).path}: {split} has {count} images but {labels} labels")
        return images

    def download(self) -> None:
        """Fetch the archives that are missing, by the package's own means, which check their MD5."""
        import medmnist

        assert self.root is not None
        self.root.mkdir(parents=True, exist_ok=True)
        for name, info in self.info.items():
            try:
                getattr(medmnist, info["python_class"])("train", download=True, root=str(self.root), size=self.size)
            except RuntimeError as error:
                flag = "" if self.size == 28 else f"_{self.size}"
                raise DataError(
                    f"{self._file(name)} could not be fetched: is there a network? Get it from the MedMNIST home page "
                    f"(medmnist.com) and put it into {self.root}; its MD5 is {info[f'MD5{flag}']}."
                ) from error

    def num_files(self) -> int:
        """The archives."""
        return len(self.info)

    def verify(self) -> Iterator[tuple[str, str]]:
        """Look at each archive: its checksum, its arrays, their sizes and labels."""
        for name, info in self.info.items():
            archive = self.archive(name)
            try:
                alone = MedMNIST(self.root or ".", self.transforms, [name], self.size, self.cache_root)
                for split in SPLITS:
                    assert alone._images(split)
                published = info[f"MD5{'' if self.size == 28 else f'_{self.size}'}"]
                same = archive.md5() == published
                yield str(archive.path), "" if same else f"its MD5 is not the published one, {published}"
            except DataError as error:
                yield str(archive.path), str(error).removeprefix(f"{archive.path}: ").removeprefix(f"{archive.path} ")


class NpzImages:
    """The images of a split, data set after data set, as the reader of a :class:`ManifestDataset`.

    Args:
        archives: of the data sets.
        array: name of the images in each: (n, H, W) or (n, H, W, 3), uint8.
        channels: 3 or 1.
    """

    def __init__(self, archives: Sequence[NpzFile], array: str, channels: int) -> None:
        self.archives, self.array, self.channels = list(archives), array, channels
        self.counts = [len(images) for images in self._mapped]
        self._ends = np.cumsum(self.counts)

    @cached_property
    def _mapped(self) -> list[np.ndarray]:
        found = []
        for archive in self.archives:
            images = archive.mapped(self.array)
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
                raise DataError(
                    f"{archive.path}: {self.array} must be uint8 (n, height, width) or (n, height, width, 3), found "
                    f"{images.dtype} {images.shape}"
                )
            found.append(images)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """For workers: they map the files themselves."""
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}

    def read(self, row: int) -> Tensor:
        """(channels, H, W) uint8, a copy."""
        which = int(np.searchsorted(self._ends, row, side="right"))
        pixels = torch.from_numpy(np.array(self._mapped[which][row - int(self._ends[which])]))  # from the end
        if pixels.ndim == 2:
            return spread(pixels[None], self.channels)
        colour = pixels.permute(2, 0, 1)
        return colour if self.channels == 3 else F.rgb_to_grayscale(colour)


def _info(name: str) -> dict[str, Any]:
    """What the package says of a data set."""
    try:
        from medmnist import INFO  # seconds of imports that no other data need
    except ImportError as error:
        raise ConfigError(
            "MedMNIST needs the package medmnist; install it with: uv pip install 'mola-lightning[medmnist]'"
        ) from error
    flat = [known for known in INFO if not known.endswith("3d")]
    if name in INFO and name not in flat:
        raise ConfigError(f"{name} has volumes, and networks here read images; the 2D data sets are {', '.join(flat)}")
    if name not in INFO:
        near = difflib.get_close_matches(str(name), flat, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(flat)}"
        raise ConfigError(f"MedMNIST has no data set {name!r}; {hint}")
    return INFO[name]


def _task(name: str, info: Mapping[str, Any]) -> Task:
    labels = [info["label"][key] for key in sorted(info["label"], key=int)]
    kind = _KINDS[info["task"]]
    return make_task(name, kind, class_names=labels, metrics=_METRICS[kind])
