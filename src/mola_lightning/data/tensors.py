"""A benchmark made of tensors that the user already has."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mola_lightning.core import ConfigError, DataError, Regime, Task, check_tasks
from mola_lightning.core.errors import require
from mola_lightning.data.base import SPLITS, MissingSplit, Source, Split, check_split
from mola_lightning.data.memory import InMemoryDataset
from mola_lightning.data.transforms import Normalize, RandomShift

Pair = tuple[Tensor, Tensor]  # images and labels; or rows and their targets
Joined = tuple[Tensor, dict[str, Pair]]  # all images of a split, and per task its rows with their targets


class _TensorSplits(Source):
    """Splits that are already joined: images (N, C, H, W), and per task its rows with their targets."""

    def __init__(
        self,
        tasks: Sequence[Task],
        regime: Regime,
        splits: Mapping[str, Joined],
        shift: RandomShift | None = None,
        normalize: Normalize | None = None,
    ) -> None:
        for split in splits:
            check_split(split)
        shapes = {split: tuple(images.shape[1:]) for split, (images, _) in splits.items()}
        if len(set(shapes.values())) > 1 or len(shapes["train"]) != 3:
            raise DataError(f"images must be (n, C, H, W) of one shape in all splits, found (C, H, W) = {shapes}")
        channels, height, width = shapes["train"]
        self.tasks, self.regime, self.image_shape = check_tasks(tasks), regime, (channels, height, width)
        self._splits, self._shift, self._normalize = dict(splits), shift, normalize

    def dataset(self, split: Split) -> InMemoryDataset:
        """The dataset of a split; training images are shifted where the source was asked to augment."""
        check_split(split)
        if split not in self._splits:
            raise MissingSplit(f"this source has no {split} split; it was made with {sorted(self._splits)}")
        images, targets = self._splits[split]
        return InMemoryDataset(self.tasks, images, targets, self._normalize, self._shift if split == "train" else None)


class TensorSource(_TensorSplits):
    """Images and labels in memory, each image of one task; see :meth:`single_input` for several targets an image.

    Example:
        >>> source = TensorSource({"train": {"a": (images, labels)}, "val": {"a": (images, labels)}}, num_classes=10)

    Args:
        splits: split ("train", "val", "test") -> task name -> (images (n, C, H, W), labels (n,)). The train split names
            the tasks and their order. uint8 images are scaled to [0, 1], floats are taken as they are.
        num_classes: number of classes of all tasks (domains), or of each (tasks with label spaces of their own).
        augment: largest random shift of training images, in pixels.
        normalize: a :class:`Normalize`, or None.
    """

    def __init__(
        self,
        splits: Mapping[str, Mapping[str, Pair]],
        num_classes: int | Mapping[str, int],
        augment: int = 0,
        normalize: Normalize | None = None,
    ) -> None:
        _need_train(splits)
        names = tuple(splits["train"])
        if isinstance(num_classes, Mapping):
            missing = [name for name in names if name not in num_classes]
            require(not missing, f"num_classes lacks the tasks {missing}; it has {sorted(num_classes)}")
            counts, regime = [num_classes[name] for name in names], Regime.MULTI_INPUT
        else:
            counts, regime = [num_classes] * len(names), Regime.DOMAINS
        tasks = [Task(name, count) for name, count in zip(names, counts, strict=True)]
        joined = {split: _join(names, part, split) for split, part in splits.items()}
        super().__init__(tasks, regime, joined, RandomShift(augment), normalize)

    @staticmethod
    def single_input(
        images: Mapping[str, Tensor],
        targets: Mapping[str, Mapping[str, Tensor]],
        tasks: Sequence[Task],
        annotated: Mapping[str, Mapping[str, Tensor]] | None = None,
        normalize: Normalize | None = None,
    ) -> Source:
        """Several targets for one image; some of them may be missing.

        Images are not augmented: a shift would have to move dense targets along.

        Args:
            images: split -> (N, C, H, W).
            targets: split -> task name -> (N, ...), aligned with the images; a task may be left out of a split.
            tasks: all tasks, in task order.
            annotated: split -> task name -> (N,) bool, which rows carry the target; all rows where it is not given.
            normalize: a :class:`Normalize`, or None.
        """
        _need_train(images)
        joined = {}
        for split, pictures in images.items():
            joined[split] = (pictures, _annotated_rows(split, len(pictures), targets, annotated or {}))
        return _TensorSplits(tasks, Regime.SINGLE_INPUT, joined, normalize=normalize)


def _need_train(splits: Mapping[str, Any]) -> None:
    if "train" not in splits:
        raise ConfigError(f"a source needs a train split, got {sorted(splits)}; the splits are {', '.join(SPLITS)}")


def _join(names: Sequence[str], part: Mapping[str, Pair], split: str) -> Joined:
    """Put the images of all tasks one after another, and note which rows are whose."""
    unknown = sorted(set(part) - set(names))
    if unknown:
        raise DataError(f"the {split} split has the tasks {unknown}, which the train split lacks; it has {list(names)}")
    shapes = {name: tuple(part[name][0].shape[1:]) for name in part}
    if len(set(shapes.values())) != 1:
        raise DataError(f"images of the {split} split must have one shape (C, H, W), found {shapes}")
    targets, start = {}, 0
    for name in (n for n in names if n in part):
        images, labels = part[name]
        targets[name] = (torch.arange(start, start + len(images)), labels)
        start += len(images)
    return torch.cat([part[name][0] for name in targets]), targets


def _annotated_rows(
    split: str,
    num_rows: int,
    targets: Mapping[str, Mapping[str, Tensor]],
    annotated: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Pair]:
    if split not in targets:
        raise DataError(f"there are images but no targets of the {split} split; targets are given of {sorted(targets)}")
    found = {}
    for name, values in targets[split].items():
        mask = annotated.get(split, {}).get(name, torch.ones(num_rows, dtype=torch.bool))
        if len(values) != num_rows or mask.shape != (num_rows,):
            raise DataError(
                f"task {name!r}, {split} split: {num_rows} images need {num_rows} targets and a mask of as many rows, "
                f"got {len(values)} targets and a mask of shape {tuple(mask.shape)}"
            )
        rows = mask.nonzero().flatten()
        found[name] = (rows, values[rows])
    return found
