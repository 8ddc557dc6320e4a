"""Multi-gate mixture of experts."""

from collections.abc import Sequence

from torch import Tensor, nn

from mola_lightning.architectures.base import BackboneLike, Features
from mola_lightning.architectures.staged import GatedExperts
from mola_lightning.core import Task, TaskRows


class MMoE(GatedExperts):
    """All tasks share all experts; each task has a gate that mixes their features per image (Ma et al., KDD 2018).

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        num_experts: E; the number of tasks when None.
        share_until: index of the first stage of which each expert has its own; 0: each is a whole backbone.
        gate_input: side in pixels that images are averaged to for the gates.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    method = "mmoe"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        num_experts: int | None = None,
        share_until: int = 0,
        gate_input: int = 8,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks, backbone, num_experts, share_until, gate_input, image_shape)
        self.gates = nn.ModuleList(self.image_gate(len(self.experts)) for _ in self.tasks)

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Every expert on every row once, then each task's own mixture of its rows."""
        hidden = self.trunk(images)
        outputs = [expert(hidden) for expert in self.experts]
        found = {}
        for name, gate in zip(rows, self.gates, strict=True):
            if rows.counts[name]:
                index = rows[name]
                found[name] = gate.mix(images[index], [output[index] for output in outputs])
        return Features(self.complete(found, rows, images))
