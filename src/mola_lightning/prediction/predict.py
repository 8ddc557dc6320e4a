"""Batches of image files through a model, part by part into a table."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from mola_lightning.core.errors import positive_int, require
from mola_lightning.prediction.answers import Answers
from mola_lightning.prediction.inputs import ImageFiles, ReadImages
from mola_lightning.prediction.parts import PartedTable


def as_read(batch: ReadImages) -> ReadImages:
    """A batch is made whole by the dataset; collating has nothing left to do."""
    return batch


def predict_missing(
    answers: Answers,
    files: ImageFiles,
    table: PartedTable,
    batch_size: int = 64,
    num_workers: int = 0,
    done: Callable[[int], Any] = lambda images: None,
) -> None:
    """Predict the parts of a table that are missing.

    Args:
        answers: of a model, which runs where its parameters are.
        files: the inputs.
        table: what is written.
        batch_size: images of a pass.
        num_workers: processes that read images; 0: this one.
        done: hears how many images were dealt with, after each batch.
    """
    positive_int("batch_size", batch_size)
    require(isinstance(num_workers, int) and num_workers >= 0, f"num_workers must be >= 0, got {num_workers!r}")
    parts = table.missing()
    device = next(answers.module.parameters()).device
    batches = [list(part[at : at + batch_size]) for part in parts for at in range(0, len(part), batch_size)]
    loader = DataLoader(
        files,
        batch_sampler=batches,
        collate_fn=as_read,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else a loader draws from the global one
    )
    results = _results(answers, files, loader, device)
    for part in parts:
        rows: list[Sequence[str]] = []
        bad: list[tuple[str, str]] = []
        seen = 0
        while seen < len(part):
            found, unread = next(results)
            rows += found
            bad += unread
            seen += len(found) + len(unread)
            done(len(found) + len(unread))
        table.write(part, rows, bad)


def _results(
    answers: Answers, files: ImageFiles, loader: DataLoader[ReadImages], device: torch.device
) -> Iterator[tuple[list[list[str]], list[tuple[str, str]]]]:
    """For each batch, its rows of the table, and (image, reason) of those that could not be read."""

    def name(row: int) -> str:  # file names need not be valid UTF-8
        return files.inputs.paths[row].encode("utf-8", "backslashreplace").decode()

    for batch in loader:
        cells = answers(batch.images.to(device, non_blocking=True))
        rows = [[name(row), *own] for row, own in zip(batch.rows.tolist(), cells, strict=True)]
        yield rows, [(name(row), reason) for row, reason in batch.bad.items()]
