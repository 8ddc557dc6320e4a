"""Customized gate control: shared experts and experts of each task's own."""

from torch import Tensor, nn

from mola_lightning.architectures.base import Features
from mola_lightning.architectures.staged import OwnExperts
from mola_lightning.core import TaskRows


class CGC(OwnExperts):
    """Each task's gate mixes the shared experts and the task's own (Tang et al., RecSys 2020).

    An own expert runs on its task's rows only, and not at all where the task is absent: its norm statistics stand.

    Args: those of :class:`OwnExperts`.
    """

    method = "cgc"

    def build_gates(self) -> None:
        """One for each task."""
        self.gates = nn.ModuleList(self.image_gate(self.num_specific + self.num_shared) for _ in self.tasks)

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Shared experts on every row, own experts on their task's."""
        hidden = self.trunk(images)
        shared = [expert(hidden) for expert in self.shared_experts()]
        found = {}
        for t, name in enumerate(rows):
            if rows.counts[name]:
                index = rows[name]
                own = [expert(hidden[index]) for expert in self.own_experts(t)]
                found[name] = self.gates[t].mix(images[index], [*own, *(output[index] for output in shared)])
        return Features(self.complete(found, rows, images))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trunk and shared experts; own experts and gates are their task's."""
        return [p for p in (*self.trunk.parameters(), *self.shared_experts().parameters()) if p.requires_grad]
