"""Hard parameter sharing with batch normalisation of each task's own."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mola_lightning.architectures.base import Architecture, BackboneLike, Features, build_backbone
from mola_lightning.core import ConfigError, Task, TaskRows


class HPSDomainNorm(Architecture):
    """One backbone for all tasks, with statistics and affine of batch norms per task (Chang et al., CVPR 2019).

    Each norm is copied for each task, so pretrained ones stay. A row is normalised with its task's statistics, in
    training those of the task's rows in the batch; a row with several targets runs once for each.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features``, or a factory, with batch norms.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.

    Raises:
        ConfigError: for a backbone without batch norms.
    """

    method = "hps_dsbn"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.groups = RowGroups()
        self.backbone = build_backbone(backbone, image_shape)
        self.num_features = self.backbone.num_features
        found = [path for path, module in self.backbone.named_modules() if path and isinstance(module, _BatchNorm)]
        if not found:
            raise ConfigError(
                f"batch norms of each task's own need a backbone with batch norms, and this "
                f"{type(self.backbone).__name__} has none; choose another (backbone=resnet18, small_resnet, "
                "efficientnet_lite0), or architecture=hps"
            )
        for path in found:
            parent, _, leaf = path.rpartition(".")
            norm = self.backbone.get_submodule(path)
            setattr(self.backbone.get_submodule(parent), leaf, TaskNorm(norm, len(self.tasks), self.groups))

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """One pass over all (row, task) pairs, grouped by task."""
        index, _ = rows.queries
        if not len(index):
            return Features(self.complete({}, rows, images))
        sizes = list(rows.counts.values())
        with self.groups.bind(sizes):
            features = self.backbone(images[index]).split(sizes)
        return Features(dict(zip(rows, features, strict=True)))

    def shared_parameters(self) -> list[nn.Parameter]:
        """All but the norms."""
        private = {p for module in self.modules() if isinstance(module, TaskNorm) for p in module.parameters()}
        return [p for p in self.parameters() if p.requires_grad and p not in private]


class RowGroups:
    """How many rows of each task, in task order, run through a network: bound while it runs, shared by its norms."""

    def __init__(self) -> None:
        self._sizes: list[int] | None = None

    @contextmanager
    def bind(self, sizes: list[int]) -> Iterator[None]:
        """Say it for a forward pass."""
        self._sizes = sizes
        try:
            yield
        finally:
            self._sizes = None

    def current(self) -> list[int]:
        """Rows of each task.

        Raises:
            RuntimeError: outside a forward pass of the architecture.
        """
        if self._sizes is None:
            raise RuntimeError("a norm per task does not know its rows: call the architecture, not its backbone")
        return self._sizes


class TaskNorm(nn.Module):
    """A norm for each task.

    Args:
        norm: copied for each task.
        num_tasks: T.
        groups: tells whose rows come.
    """

    def __init__(self, norm: nn.Module, num_tasks: int, groups: RowGroups) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(num_tasks))
        self.groups = groups

    def forward(self, inputs: Tensor) -> Tensor:
        """Each task's rows by its own norm; the norm of an absent task does not run."""
        parts = zip(self.norms, inputs.split(self.groups.current()), strict=True)
        return torch.cat([_run(norm, part) for norm, part in parts if len(part)])


def _run(norm: nn.Module, part: Tensor) -> Tensor:
    if norm.training and part.numel() == part.shape[1]:
        # A single row of one pixel has no statistics; the running ones stand in, and stay as they are.
        norm.eval()
        outputs = norm(part)
        norm.train()
        return outputs
    return norm(part)
