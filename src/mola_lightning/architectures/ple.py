"""Progressive layered extraction: customized gate control at several levels."""

import itertools

from torch import Tensor, nn

from mola_lightning.architectures.base import Features
from mola_lightning.architectures.staged import Gate, OwnExperts
from mola_lightning.core import TaskRows


class PLE(OwnExperts):
    """CGC stage by stage (Tang et al., RecSys 2020).

    From the stage ``share_until`` on, every stage is a level (the head belongs to the last). A task's representation
    enters its own experts of the level, the shared representation enters the shared ones. The task's gate mixes its
    own and the shared experts' outputs into its next representation; below the last level another gate mixes the
    outputs of all experts of all tasks into the next shared one. Gates read their own representation: the image,
    averaged to ``gate_input`` pixels, at a first level without a trunk, else the representation averaged to one pixel.

    Own experts below the last level feed the shared representation of every row, so they run on every row, and several
    tasks' losses reach them.

    Args: those of :class:`OwnExperts`.
    """

    method = "ple"

    def build_gates(self) -> None:
        """For each level, of which every expert is cut into its parts: one for each task, and the shared one."""
        stages = len(self.experts[0])
        bounds = [*range(max(stages - 1, 1)), stages]  # the head joins the last stage
        self.num_levels = len(bounds) - 1
        self.experts = nn.ModuleList(
            nn.ModuleList(each[start:stop] for start, stop in itertools.pairwise(bounds)) for each in self.experts
        )
        own = self.num_specific + self.num_shared
        self.gates = nn.ModuleList(
            nn.ModuleList(self._gate(level, own) for _ in self.tasks) for level in range(self.num_levels)
        )
        self.shared_gates = nn.ModuleList(self._gate(level, len(self.experts)) for level in range(self.num_levels - 1))

    def _gate(self, level: int, outputs: int) -> Gate:
        stage = self.share_until + level
        return self.image_gate(outputs) if stage == 0 else Gate(self.channels[stage - 1], outputs)

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Level by level on every row; at the last, each task on its own."""
        shared = self.trunk(images)
        own = [shared] * len(rows)
        for level in range(self.num_levels - 1):
            outputs = self._shared_outputs(level, shared)
            specific = [self._specific_outputs(level, t, own[t]) for t in range(len(own))]
            own = [self.gates[level][t].mix(own[t], [*specific[t], *outputs]) for t in range(len(own))]
            shared = self.shared_gates[level].mix(shared, [*itertools.chain(*specific), *outputs])
        last, found = self.num_levels - 1, {}
        outputs = self._shared_outputs(last, shared)
        for t, name in enumerate(rows):
            if rows.counts[name]:
                mine = own[t][rows[name]]
                everything = [*self._specific_outputs(last, t, mine), *(output[rows[name]] for output in outputs)]
                found[name] = self.gates[last][t].mix(mine, everything)
        return Features(self.complete(found, rows, images))

    def _shared_outputs(self, level: int, shared: Tensor) -> list[Tensor]:
        return [expert[level](shared) for expert in self.shared_experts()]

    def _specific_outputs(self, level: int, task: int, own: Tensor) -> list[Tensor]:
        return [expert[level](own) for expert in self.own_experts(task)]

    def shared_parameters(self) -> list[nn.Parameter]:
        """What more than one task's loss reaches.

        Private are the last level's own experts and gates, and the task gates of the level before, whose mixture enters
        nothing but these.
        """
        private = {p for gates in self.gates[-2:] for p in gates.parameters()}
        private |= {p for expert in self.experts[self.num_shared :] for p in expert[-1].parameters()}
        return [p for p in self.parameters() if p.requires_grad and p not in private]
