"""How alike two representations of the same images are: linear CKA, between task models and between runs."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from mola_lightning.analysis.collect import rows_of
from mola_lightning.analysis.forced import fixed_mixing, routes
from mola_lightning.analysis.routing import FloatArray
from mola_lightning.analysis.sampling import move, task_batches
from mola_lightning.analysis.stages import pooled, recorded_stages
from mola_lightning.analysis.subject import Subject, look
from mola_lightning.core import DataError


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of two representations of the same images (Kornblith et al., ICML 2019).

    1 for representations that are equal up to a rotation, a uniform scale and a shift; 0 for independent ones. HSIC is
    estimated without bias (Song et al., JMLR 2012, as Nguyen et al., ICLR 2021, use it), so that the value does not
    depend on the number of images: the biased form of the first paper goes to 1 for any two representations that are
    wider than there are images. By chance it can be a little below 0.

    Args:
        first: (n, D) features.
        second: (n, D') features of the same n images.

    Returns:
        NaN when a representation is the same for all images.

    Raises:
        DataError: for unequal numbers of images, or fewer than four.
    """
    return cka_of(gram(first), gram(second))


def gram(features: Tensor) -> Tensor:
    """(n, n) inner products of the centred features (n, D), without its diagonal: what :func:`cka_of` takes."""
    centred = features.detach().double().cpu()
    centred = centred - centred.mean(dim=0)
    # relative to their own size, so that rounding of constant features is seen to be nothing
    if float(centred.norm()) <= 1e-6 * float(features.double().norm()):
        centred = torch.zeros_like(centred)
    products = centred @ centred.T
    return products.fill_diagonal_(0.0)


def cka_of(first: Tensor, second: Tensor) -> float:
    """:func:`linear_cka` from two results of :func:`gram`."""
    if first.shape != second.shape or len(first) < 4:
        raise DataError(
            f"CKA compares representations of the same images, four at least; got {len(first)} and {len(second)} images"
        )
    own, other = _hsic(first, first), _hsic(second, second)
    return _hsic(first, second) / (own * other) ** 0.5 if own > 0 and other > 0 else float("nan")


def cka_matrix(first: Sequence[Tensor], second: Sequence[Tensor]) -> FloatArray:
    """(len(first), len(second)) CKA of each pair of features (n, D)."""
    right = [gram(features) for features in second]
    return np.array([[cka_of(left, other) for other in right] for left in map(gram, first)])


def cka_between_tasks(features: Mapping[str, Sequence[Tensor]]) -> dict[str, FloatArray]:
    """Stage -> (T, T) CKA between the task models.

    Args:
        features: stage -> T features (n, D) of the same images, one as each task.
    """
    return {stage: cka_matrix(models, models) for stage, models in features.items()}


def _hsic(first: Tensor, second: Tensor) -> float:
    """The unbiased estimator of HSIC from two Gram matrices with zero diagonals (Song et al., 2012, theorem 5)."""
    n = len(first)
    trace = (first * second).sum()
    means = first.sum() * second.sum() / ((n - 1) * (n - 2))
    cross = 2.0 / (n - 2) * (first.sum(0) * second.sum(0)).sum()
    return float((trace + means - cross) / (n * (n - 3)))


@torch.no_grad()
def features_as_each_task(subject: Subject) -> dict[str, list[Tensor]]:
    """Stage -> T features (n, D) of the same images, a share of every task's, run as if all were of task t.

    Under routing by task id that is expert t on all images; under any other routing the experts mixed as they are on
    average over the images of task t. Empty when all tasks share all features.
    """
    architecture, tasks = subject.module.architecture, subject.module.tasks
    images = _some_of_each(subject)
    found: dict[str, list[Tensor]] = {}
    weights: FloatArray | None = None
    if routes(architecture) and not architecture.router.needs_task_ids:
        weights = look(subject).task_mixing(len(subject.names))
    for t, task in enumerate(tasks):
        parts: list[Tensor] = []
        fixed = nullcontext() if weights is None else fixed_mixing(architecture, torch.from_numpy(weights[t]).float())
        with fixed, recorded_stages(architecture) as stages:
            for chunk in images.split(subject.batch_size):
                here = chunk.to(next(subject.module.parameters()).device)
                features = architecture(here, rows_of(tasks, task, here))
                parts.append(pooled(features.per_task[task.name]))
        for stage, values in (stages | {"output": parts}).items():
            found.setdefault(stage, []).append(torch.cat(values))
    same = all(torch.equal(models[0], other) for models in found.values() for other in models[1:])
    return {} if same else found


@torch.no_grad()
def features_as_themselves(subject: Subject) -> dict[str, Tensor]:
    """Stage -> features (n, D) of a share of every task's images, each run as its own task; grouped by task."""
    architecture, tasks = subject.module.architecture, subject.module.tasks
    parts: list[Tensor] = []
    with recorded_stages(architecture) as stages:
        for task in tasks:
            for batch in task_batches(subject.dataset, task, subject.batch_size, _share(subject), subject.seed):
                here = move(batch, subject.module)
                parts.append(pooled(architecture(here.images, rows_of(tasks, task, here.images)).per_task[task.name]))
    return {stage: torch.cat(values) for stage, values in (stages | {"output": parts}).items()}


def _some_of_each(subject: Subject) -> Tensor:
    batches = [
        batch.images
        for task in subject.module.tasks
        for batch in task_batches(subject.dataset, task, subject.batch_size, _share(subject), subject.seed)
    ]
    return torch.cat(batches)


def _share(subject: Subject) -> int:
    """Images of a task, where ``num_images`` are wanted of all together."""
    return max(1, subject.num_images // len(subject.module.tasks))
