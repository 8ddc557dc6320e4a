"""One split of a file-based benchmark, decoded and augmented as it is asked for."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mola_lightning.core import ConfigError, DataError, Sample, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import Key, TaskDataset
from mola_lightning.data.decode import REASONS, ImageError, read_image
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.seeded import generators_restored
from mola_lightning.data.transforms import ImageTransforms, Normalize

log = logging.getLogger(__name__)


class Images(Protocol):
    """Where decoded images come from."""

    def read(self, row: int) -> Tensor:
        """(C, H, W) uint8 of the manifest's row; an :class:`ImageError` where there is none."""


class ManifestDataset(TaskDataset):
    """The images of a manifest, in any regime.

    Args:
        tasks: all tasks, in task order.
        manifest: paths and targets.
        transforms: for all images, or task name -> transforms where each image has one task; all give one shape.
        training: whether rows that are asked for with their epoch are augmented.
        on_bad_image: ``error``, or ``skip``: leave a row whose image cannot be read out of its batch; see :meth:`bad`.
        cache: gives the decoded images of the manifest's rows, such as an :class:`ImageCache`; None: files are read
            each time.

    Raises:
        ConfigError: for transforms that do not fit the tasks or one another.
        DataError: for targets of unknown tasks, or rows without any target.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        manifest: Manifest,
        transforms: ImageTransforms | Mapping[str, ImageTransforms],
        training: bool = False,
        on_bad_image: str = "error",
        cache: Images | None = None,
    ) -> None:
        one_of("on_bad_image", on_bad_image, ("error", "skip"))
        self.tasks, self.manifest, self.training, self.cache = tuple(tasks), manifest, training, cache
        names = [task.name for task in self.tasks]
        if unknown := sorted(set(manifest.targets) - set(names)):
            raise DataError(f"targets of unknown tasks {unknown}; the tasks are {names}")
        if bare := int((manifest.owners() == 0).sum()):
            raise DataError(f"{bare} of {len(manifest)} images carry no target of any task; leave them out")
        self.image_shape = image_shape(transforms, names)
        # (C, H, W) uint8 -> ... by the position of the row's task; one for all where they are alike
        self._transforms = [transforms] if isinstance(transforms, ImageTransforms) else [transforms[n] for n in names]
        self._task_of = self.task_ids() if len(self._transforms) > 1 else None
        if len(self._transforms) > 1 and self._task_of is None:
            raise ConfigError(
                "transforms of each task need images of one task each, but here images have several tasks"
            )
        # Shared with the workers: why the image of a row could not be read, as its place in REASONS.
        self._bad = torch.zeros(len(manifest), dtype=torch.uint8).share_memory_() if on_bad_image == "skip" else None

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples of a batch; fewer than asked for where images are left out.

        Raises:
            ImageError: for an image that cannot be read, with ``on_bad_image="error"``.
            DataError: when none of the batch's images can be read.
        """
        rows, images, used = [], [], []
        augmented = self.training and any(isinstance(key, tuple) for key in keys)
        with generators_restored() if augmented else nullcontext():
            for key in keys:
                epoch, row = key if isinstance(key, tuple) else (None, key)
                pixels = self._read(row)
                if pixels is None:
                    continue
                which = 0 if self._task_of is None else int(self._task_of[row])
                transforms = self._transforms[which]
                if self.training and epoch is not None:
                    images.append(transforms.augment(pixels, self.seed, epoch, row))
                else:
                    images.append(transforms.eval(pixels))
                rows.append(row)
                used.append(which)
        if not rows:
            path, reason = self.bad()[0]
            raise DataError(
                f"none of the {len(keys)} images of a batch could be read; the first of all that could not is "
                f"{path} ({reason}). Check root, and that the files are whole."
            )
        samples = [Sample(image, {}) for image in self._normalized(images, used)]
        self._add_targets(samples, np.array(rows))
        return samples

    def _read(self, row: int) -> Tensor | None:
        """The pixels of a row; None where they cannot be read and may be left out."""
        try:
            if self.cache is not None:
                return self.cache.read(row)
            return read_image(self.manifest.path(row), self.image_shape[0])
        except ImageError as error:
            if self._bad is None:
                raise
            if not bool(self._bad.any()):
                log.warning("%s (%s): left out, as further such images will be", self.manifest.path(row), error.reason)
            self._bad[row] = REASONS.index(error.reason)
            return None

    def _normalized(self, images: list[Tensor], used: list[int]) -> list[Tensor]:
        """One call for all images of one transforms object."""
        done: list[Tensor] = list(images)
        for which in set(used):
            here = [i for i, other in enumerate(used) if other == which]
            batch = self._transforms[which].normalize(torch.stack([images[i] for i in here]))
            for i, image in zip(here, batch.unbind(), strict=True):
                done[i] = image
        return done

    def _add_targets(self, samples: list[Sample], rows: np.ndarray) -> None:
        for name, (labelled, values) in self.manifest.targets.items():
            place = np.searchsorted(labelled, rows).clip(max=max(len(labelled) - 1, 0))
            here = np.flatnonzero(labelled[place] == rows) if len(labelled) else place[:0]
            for i, value in zip(here, torch.from_numpy(values[place[here]]).unbind(), strict=True):
                samples[i].targets[name] = value

    def normalizer(self, row: int) -> Normalize:
        return self._transforms[0 if self._task_of is None else int(self._task_of[row])].normalize

    def bad(self) -> list[tuple[str, str]]:
        if self._bad is None:
            return []
        return [
            (str(self.manifest.path(row)), REASONS[self._bad[row]]) for row in self._bad.nonzero().flatten().tolist()
        ]

    def task_ids(self) -> np.ndarray | None:
        """(N,) int64, the task of each row; None where some row carries several targets."""
        ids = self.manifest.task_ids()
        if ids is None:
            return None
        names = [task.name for task in self.tasks]
        return np.array([names.index(name) for name in self.manifest.targets])[ids]

    def labels(self) -> dict[str, Tensor]:
        """The targets of the discrete tasks."""
        targets = self.manifest.targets
        return {t.name: torch.from_numpy(targets[t.name][1]) for t in self.tasks if t.discrete and t.name in targets}

    def task_sizes(self) -> dict[str, int]:
        """The number of rows that carry a target for each task."""
        targets = self.manifest.targets
        return {task.name: len(targets[task.name][0]) if task.name in targets else 0 for task in self.tasks}


def image_shape(
    transforms: ImageTransforms | Mapping[str, ImageTransforms], names: Sequence[str]
) -> tuple[int, int, int]:
    """(C, H, W) that the transforms give, for all tasks or for each of ``names``.

    Raises:
        ConfigError: when a task has none, or their shapes differ.
    """
    if isinstance(transforms, ImageTransforms):
        return transforms.image_shape
    ok = isinstance(transforms, Mapping) and all(isinstance(each, ImageTransforms) for each in transforms.values())
    require(ok, f"transforms must be ImageTransforms, or task name -> ImageTransforms, got {transforms!r}")
    require(
        set(transforms) == set(names), f"transforms are given for {sorted(transforms)}, the tasks are {list(names)}"
    )
    shapes = {name: transforms[name].image_shape for name in names}
    require(len(set(shapes.values())) == 1, f"the transforms of all tasks must give images of one shape, got {shapes}")
    return shapes[names[0]]
