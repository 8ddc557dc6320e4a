"""What ``mola-data`` shows of a data set: its sizes, the classes that a split lacks, and some of its images."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from rich.table import Table

from mola_lightning.core import DataError, Task
from mola_lightning.data import SPLITS, DenseDataset, MissingSplit, MultiTaskDataModule, Source, Split, TaskDataset
from mola_lightning.data.contact_sheet import CHANNELS, draw_contact_sheet, draw_dense_sheet

PER_TASK = 8  # images of a contact sheet
TILE = 96  # screen pixels of a small image there, about
NAMES = 6  # classes that are named, and the number of the others


def load_splits(data: MultiTaskDataModule) -> dict[Split, TaskDataset]:
    """The splits that there are, checked; not every source has a test split.

    Raises:
        DataError: for a split that is there and not sound.
    """
    found: dict[Split, TaskDataset] = {}
    for split in SPLITS:
        with suppress(MissingSplit):
            found[split] = data.dataset(split)
    return found


def size_table(title: str, datasets: Mapping[Split, TaskDataset]) -> Table:
    """The rows with a target, task by task and split by split."""
    table = Table("task", "outputs", "metric", *datasets, title=title)
    sizes = {split: dataset.task_sizes() for split, dataset in datasets.items()}
    for task in datasets["train"].tasks:
        counts = (f"{sizes[split][task.name]:,}" for split in datasets)
        table.add_row(task.name, _outputs(task), task.monitor, *counts)
    return table


def _outputs(task: Task) -> str:
    names = ", ".join(task.class_names[:NAMES]) + ("…" if len(task.class_names) > NAMES else "")
    return f"{task.num_outputs} ({names})" if names else str(task.num_outputs)


def absent_classes(datasets: Mapping[Split, TaskDataset]) -> list[str]:
    """A sentence for each task and split without a row of some class, where labels are known without reading images."""
    found = []
    for split, dataset in datasets.items():
        labels = dataset.labels() or {}
        for task in dataset.tasks:
            if task.name not in labels or labels[task.name].ndim != 1:
                continue
            seen = set(torch.unique(labels[task.name]).tolist())
            missing = [label for label in range(task.num_outputs) if label not in seen]
            if missing:
                names = [task.class_names[label] if task.class_names else str(label) for label in missing]
                more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
                found.append(f"task {task.name!r}: no {split} image of {', '.join(names[:NAMES])}{more}")
    return found


def some_images(dataset: TaskDataset, image_shape: tuple[int, int, int]) -> Image.Image | None:
    """A contact sheet of what fits the data set; None where its images have channels that no screen shows."""
    channels, height, _ = image_shape
    if channels not in CHANNELS:
        return None
    scale = max(1, TILE // height)
    if isinstance(dataset, DenseDataset):
        return draw_dense_sheet(dataset, PER_TASK, scale)
    return draw_contact_sheet(dataset, PER_TASK, scale)


def made_here(source: Source) -> bool:
    """Whether the source needs no files: it neither says what to fetch nor has any to look at."""
    return not source.expects and type(source).num_files is Source.num_files


def files_state(source: Source) -> str:
    """Whether the files of a source are there, in words."""
    if made_here(source):
        return "made here"
    root = getattr(source, "root", None)
    if root is None:
        return "–"
    return "there" if Path(root).is_dir() else f"not in {root}"


def regime_name(source: Source) -> str:
    """How samples and tasks relate; a dash where the files would have to be there to know."""
    try:
        return str(source.regime.value)
    except DataError:
        return "–"
