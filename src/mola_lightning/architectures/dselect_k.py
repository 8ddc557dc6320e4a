"""DSelect-k: a sparse, differentiable choice of k experts."""

from collections.abc import Sequence
from math import ceil, isfinite, log2

import torch
from torch import Tensor, nn

from mola_lightning.architectures.base import BackboneLike, Features
from mola_lightning.architectures.staged import GatedExperts, averaged, mix
from mola_lightning.core import Task, TaskRows
from mola_lightning.core.errors import positive_int, require

SMALL = 1e-6


class DSelectK(GatedExperts):
    """MMoE whose gates choose at most k experts per image (Hazimeh et al., NeurIPS 2021).

    A gate has k selectors. Each encodes the number of one expert in ceil(log2 E) bits; a bit is the smooth step of a
    linear function of the image, which reaches 0 and 1 exactly. An entropy penalty pulls the selectors there; where E
    is no power of two, a second one keeps them off codes that are no expert's.

    The penalty is a term of the training loss for every task that is present; the released code runs its backward pass
    inside forward, and for the last task only.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        num_experts: E; the number of tasks when None.
        num_selected: k, selectors of each gate.
        gamma: width of the smooth step: 0 below -gamma/2, 1 above gamma/2.
        entropy_weight: factor of the penalty in the loss.
        share_until: index of the first stage of which each expert has its own; 0: each is a whole backbone.
        gate_input: side in pixels that images are averaged to for the gates.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    method = "dselect_k"
    penalty_names = ("entropy",)

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        num_experts: int | None = None,
        num_selected: int = 2,
        gamma: float = 1.0,
        entropy_weight: float = 1e-6,
        share_until: int = 0,
        gate_input: int = 8,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks, backbone, num_experts, share_until, gate_input, image_shape)
        count = len(self.experts)
        positive_int("num_selected", num_selected)
        require(num_selected <= count, f"num_selected must be at most num_experts={count}, got {num_selected}")
        require(gamma > 0 and isfinite(gamma), f"gamma must be > 0 and finite, got {gamma!r}")
        usable = entropy_weight >= 0 and isfinite(entropy_weight)
        require(usable, f"entropy_weight must be >= 0 and finite, got {entropy_weight!r}")
        self.entropy_weight = float(entropy_weight)
        inputs = self.in_channels * gate_input**2
        self.gates = nn.ModuleList(SelectorGate(inputs, count, num_selected, gamma) for _ in self.tasks)

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Every expert on every row once, then each task's own selection for its rows."""
        hidden = self.trunk(images)
        outputs = [expert(hidden) for expert in self.experts]
        found, penalty = {}, images.new_zeros(())
        for name, gate in zip(rows, self.gates, strict=True):
            if rows.counts[name]:
                index = rows[name]
                weights, selections = gate(averaged(images[index], self.gate_input))
                found[name] = mix(weights, [output[index] for output in outputs])
                penalty = penalty + selection_penalty(selections, complete=gate.complete)
        return Features(self.complete(found, rows, images), penalties={"entropy": self.entropy_weight * penalty})


class SelectorGate(nn.Module):
    """k selectors with binary codes, and the weights that mix them.

    Args:
        inputs: width of what it reads.
        num_experts: E.
        num_selected: k.
        gamma: width of the smooth step.

    Attributes:
        complete: whether every code is an expert's.
    """

    codes: Tensor

    def __init__(self, inputs: int, num_experts: int, num_selected: int, gamma: float) -> None:
        super().__init__()
        self.num_selected, self.gamma = num_selected, gamma
        self.num_bits = ceil(log2(num_experts))
        self.complete = 2**self.num_bits == num_experts
        self.selectors = nn.Linear(inputs, num_selected * self.num_bits) if self.num_bits else None
        self.weights = nn.Linear(inputs, num_selected)
        # small, as the paper's code has it: bits start where the smooth step is steep
        for p in () if self.selectors is None else self.selectors.parameters():
            nn.init.uniform_(p, -gamma / 100, gamma / 100)
        numbers = torch.arange(num_experts).unsqueeze(1)
        self.register_buffer("codes", (numbers >> torch.arange(self.num_bits)) % 2 == 1, persistent=False)  # (E, bits)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mixing weights (n, E) and selections (n, k, E): how far each selector chose each expert."""
        mixing = self.weights(inputs).softmax(1)  # (n, k)
        if self.selectors is None:
            return mixing.sum(1, keepdim=True), mixing.new_ones(*mixing.shape, 1)
        bits = smooth_step(self.selectors(inputs), self.gamma).unflatten(1, (self.num_selected, 1, self.num_bits))
        selections = torch.where(self.codes, bits, 1 - bits).prod(-1)  # (n, k, E)
        return (mixing.unsqueeze(2) * selections).sum(1), selections


def smooth_step(t: Tensor, gamma: float) -> Tensor:
    """0 up to -gamma/2, 1 from gamma/2 on, between them the cubic that joins both smoothly."""
    u = (t / gamma).clamp(-0.5, 0.5)
    return (-2 * u * u + 1.5) * u + 0.5


def selection_penalty(selections: Tensor, complete: bool) -> Tensor:
    """Mean over rows of the sum over selectors of the entropy; plus 1 / mass on experts, where codes are incomplete.

    Args:
        selections: (n, k, E), n >= 1.
        complete: whether every code is an expert's.
    """
    # the derivative of x log x is infinite at 0, which selections reach
    entropy = -(selections * (selections + SMALL).log()).sum((1, 2))
    if complete:
        return entropy.mean()
    return (entropy + selections.sum(2).clamp(min=SMALL).reciprocal().sum(1)).mean()
