"""The base of all sources that read image files."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mola_lightning.core import DataError, Regime, Task, check_tasks
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import SPLITS, MissingSplit, Source, Split, check_split
from mola_lightning.data.decode import ImageError, decode
from mola_lightning.data.image_cache import ImageCache
from mola_lightning.data.images import ManifestDataset, image_shape
from mola_lightning.data.kinds import with_balanced_classes
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.parallel import in_parallel
from mola_lightning.data.splits import stratified_split
from mola_lightning.data.transforms import ImageTransforms

_BINS = 10  # of the numbers of a regression, when a split is cut
_LEAST = 10  # rows of a bin: each is in all splits, which would distort the fractions of small ones


class _Part(NamedTuple):
    """A split: rows of a published split; None: all of them."""

    published: Split
    rows: np.ndarray | None
    manifest: Manifest


class ManifestSource(Source):
    """Images in files. A subclass passes its tasks to this constructor, and lists the files in :meth:`manifests`.

    Model selection needs a validation split and a test split that it never sees. So where a benchmark publishes no
    validation split, one is cut from its training split: by task and class, seeded, and recorded (:meth:`record`).

    Args:
        tasks: all tasks, in task order.
        regime: how samples and tasks relate.
        root: folder of the benchmark, which need not exist until data are asked for; None: there is no one folder.
        transforms: for all images, or task name -> transforms; all give one shape.
        val_fraction: of the training rows, cut off for validation where no validation split is published.
        test_fraction: likewise for the test; None: without a published test split there is none.
        seed: of the cut: the same for all training seeds.
        on_bad_image: ``error``, or ``skip`` to leave out images that cannot be read.
        cache: ``disk`` or ``ram``: each image is decoded once; None: each time that it is used.
        cache_root: folder of the disk cache; the user's cache folder by default.
        class_weights: ``balanced`` lets the classes of a task weigh alike in its loss; None: rows do.

    Raises:
        ConfigError: for settings that cannot work, or two tasks of one name.
    """

    expects: str = "Set root to the folder that holds its files."  # said when the root is missing

    def __init__(
        self,
        tasks: Sequence[Task],
        regime: Regime,
        root: str | Path | None,
        transforms: ImageTransforms | Mapping[str, ImageTransforms],
        val_fraction: float = 0.1,
        test_fraction: float | None = None,
        seed: int = 0,
        on_bad_image: str = "error",
        cache: str | None = None,
        cache_root: str | Path | None = None,
        class_weights: str | None = None,
    ) -> None:
        self.regime = regime
        self.root = Path(root).expanduser() if root is not None else None
        self._tasks = check_tasks(tasks)
        self.image_shape = image_shape(transforms, [task.name for task in self._tasks])
        self.transforms = transforms
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            ok = fraction is None or (isinstance(fraction, float) and 0 < fraction < 1)
            require(ok, f"{name} must lie between 0 and 1, got {fraction!r}")
        require(
            val_fraction is not None, "val_fraction must lie between 0 and 1: model selection needs validation images"
        )
        require(val_fraction + (test_fraction or 0) < 1, "val_fraction and test_fraction leave nothing to train on")
        require(isinstance(seed, int), f"seed must be an integer, got {seed!r}")
        one_of("on_bad_image", on_bad_image, ("error", "skip"))
        one_of("cache", cache, (None, "disk", "ram"))
        one_of("class_weights", class_weights, (None, "balanced"))
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        self.on_bad_image, self.cache, self.class_weights = on_bad_image, cache, class_weights
        self.cache_root = Path(cache_root).expanduser() if cache_root is not None else None
        self._caches: dict[Split, ImageCache] = {}

    @abstractmethod
    def manifests(self) -> dict[Split, Manifest]:
        """The splits that are published: ``train``, and ``val`` and ``test`` where the benchmark has them."""

    def groups(self) -> np.ndarray | None:
        """(N,), for the rows of the training manifest: rows of one group stay together when a split is cut."""
        return None

    @property
    def tasks(self) -> tuple[Task, ...]:  # type: ignore[override]
        """All tasks, in task order; with ``class_weights`` this reads the list of training images."""
        return self._tasks if self.class_weights is None else self._weighted

    @cached_property
    def _weighted(self) -> tuple[Task, ...]:
        targets = self._parts["train"].manifest.targets
        return tuple(with_balanced_classes(task, targets[task.name][1]) for task in self._tasks)

    @cached_property
    def _published(self) -> dict[Split, Manifest]:
        """The published splits, checked."""
        if self.root is not None and not self.root.is_dir():
            raise DataError(f"{self.name}: there is no folder {self.root}. {self.expects}")
        published = self.manifests()
        if "train" not in published:
            raise DataError(f"{self.name}: there is no train split; found {sorted(published)}. {self.expects}")
        for split, manifest in published.items():
            check_split(split)
            self._check(manifest, split)
        self._check_overlap(published)
        return published

    @cached_property
    def _parts(self) -> dict[Split, _Part]:
        """All splits: the published ones, and those cut from train."""
        parts = {split: _Part(split, None, manifest) for split, manifest in self._published.items()}
        if cut := self._fractions():
            train = self._published["train"]
            for split, rows in stratified_split(_strata(train, self._tasks), cut, self.seed, self.groups()).items():
                part = _Part("train", rows, train.select(rows))
                self._check(part.manifest, split)
                parts[split] = part  # type: ignore[index]
        return {split: parts[split] for split in SPLITS if split in parts}

    def _fractions(self) -> dict[str, float]:
        """The part of each split that is cut from train, train included; empty where none is."""
        wanted = {"val": self.val_fraction, "test": self.test_fraction}
        cut = {split: part for split, part in wanted.items() if split not in self._published and part is not None}
        return {"train": 1 - sum(cut.values()), **cut} if cut else {}

    def _check_overlap(self, published: Mapping[Split, Manifest]) -> None:
        """A test on images that were trained on says nothing."""
        hashes = {split: manifest.hashes() for split, manifest in published.items()} if len(published) > 1 else {}
        for one, other in combinations(hashes, 2):
            common = np.flatnonzero(np.isin(hashes[other], hashes[one]))
            if len(common):
                raise DataError(
                    f"{self.name}: the splits {one} and {other} share {len(common)} images, first "
                    f"{published[other].path(int(common[0]))}; leave them out of one of the two"
                )

    def _check(self, manifest: Manifest, split: str) -> None:
        unknown = sorted(set(manifest.targets) - {task.name for task in self._tasks})
        if unknown:
            raise DataError(f"{self.name}: the {split} split has targets of unknown tasks {unknown}")
        for task in self._tasks:
            if not len(manifest.targets.get(task.name, ((),))[0]):
                raise DataError(
                    f"{self.name}: task {task.name!r} has no image in the {split} split. Add images, leave the task "
                    "out, or take a larger fraction where the split is cut from train."
                )
            check_values(task, manifest, f"the {split} split")

    def prepare(self) -> None:
        """Read the lists of images, and build the disk cache where there is to be one."""
        for split in dict.fromkeys(part.published for part in self._parts.values()):
            if self.cache == "disk":  # in memory it would be of no use to the other processes
                self._cached(split)

    def _cached(self, split: Split) -> ImageCache:
        """Of a published split: what is cut from it has a part of its images."""
        if split not in self._caches:
            manifest, (channels, *_) = self._published[split], self.image_shape
            self._caches[split] = ImageCache.build(
                manifest, channels, str(self.cache), self.cache_root, self.on_bad_image
            )
        return self._caches[split]

    def dataset(self, split: Split) -> ManifestDataset:
        """The dataset of a split; training rows are augmented."""
        check_split(split)
        if split not in self._parts:
            hint = f"; set test=false, or cut one from train ({split}_fraction)" if split == "test" else ""
            raise MissingSplit(f"{self.name} has no {split} split; it has {', '.join(self._parts)}{hint}")
        part, cache = self._parts[split], None
        if self.cache is not None:
            whole = self._cached(part.published)
            cache = whole if part.rows is None else whole.select(part.rows)
        return ManifestDataset(self.tasks, part.manifest, self.transforms, split == "train", self.on_bad_image, cache)

    def num_files(self) -> int:
        """The images of all splits."""
        return sum(len(manifest) for manifest in self._published.values())

    def verify(self) -> Iterator[tuple[str, str]]:
        """Decode each image, split by split."""
        for manifest in self._published.values():

            def look(row: int, manifest: Manifest = manifest) -> tuple[str, str]:
                path = manifest.path(row)
                try:
                    decode(path, self.image_shape[0])
                except ImageError as error:
                    return str(path), error.reason
                return str(path), ""

            yield from in_parallel(look, len(manifest))

    def record(self) -> dict[str, Any]:
        """Sizes and digests of the splits, and how those were cut that are not published."""
        parts, cut = self._parts, self._fractions()
        return {
            "source": self.name,
            "root": str(self.root) if self.root is not None else None,
            "sizes": {
                task.name: {split: len(part.manifest.targets[task.name][0]) for split, part in parts.items()}
                for task in self._tasks
            },
            "digests": {split: part.manifest.digest() for split, part in parts.items()},
            "cut": {"fractions": cut, "seed": self.seed} if cut else None,
        }


def check_values(task: Task, manifest: Manifest, where: str) -> None:
    """Raise :class:`DataError` for targets that do not fit their task; it names the first image with one."""
    rows, values = manifest.targets[task.name]
    if task.discrete:
        if values.dtype != np.int64 or values.ndim != 1:
            raise DataError(
                f"task {task.name!r}: a class index an image is needed in {where}, got {values.dtype} {values.shape}"
            )
        bad = (values < 0) | (values >= task.num_outputs)
        if bad.any():
            image = manifest.path(int(rows[np.argmax(bad)]))
            task.check_targets(torch.from_numpy(values), where=f"{where}, first at {image}")
        return
    width = 1 if values.ndim == 1 else values.shape[1]
    if values.dtype != np.float32 or values.ndim > 2 or width != task.num_outputs:
        raise DataError(
            f"task {task.name!r}: {task.num_outputs} floats an image are needed in {where}, "
            f"got {values.dtype} {values.shape}"
        )
    if not np.isfinite(values).all():
        image = manifest.path(int(rows[np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1))]))
        raise DataError(
            f"task {task.name!r}: a target is not a finite number in {where}, first at {image}; leave the row out"
        )


def _strata(manifest: Manifest, tasks: Sequence[Task]) -> np.ndarray:
    """(N,) int64, what a cut keeps in proportion: the first task of a row and its class there.

    For several labels the rarest one that the row has counts as its class, for numbers the tenth that they lie in, or
    a larger part where rows are few.
    """
    strata, offset = np.full(len(manifest), -1), 0
    for task in tasks:
        rows, values = manifest.targets[task.name]
        if task.discrete:
            classes = values
        elif bool(np.isin(values, (0, 1)).all()) and values.ndim == 2:
            rarity = np.where(values > 0, values.sum(axis=0), np.inf)
            classes = np.where(values.any(axis=1), rarity.argmin(axis=1), values.shape[1])
        else:
            first = values.reshape(len(values), -1)[:, 0]
            bins = max(1, min(_BINS, len(first) // _LEAST))
            classes = np.searchsorted(np.quantile(first, np.linspace(0, 1, bins + 1)[1:-1]), first)
        free = strata[rows] < 0
        strata[rows[free]] = classes[free] + offset
        offset += int(classes.max()) + 1
    return strata
