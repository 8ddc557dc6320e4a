"""Images with targets per pixel: one split of them, and the tasks of scenes."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mola_lightning.core import Sample, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import Key, TaskDataset
from mola_lightning.data.dense_transforms import DenseTransforms, target_kind
from mola_lightning.data.transforms import Normalize
from mola_lightning.losses import depth_loss, normal_loss, segmentation_loss, unit_length
from mola_lightning.metrics import depth_metrics, normal_metrics, segmentation_metrics

# row -> image (C, H, W), uint8 or float, and its targets by task: labels (H, W) int64, depth (1, H, W) or normals
# (3, H, W)
Reader = Callable[[int], tuple[Tensor, dict[str, Tensor]]]

SCENE_TASKS = ("segmentation", "depth", "normals")


def segmentation_task(name: str = "segmentation", classes: Sequence[str] | int = (), ignore_index: int = -1) -> Task:
    """A class for each pixel: cross-entropy, mean IoU (monitored) and pixel accuracy.

    Args:
        name: of the task.
        classes: their names in the order of the labels, or their number.
        ignore_index: label of pixels without a class.
    """
    names = () if isinstance(classes, int) else tuple(classes)
    return Task(
        name,
        classes if isinstance(classes, int) else len(names),
        names,
        criterion=partial(segmentation_loss, ignore_index=ignore_index),
        metrics=partial(segmentation_metrics, ignore_index=ignore_index),
        monitor="miou",
        ignore_index=ignore_index,
    )


def depth_task(name: str = "depth") -> Task:
    """A distance for each pixel, 0 where none was measured: absolute error (monitored) and relative error."""
    return Task(
        name, 1, criterion=depth_loss, metrics=depth_metrics, monitor="abs_err", higher_is_better=False, discrete=False
    )


def normals_task(name: str = "normals") -> Task:
    """A unit vector for each pixel, zero where none was measured: 1 - cosine; mean angle (monitored) and others."""
    return Task(
        name,
        3,
        criterion=normal_loss,
        metrics=normal_metrics,
        monitor="mean_angle",
        higher_is_better=False,
        discrete=False,
        activation=unit_length,
    )


def scene_tasks(subset: Sequence[str], classes: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of photographs of rooms, in the order of ``subset``.

    Args:
        subset: which of :data:`SCENE_TASKS`.
        classes: names of those of the segmentation.

    Raises:
        ConfigError: for a string, none, an unknown task, or one twice.
    """
    require(not isinstance(subset, str) and len(subset) > 0, f"subset must be a list of tasks, got {subset!r}")
    for name in subset:
        one_of("each of subset", name, SCENE_TASKS)
    require(len(set(subset)) == len(subset), f"the tasks in subset must differ, got {list(subset)}; remove one")
    made = (segmentation_task(classes=classes), depth_task(), normals_task())
    by_name = dict(zip(SCENE_TASKS, made, strict=True))
    return tuple(by_name[name] for name in subset)


class DenseDataset(TaskDataset):
    """One split of images with targets per pixel.

    Args:
        tasks: all tasks, in task order.
        read: gives a row's image and targets; with workers it is pickled. A sample may lack targets of some tasks.
        count: rows of the split.
        transforms: of image and targets together; None: nothing is changed.
        training: whether rows that are asked for with their epoch are augmented.
        normalize: applied to each batch of images; by default uint8 becomes [0, 1], and floats stay as they are.

    Raises:
        ConfigError: for a task whose targets cannot be augmented together with the image.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        read: Reader,
        count: int,
        transforms: DenseTransforms | None = None,
        training: bool = False,
        normalize: Normalize | None = None,
    ) -> None:
        self.tasks, self.read, self.count, self.training = tuple(tasks), read, count, training
        self.transforms = transforms
        self.normalize = normalize or Normalize()
        self._kinds = {task.name: target_kind(task) for task in self.tasks}

    def __len__(self) -> int:
        return self.count

    def normalizer(self, row: int) -> Normalize:
        return self.normalize

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples of a batch: their images are normalised together."""
        images, found = [], []
        for key in keys:
            epoch, row = key if isinstance(key, tuple) else (None, key)
            image, targets = self.read(row)
            if self.transforms is not None and self.training and epoch is not None:
                image, targets = self.transforms.augment(image, targets, self._kinds, self.seed, epoch, row)
            elif self.transforms is not None:
                image, targets = self.transforms.eval(image, targets, self._kinds)
            images.append(image)
            found.append(targets)
        batch = self.normalize(torch.stack(images)).unbind()
        return [Sample(image, targets) for image, targets in zip(batch, found, strict=True)]
