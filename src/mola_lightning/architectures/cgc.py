"""Customized gate control: shared experts and experts of each task's own."""

from collections.abc import Sequence

from torch import Tensor, nn

from mola_lightning.architectures.base import BackboneFactory, Features
from mola_lightning.architectures.staged import GatedExperts
from mola_lightning.core import Regime, Task, TaskRows
from mola_lightning.core.errors import positive_int


class CGC(GatedExperts):
    """Each task's gate mixes the shared experts and the task's own (Tang et al., RecSys 2020).

    An own expert runs on its task's rows only, and not at all where the task is absent: its norm statistics stand.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        num_shared: shared experts.
        num_specific: own experts of each task.
        share_until: index of the first stage of which each expert has its own; 0: each is a whole backbone.
        gate_input: side in pixels that images are averaged to for the gates.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    regimes = frozenset(Regime)
    method = "cgc"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: str | nn.Module | BackboneFactory,
        num_shared: int = 1,
        num_specific: int = 1,
        share_until: int = 0,
        gate_input: int = 8,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        positive_int("num_shared", num_shared)
        positive_int("num_specific", num_specific)
        count = num_shared + num_specific * len(tasks)
        super().__init__(tasks, backbone, count, share_until, gate_input, image_shape)
        self.num_shared, self.num_specific = num_shared, num_specific
        self.gates = nn.ModuleList(self.image_gate(num_specific + num_shared) for _ in self.tasks)

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Shared experts on every row, own experts on their task's."""
        hidden = self.trunk(images)
        shared = [expert(hidden) for expert in self.experts[: self.num_shared]]
        found = {}
        for t, name in enumerate(rows):
            if rows.counts[name]:
                index = rows[name]
                first = self.num_shared + t * self.num_specific
                own = [expert(hidden[index]) for expert in self.experts[first : first + self.num_specific]]
                found[name] = self.gates[t].mix(images[index], [*own, *(output[index] for output in shared)])
        return Features(self.complete(found, rows, images))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trunk and shared experts; own experts and gates are their task's."""
        shared = self.experts[: self.num_shared]
        return [p for p in (*self.trunk.parameters(), *shared.parameters()) if p.requires_grad]
