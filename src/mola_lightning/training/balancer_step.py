"""What the balancer may know of a training step besides its losses."""

from collections.abc import Sequence
from functools import partial

import lightning.pytorch as pl
from torch import Tensor, nn

from mola_lightning.architectures import Architecture, Features
from mola_lightning.balancers import Step
from mola_lightning.core import TaskRows


def balancer_step(
    terms: Sequence[Tensor],
    own: Sequence[nn.Parameter],
    features: Features,
    rows: TaskRows,
    architecture: Architecture,
    trainer: pl.Trainer | None,
) -> Step:
    """A :class:`Step` from what the module has.

    Args:
        terms: the T losses.
        own: trainable parameters that are neither shared nor the balancer's.
        features: what the architecture gave.
        rows: of the batch.
        architecture: which gave it.
        trainer: knows of precision and processes; None outside a training.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None) if trainer is not None else None
    here = tuple(count > 0 for count in rows.counts.values())
    if any(isinstance(module, nn.SyncBatchNorm) for module in architecture.modules()):
        here = ()  # its backward waits for all processes: none may leave a task out
    strategy = trainer.strategy if trainer is not None and trainer.world_size > 1 else None
    return Step(
        terms,
        own=own,
        here=here,
        scale=float(scaler.get_scale()) if scaler is not None else 1.0,
        mean=partial(strategy.reduce, reduce_op="mean") if strategy is not None else None,
        features=None if features.routed is not None else list(features.per_task.values()),
        rows=rows,
    )
