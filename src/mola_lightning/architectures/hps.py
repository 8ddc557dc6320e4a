"""Hard parameter sharing: one backbone for all tasks (Caruana, Machine Learning 28, 1997)."""

from collections.abc import Sequence

from torch import Tensor, nn

from mola_lightning.architectures.base import Architecture, BackboneLike, Features, build_backbone
from mola_lightning.core import Regime, Task, TaskRows


class HPS(Architecture):
    """Every task reads the same features of the same backbone.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features``, or a factory.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    method = "hps"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.backbone = build_backbone(backbone, image_shape)
        self.num_features = self.backbone.num_features

    def runs_whole(self, regime: Regime | None) -> bool:
        """Always."""
        return True

    def network_of(self, task: str) -> nn.Module:
        """The backbone, whichever the task."""
        return self.backbone

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """One pass over the batch, then each task's rows."""
        features = self.backbone(images)
        return Features({name: features[rows[name]] for name in rows})
