"""Conflict between the task gradients of a trained model, over batches and by part of the network."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from mola_lightning.analysis.collect import task_loss
from mola_lightning.analysis.conflict import cosine_matrix, magnitude_similarity, task_gradients
from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.analysis.stages import parameter_groups
from mola_lightning.analysis.subject import Subject

SPREADS = {  # column of a summary -> of its standard deviation
    "mean_cosine": "std_cosine",
    "share_negative": "std_negative",
    "mean_magnitude_similarity": "std_magnitude_similarity",
}


def conflict_table(subject: Subject) -> pd.DataFrame:
    """Cosine and magnitude similarity of the gradients of each pair of tasks, batch by batch and group by group.

    The k-th batch of each task is compared with the k-th of the others. The model is in evaluation mode: norms use the
    statistics of training, so a batch of one task is no other than in a mixed one.

    Returns:
        Columns ``group`` (of shared parameters, see :func:`parameter_groups`), ``batch``, ``task_a``, ``task_b``,
        ``cosine``, ``magnitude_similarity``; empty when no parameter is shared.
    """
    groups = parameter_groups(subject.module.architecture)
    shared = subject.module.architecture.shared_parameters()
    rows = []
    for k, gradients in enumerate(_gradients(subject) if shared else ()):
        for group, pieces in groups.items():
            part = torch.cat([gradients[:, start:end] for start, end in pieces], dim=1)
            cosines, lengths = cosine_matrix(part).tolist(), magnitude_similarity(part).tolist()
            for a, first in enumerate(subject.names):
                rows += [
                    (group, k, first, second, cosines[a][b], lengths[a][b])
                    for b, second in enumerate(subject.names)
                    if b > a
                ]
    return pd.DataFrame(rows, columns=["group", "batch", "task_a", "task_b", "cosine", "magnitude_similarity"])


def _gradients(subject: Subject) -> Iterator[Tensor]:
    """(T, P) for each batch; zeros for a task that has no rows left."""
    tasks, shared = subject.module.tasks, subject.module.architecture.shared_parameters()
    num_rows = subject.num_batches * subject.batch_size
    streams = [task_batches(subject.dataset, t, subject.batch_size, num_rows, subject.seed) for t in tasks]
    while True:
        batches = [next(stream, None) for stream in streams]
        if sum(batch is not None for batch in batches) < 2:
            return
        rows = []
        for task, batch in zip(tasks, batches, strict=True):
            if batch is None:
                rows.append(torch.zeros(sum(p.numel() for p in shared)))
                continue
            here = move(batch, subject.module)
            loss, units = task_loss(subject.module, task, here.images, here.targets[task.name])
            mean = {task.name: loss / units.clamp(min=1)}
            rows.append(task_gradients(mean, shared)[0].float().cpu())  # one graph at a time
        yield torch.stack(rows)


def conflict_summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each group: means over batches and pairs, and the spread of the cosine.

    Returns:
        Columns ``mean_cosine``, ``std_cosine``, ``share_negative``, ``mean_magnitude_similarity``, ``pairs``.
    """
    known = table.dropna(subset="cosine")
    groups = known.groupby("group", sort=False)
    return pd.DataFrame(
        {
            "mean_cosine": groups["cosine"].mean(),
            "std_cosine": groups["cosine"].std(),
            "share_negative": groups["cosine"].apply(lambda cosine: (cosine < 0).mean()),
            "mean_magnitude_similarity": groups["magnitude_similarity"].mean(),
            "pairs": groups.size(),
        }
    )


def conflict_over_seeds(summaries: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several runs of a method: the mean of each column, and the spread of the runs' means.

    Args:
        summaries: of each run, see :func:`conflict_summary`.

    Returns:
        The same columns, ``pairs`` summed; ``std_cosine``, ``std_negative`` and ``std_magnitude_similarity`` are
        standard deviations over runs, NaN of a single run.
    """
    groups = pd.concat(summaries).groupby(level=0, sort=False)
    table = groups.mean()
    table["pairs"] = groups["pairs"].sum()
    for column, spread in SPREADS.items():
        table[spread] = groups[column].std()
    return table
