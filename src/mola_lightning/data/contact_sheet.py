"""A look at the data: the first images of each task, side by side, or the first images above their targets."""

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mola_lightning.core import DataError, Task
from mola_lightning.core.errors import positive_int
from mola_lightning.data.base import TaskDataset
from mola_lightning.data.dense import DenseDataset
from mola_lightning.data.dense_transforms import target_kind
from mola_lightning.data.memory import InMemoryDataset


def draw_contact_sheet(dataset: TaskDataset, per_task: int = 16, scale: int = 2) -> Image.Image:
    """The first images of each task as the model sees them at evaluation: a row a task, with its name.

    Images that are kept as uint8 are shown as they are; others come normalised, and are spread from black to white,
    each image by itself.

    Args:
        dataset: a split with images of 1 or 3 channels.
        per_task: images a row.
        scale: screen pixels per image pixel.

    Raises:
        DataError: when the images have other channels.
    """
    positive_int("per_task", per_task)
    positive_int("scale", scale)
    channels, height, width = _picture(dataset, 0).shape
    if channels not in (1, 3):
        raise DataError(f"a contact sheet needs images of 1 or 3 channels, found {channels}")
    names = [task.name for task in dataset.tasks]
    rows_of = first_rows(dataset, per_task)
    font = ImageFont.load_default(size=18)
    margin = 12 + int(max(font.getlength(name) for name in names))
    across, down = width * scale + 2, height * scale + 2
    sheet = Image.new("RGB", (margin + per_task * across, len(names) * down), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        draw.text((6, row * down + down // 2), name, fill="black", font=font, anchor="lm")
        for column, index in enumerate(rows_of[name]):
            pixels = _picture(dataset, index).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            tile = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + column * across, row * down + 1))
    return sheet


def first_rows(dataset: TaskDataset, per_task: int) -> dict[str, list[int]]:
    """The first rows that have a target of each task."""
    ids = dataset.task_ids()
    if ids is not None:
        return {task.name: np.flatnonzero(ids == t)[:per_task].tolist() for t, task in enumerate(dataset.tasks)}
    found: dict[str, list[int]] = {task.name: [] for task in dataset.tasks}
    for row in range(len(dataset)):
        for name in dataset[row].targets:
            if len(found[name]) < per_task:
                found[name].append(row)
        if all(len(rows) == per_task for rows in found.values()) or row > 100 * per_task:
            break
    return found


def _picture(dataset: TaskDataset, row: int) -> Tensor:
    """(C, H, W) uint8."""
    if isinstance(dataset, InMemoryDataset) and not dataset.images.dtype.is_floating_point:
        return dataset.images[row]
    image = dataset[row].image
    low, high = float(image.min()), float(image.max())
    return ((image - low) * (255 / max(high - low, 1e-6))).round().byte()


def draw_dense_sheet(dataset: DenseDataset, count: int = 8, scale: int = 2) -> Image.Image:
    """The first images as they are stored, and under each its targets per pixel: a row a task, with its name.

    Classes have a colour each, near is bright in a map of depth, and the x, y and z of a normal are red, green and
    blue. What has no target is black.

    Args:
        dataset: a split with images of 1 or 3 channels, uint8 or in 0..1.
        count: images.
        scale: screen pixels per image pixel.
    """
    positive_int("count", count)
    positive_int("scale", scale)
    names = ["image", *(task.name for task in dataset.tasks)]
    font = ImageFont.load_default(size=18)
    margin = 12 + int(max(font.getlength(name) for name in names))
    tiles = [_dense_tiles(dataset, row) for row in range(min(count, len(dataset)))]
    height, width = tiles[0][0].shape[1:]
    across, down = width * scale + 2, height * scale + 2
    sheet = Image.new("RGB", (margin + len(tiles) * across, len(names) * down), "white")
    draw = ImageDraw.Draw(sheet)
    for line, name in enumerate(names):
        draw.text((6, line * down + down // 2), name, fill="black", font=font, anchor="lm")
        for place, found in enumerate(tiles):
            pixels = (255 * found[line].clamp(0, 1)).round().byte().expand(3, -1, -1).permute(1, 2, 0).contiguous()
            tile = Image.fromarray(pixels.numpy()).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + place * across, line * down + 1))
    return sheet


def _dense_tiles(dataset: DenseDataset, row: int) -> list[Tensor]:
    """(1 or 3, H, W) in 0..1: the image, and a picture of each task's target; black where the row has none."""
    image, targets = dataset.read(row)
    picture = image if image.is_floating_point() else image / 255
    blank = torch.zeros(1, *image.shape[1:])
    return [
        picture,
        *(_target_tile(task, targets[task.name]) if task.name in targets else blank for task in dataset.tasks),
    ]


def _target_tile(task: Task, target: Tensor) -> Tensor:
    match target_kind(task):
        case "labels":
            hues = [colorsys.hsv_to_rgb(label / task.num_outputs, 0.6, 0.9) for label in range(task.num_outputs)]
            palette = torch.tensor([*hues, (0.0, 0.0, 0.0)])  # black is the last one, where labels without a class go
            known = (target >= 0) & (target < task.num_outputs)
            return palette[torch.where(known, target, task.num_outputs)].permute(2, 0, 1)
        case "depth":
            return torch.where(target > 0, 1 - 0.9 * target / target.max().clamp(min=1e-6), 0.0)
        case "normals":
            return torch.where((target != 0).any(0), (target + 1) / 2, 0.0)
