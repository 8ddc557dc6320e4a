"""A look at the data: the first images of each task, side by side."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mola_lightning.core import DataError
from mola_lightning.core.errors import positive_int
from mola_lightning.data.memory import InMemoryDataset


def draw_contact_sheet(dataset: InMemoryDataset, per_task: int = 16, scale: int = 2) -> Image.Image:
    """The first images of each task as the model sees them, before normalisation: a row a task, with its name.

    Args:
        dataset: a split with uint8 images of 1 or 3 channels, each of one task.
        per_task: images a row.
        scale: screen pixels per image pixel.

    Raises:
        DataError: when rows carry several targets, or the images are not uint8.
    """
    positive_int("per_task", per_task)
    positive_int("scale", scale)
    ids, (_, channels, height, width) = dataset.task_ids(), dataset.images.shape
    if ids is None or dataset.images.dtype.is_floating_point or channels not in (1, 3):
        raise DataError("a contact sheet needs uint8 images of 1 or 3 channels, each of one task")
    names = [task.name for task in dataset.tasks]
    font = ImageFont.load_default(size=18)
    margin = 12 + int(max(font.getlength(name) for name in names))
    across, down = width * scale + 2, height * scale + 2
    sheet = Image.new("RGB", (margin + per_task * across, len(names) * down), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        draw.text((6, row * down + down // 2), name, fill="black", font=font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(ids == row)[:per_task]):
            pixels = dataset.images[index].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            tile = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + column * across, row * down + 1))
    return sheet
