"""Augmentation of an image together with its targets per pixel."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import Task, seed_of
from mola_lightning.core.errors import positive_int, require
from mola_lightning.losses import depth_loss, normal_loss

TargetKind = Literal["labels", "depth", "normals"]
Targets = Mapping[str, Tensor]


def target_kind(task: Task) -> TargetKind:
    """How the targets of a task per pixel change with the image: as class labels, as depth, or as surface normals.

    Raises:
        ConfigError: for a task of another kind.
    """
    if task.discrete:
        return "labels"
    kinds: dict[object, TargetKind] = {depth_loss: "depth", normal_loss: "normals"}
    require(
        task.criterion in kinds,
        f"task {task.name!r} has a target per pixel that is neither class labels nor depth (depth_loss) nor normals "
        "(normal_loss), so nothing is known of how it changes when the image is scaled or flipped",
    )
    return kinds[task.criterion]


class DenseTransforms:
    """Random scale, crop and horizontal flip of an image with all its targets, as the paper has them for NYUv2.

    A part of the image, smaller by a factor drawn from ``scales``, is enlarged to the whole size. Images and normals
    are interpolated linearly, labels and depth are taken from the nearest pixel; depth is divided by the factor, as if
    the camera were nearer, and the x component of normals changes its sign on a flip. Where a normal was not measured
    (the zero vector), none is invented from its neighbours.

    Args:
        size: (H, W) that images and targets are brought to, before augmentation and for evaluation; None: as they are.
        scales: factors to draw from, each at least 1; (1,) neither scales nor crops.
        flip: probability of a flip.

    Raises:
        ConfigError: for settings that cannot work.
    """

    def __init__(
        self, size: Sequence[int] | None = None, scales: Sequence[float] = (1.0, 1.2, 1.5), flip: float = 0.5
    ) -> None:
        if size is not None:
            require(len(size) == 2, f"size must be [height, width], got {size!r}")
            positive_int("the height in size", size[0])
            positive_int("the width in size", size[1])
        require(len(scales) > 0 and min(scales) >= 1, f"scales must be factors of 1 or more, got {list(scales)}")
        require(0 <= flip <= 1, f"flip must be a probability in 0..1, got {flip!r}")
        self.size = (int(size[0]), int(size[1])) if size is not None else None
        self.scales, self.flip = tuple(float(scale) for scale in scales), flip

    def eval(
        self, image: Tensor, targets: Targets, kinds: Mapping[str, TargetKind]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Bring image and targets to ``size``.

        Args:
            image: (C, H, W), uint8 or float.
            targets: task -> labels (H, W) int64, depth (1, H, W) or normals (3, H, W).
            kinds: task -> what its targets are.
        """
        if self.size is None or tuple(image.shape[-2:]) == self.size:
            return image, dict(targets)
        return _resized(image, targets, kinds, self.size)

    def augment(
        self, image: Tensor, targets: Targets, kinds: Mapping[str, TargetKind], seed: int, epoch: int, row: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`eval`, then scale, crop and flip: a pure function of the arguments."""
        image, targets = self.eval(image, targets, kinds)
        rng = np.random.default_rng(seed_of(seed, "augment", epoch, row))
        scale = self.scales[int(rng.integers(len(self.scales)))]
        height, width = image.shape[-2:]
        h, w = int(height / scale), int(width / scale)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        flipped = bool(rng.random() < self.flip)
        if scale > 1:
            image, targets = (
                image[..., top : top + h, left : left + w],
                {name: target[..., top : top + h, left : left + w] for name, target in targets.items()},
            )
            image, targets = _resized(image, targets, kinds, (height, width))
            targets = {n: target / scale if kinds[n] == "depth" else target for n, target in targets.items()}
        return (image.flip(-1), _flipped(targets, kinds)) if flipped else (image, dict(targets))


def _resized(
    image: Tensor, targets: Targets, kinds: Mapping[str, TargetKind], size: tuple[int, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    pixels = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=True)[0]
    if not image.is_floating_point():
        pixels = pixels.round().to(image.dtype)
    changed = {}
    for name, target in targets.items():
        if kinds[name] == "normals":
            linear = F.interpolate(target[None], size, mode="bilinear", align_corners=True)[0]
            measured = _nearest((target != 0).any(0, keepdim=True), size)
            changed[name] = torch.where(measured, linear, 0.0)
        else:
            changed[name] = _nearest(target, size)
    return pixels, changed


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) -> (..., *size), the nearest pixel of each; works on any type, and never touches a value."""
    rows, columns = (torch.arange(new) * old // new for new, old in zip(size, maps.shape[-2:], strict=True))
    return maps[..., rows[:, None], columns]


def _flipped(targets: Targets, kinds: Mapping[str, TargetKind]) -> dict[str, Tensor]:
    mirror = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    return {
        name: target.flip(-1) * mirror if kinds[name] == "normals" else target.flip(-1)
        for name, target in targets.items()
    }
