"""Single-task learning: one backbone per task, nothing shared; what sharing is measured against."""

from collections.abc import Sequence

from torch import Tensor, nn

from mola_lightning.architectures.base import Architecture, BackboneLike, Features, build_backbone
from mola_lightning.core import Task, TaskRows


class SingleTask(Architecture):
    """T backbones trained side by side, each on its own task's rows: T separate trainings in one run.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    method = "single_task"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.backbones = nn.ModuleDict({task.name: build_backbone(backbone, image_shape) for task in self.tasks})
        self.num_features = self.backbones[self.tasks[0].name].num_features

    def network_of(self, task: str) -> nn.Module:
        """The task's own backbone."""
        return self.backbones[task]

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Each task's rows through its own backbone. The backbone of an absent task does not run: its norm statistics
        stand.
        """
        found = {name: self.backbones[name](images[rows[name]]) for name in rows.present}
        return Features(self.complete(found, rows, images))

    def shared_parameters(self) -> list[nn.Parameter]:
        """None: no parameter serves two tasks."""
        return []
