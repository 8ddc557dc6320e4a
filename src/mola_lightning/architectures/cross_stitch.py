"""Cross-stitch networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mola_lightning.architectures.base import BackboneLike
from mola_lightning.architectures.branches import MixedBranches
from mola_lightning.core import Task
from mola_lightning.core.errors import require


class CrossStitch(MixedBranches):
    """One backbone per task, joined by learned linear combinations between stages (Misra et al., CVPR 2016).

    A unit (T, T) stands before every stage but the first. It starts dominated by the branch's own activations, as in
    the paper: ``alpha_same`` on the diagonal, and the rest such that rows sum to 1. (The released code starts with all
    ones, which multiplies activations by the number of tasks at each stage, and has no unit before the head.) The paper
    trains units at a larger rate than weights: ``parameter_groups={'units': {'lr': ...}}``.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        alpha_same: initial weight of a branch's own activations, in 0..1.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    method = "cross_stitch"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        alpha_same: float = 0.9,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks, backbone, image_shape)
        require(0 <= alpha_same <= 1, f"alpha_same must lie in 0..1, got {alpha_same!r}")
        start = unit(len(self.tasks), alpha_same)
        self.units = nn.ParameterList(nn.Parameter(start.clone()) for _ in range(self.num_places - 1))
        # one row for each task: the last mixture enters the task's own stage, so its weights are the task's alone
        self.last_units = nn.ParameterList(nn.Parameter(row.clone()) for row in start)

    def weights(self) -> list[Tensor]:
        """The units."""
        return [*self.units, torch.stack(list(self.last_units))]

    def last_weights(self) -> list[nn.Parameter]:
        """Rows of the last unit."""
        return list(self.last_units)


def unit(num_tasks: int, same: float) -> Tensor:
    """(T, T) with ``same`` on the diagonal and rows that sum to 1."""
    if num_tasks == 1:
        return torch.ones(1, 1)
    other = (1 - same) / (num_tasks - 1)
    return torch.full((num_tasks, num_tasks), other).fill_diagonal_(same)
