"""Parts of the schemes that copy or mix a backbone stage by stage."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mola_lightning.architectures.base import Architecture, BackboneLike, build_backbone
from mola_lightning.backbones import Stages, split
from mola_lightning.core import ConfigError, Task
from mola_lightning.core.errors import positive_int


def build_stages(backbone: BackboneLike, image_shape: Sequence[int] | None) -> Stages:
    """A backbone, built and cut into stages."""
    return split(build_backbone(backbone, image_shape), image_shape)


def check_index(name: str, value: object, size: int) -> None:
    """Raise :class:`ConfigError` unless ``value`` is the index of one of ``size`` stages."""
    if not (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size):
        raise ConfigError(f"{name} must be the index of a stage, 0 (the stem) to {size - 1} (the head), got {value!r}")


class GatedExperts(Architecture):
    """Base of the MMoE family: a shared trunk of the first stages, experts of the others, gates that read the image.

    The definitions gate the raw input by a linear layer. Here the image is averaged to ``gate_input`` x ``gate_input``
    pixels before, so that images of any size pass (the released code binds its gates to 224 x 224 pixels).

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        num_experts: how many experts there are in all, in ``experts``; the number of tasks when None.
        share_until: index of the first stage of which each expert has its own; the stages before are one shared trunk.
            0: each expert is a whole backbone.
        gate_input: side in pixels of what the gates read.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.

    Raises:
        ConfigError: for a value that cannot work, or experts that would have no parameters.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        num_experts: int | None,
        share_until: int,
        gate_input: int,
        image_shape: Sequence[int] | None,
    ) -> None:
        super().__init__(tasks)
        count = len(self.tasks) if num_experts is None else num_experts
        positive_int("num_experts", count)
        positive_int("gate_input", gate_input)
        copies = [build_stages(backbone, image_shape) for _ in range(count)]
        check_index("share_until", share_until, len(copies[0]))
        self.num_features, self.channels = copies[0].num_features, copies[0].channels
        self.in_channels = 3 if image_shape is None else image_shape[0]
        self.gate_input, self.share_until = gate_input, share_until
        self.trunk = nn.Sequential(*copies[0].stages[:share_until])
        self.experts = nn.ModuleList(nn.Sequential(*each.stages[share_until:]) for each in copies)
        if not any(True for _ in self.experts[0].parameters()):
            raise ConfigError(
                f"share_until={share_until} shares every stage that has parameters, so that experts would be equal; "
                f"lower it (there are {len(copies[0])} stages)"
            )

    def image_gate(self, outputs: int) -> "Gate":
        """A gate on the image, with ``outputs`` weights."""
        return Gate(self.in_channels, outputs, self.gate_input)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trunk and experts; a gate is its task's own."""
        return [p for p in (*self.trunk.parameters(), *self.experts.parameters()) if p.requires_grad]

    def component_of(self, parameter_name: str) -> str:
        """``other`` for gates, else backbone."""
        return "other" if "gates." in parameter_name else "backbone"


class OwnExperts(GatedExperts):
    """Base of CGC and PLE: of the experts some are shared by all tasks, the others are one task's own.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        num_shared: shared experts; of PLE in each level.
        num_specific: own experts of each task; of PLE in each level.
        share_until: index of the first stage of which each expert has its own, and PLE's first level; the stages before
            are one shared trunk. 0: each expert is a whole backbone.
        gate_input: side in pixels that images are averaged to for the gates.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
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
        self.build_gates()

    @abstractmethod
    def build_gates(self) -> None:
        """Set ``gates``; the last act of the constructor."""

    def shared_experts(self) -> nn.ModuleList:
        """The shared ones of ``experts``."""
        return self.experts[: self.num_shared]

    def own_experts(self, task: int) -> nn.ModuleList:
        """Those of ``experts`` that are the task's own."""
        first = self.num_shared + task * self.num_specific
        return self.experts[first : first + self.num_specific]


class Gate(nn.Module):
    """Softmax of a linear layer over an averaged input.

    Args:
        channels: C of the input.
        outputs: how many weights.
        size: side of what maps (n, C, h, w) are averaged to; vectors and tokens are averaged to one vector.
    """

    def __init__(self, channels: int, outputs: int, size: int = 1) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(channels * size * size, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Weights (n, outputs) that sum to 1 in each row."""
        return self.linear(averaged(inputs, self.size)).softmax(1)

    def mix(self, inputs: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The mixture of ``outputs`` under the gate's weights for ``inputs``."""
        return mix(self(inputs), outputs)


def averaged(inputs: Tensor, size: int) -> Tensor:
    """Maps (n, C, h, w) averaged to (n, C * size * size); tokens (n, N, D) to (n, D); vectors as they are."""
    if inputs.ndim == 4:
        return nn.functional.adaptive_avg_pool2d(inputs, size).flatten(1)
    return inputs.mean(1) if inputs.ndim == 3 else inputs


def mix(weights: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """sum_e weights[:, e] * outputs[e], row by row.

    Args:
        weights: (n, E).
        outputs: E tensors (n, ...).
    """
    stacked = torch.stack(list(outputs), 1)
    return (weights.reshape(*weights.shape, *[1] * (stacked.ndim - 2)) * stacked).sum(1)
