"""A look at the data: some images of each task, side by side, or the first images above their targets."""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mola_lightning.core import DataError, RunFolderError, Task
from mola_lightning.core.errors import positive_int
from mola_lightning.data.base import TaskDataset
from mola_lightning.data.dense import DenseDataset
from mola_lightning.data.dense_transforms import target_kind

CHANNELS = (1, 3)  # of images that can be shown
UNREADABLE = 0.8  # grey of the tile of an image that cannot be read
LOOKED_AT = 100  # rows per image wanted, to find rows of a task where rows have several


def write_sheet(sheet: Image.Image, path: str | Path) -> Path:
    """Write a contact sheet as a PNG file, and return its path.

    Raises:
        RunFolderError: when it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise RunFolderError(f"cannot write the contact sheet {path}: {error.strerror or error}") from error
    return path


def draw_contact_sheet(dataset: TaskDataset, per_task: int = 16, scale: int = 2) -> Image.Image:
    """Images of each task as the model sees them at evaluation: a row a task, with its name.

    They are the first ones; of each class in turn, where a row has one task and its labels are known.

    Images are shown as they were before they were normalised, where the dataset tells how (``normalizer``) and that
    gives numbers in 0..1; others are spread from black to white, each by itself. One that cannot be read is grey.

    Args:
        dataset: a split with images of 1 or 3 channels.
        per_task: images a row.
        scale: screen pixels per image pixel.

    Raises:
        DataError: when the images have other channels, or none can be read.
    """
    positive_int("per_task", per_task)
    positive_int("scale", scale)
    error: DataError | None = None
    found: dict[str, list[Tensor | None]] = {}
    for name, rows in shown_rows(dataset, per_task).items():
        found[name] = []
        for row in rows:
            try:
                found[name].append(_picture(dataset, row))
            except DataError as unread:
                found[name].append(None)
                error = unread
    shown = next((tile for tiles in found.values() for tile in tiles if tile is not None), None)
    if shown is None:
        raise error or DataError("a contact sheet needs images, and there are none")
    if len(shown) not in CHANNELS:
        raise DataError(f"a contact sheet needs images of 1 or 3 channels, found {len(shown)}")
    grey = torch.full_like(shown, UNREADABLE)
    lines = {name: [grey if tile is None else tile for tile in tiles] for name, tiles in found.items()}
    return _sheet(lines, per_task, scale)


def shown_rows(dataset: TaskDataset, per_task: int) -> dict[str, list[int]]:
    """The first rows that have a target of each task, or the first of each class in turn."""
    ids = dataset.task_ids()
    if ids is not None:
        labels = dataset.labels() or {}
        own = {task.name: np.flatnonzero(ids == t) for t, task in enumerate(dataset.tasks)}
        return {name: _by_turns(rows, labels.get(name))[:per_task].tolist() for name, rows in own.items()}
    found: dict[str, list[int]] = {task.name: [] for task in dataset.tasks}
    for row in range(min(len(dataset), LOOKED_AT * per_task)):
        try:
            names = list(dataset[row].targets)
        except DataError:  # an image that cannot be read; another will do
            continue
        for name in names:
            if len(found[name]) < per_task:
                found[name].append(row)
        if all(len(rows) == per_task for rows in found.values()):
            break
    return found


def _by_turns(rows: np.ndarray, labels: Tensor | None) -> np.ndarray:
    """The rows in the order: first of each class, second of each class, ..."""
    if labels is None or labels.ndim != 1 or len(labels) != len(rows):
        return rows
    by_class = np.argsort(labels.numpy(), kind="stable")
    classes = labels.numpy()[by_class]
    turn = np.arange(len(rows)) - np.searchsorted(classes, classes)
    return rows[by_class[np.argsort(turn, kind="stable")]]


def _picture(dataset: TaskDataset, row: int) -> Tensor:
    """(C, H, W) in 0..1."""
    image, normalize = dataset[row].image, dataset.normalizer(row)
    if normalize is not None:
        image = normalize.undo(image)
    low, high = float(image.min()), float(image.max())
    if low >= -1e-3 and high <= 1 + 1e-3:
        return image.clamp(0, 1)
    return (image - low) / max(high - low, 1e-6)


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
    tiles = [_dense_tiles(dataset, row) for row in range(min(count, len(dataset)))]
    return _sheet({name: [column[line] for column in tiles] for line, name in enumerate(names)}, len(tiles), scale)


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


def _sheet(lines: Mapping[str, Sequence[Tensor]], columns: int, scale: int) -> Image.Image:
    """Rows of tiles (1 or 3, H, W) in 0..1, each with its name before it; all tiles have one size."""
    font = ImageFont.load_default(size=18)
    margin = 12 + int(max(font.getlength(name) for name in lines))
    height, width = next(tile for tiles in lines.values() for tile in tiles).shape[1:]
    across, down = width * scale + 2, height * scale + 2
    sheet = Image.new("RGB", (margin + columns * across, len(lines) * down), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (name, tiles) in enumerate(lines.items()):
        draw.text((6, line * down + down // 2), name, fill="black", font=font, anchor="lm")
        for column, found in enumerate(tiles):
            pixels = (255 * found.clamp(0, 1)).round().byte().expand(3, -1, -1).permute(1, 2, 0).contiguous()
            tile = Image.fromarray(pixels.numpy()).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + column * across, line * down + 1))
    return sheet
