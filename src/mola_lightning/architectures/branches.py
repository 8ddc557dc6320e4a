"""One backbone per task, each stage of which reads a mixture of what all the backbones' stages before it gave."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mola_lightning.architectures.base import Architecture, BackboneLike, Features
from mola_lightning.architectures.staged import build_stages
from mola_lightning.core import ConfigError, Task, TaskRows


class MixedBranches(Architecture):
    """Base of cross-stitch networks and of learning to branch.

    Branch t's input to stage i >= 1 is sum_j weights[i-1][t, j] * (output of branch j's stage i-1). Every branch needs
    every row up to the last stage, which runs on its own task's rows.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.

    Raises:
        ConfigError: for a backbone of a single stage.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        branches = [build_stages(backbone, image_shape) for _ in self.tasks]
        self.num_features = branches[0].num_features
        if len(branches[0]) < 2:
            raise ConfigError("branches are mixed between stages, and this backbone has one only; choose another")
        self.branches = nn.ModuleList(branch.stages for branch in branches)

    @property
    def num_places(self) -> int:
        """How many times branches are mixed: before each stage but the first."""
        return len(self.branches[0]) - 1

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """The mixing weights of each place, (T, T): row t mixes the outputs of all branches into branch t's input."""

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """All branches side by side on every row; the last stage on each task's rows."""
        weights = self.weights()
        outputs = torch.stack([stages[0](images) for stages in self.branches])  # (T, B, ...)
        for i, place in enumerate(weights[:-1], start=1):
            inputs = torch.tensordot(place, outputs, dims=1)
            outputs = torch.stack([stages[i](each) for stages, each in zip(self.branches, inputs, strict=True)])
        found = {}
        for t, (name, stages) in enumerate(zip(rows, self.branches, strict=True)):
            if rows.counts[name]:
                found[name] = stages[-1](torch.tensordot(weights[-1][t], outputs[:, rows[name]], dims=1))
        return Features(self.complete(found, rows, images))

    def shared_parameters(self) -> list[nn.Parameter]:
        """All but the last stage of each branch and the weights of its input: mixing takes the rest to all tasks."""
        private = {p for stages in self.branches for p in stages[-1].parameters()} | set(self.last_weights())
        return [p for p in self.parameters() if p.requires_grad and p not in private]

    @abstractmethod
    def last_weights(self) -> list[nn.Parameter]:
        """The parameters of the last place's weights, one of (T,) for each task."""

    def component_of(self, parameter_name: str) -> str:
        """``other`` for mixing weights, else backbone."""
        return "backbone" if parameter_name.startswith("branches.") else "other"
