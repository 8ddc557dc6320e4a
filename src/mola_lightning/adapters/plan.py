"""What a plan is: one exact way to run an adapted layer, and what it costs."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mola_lightning.adapters.costs import PlanCost
from mola_lightning.adapters.scope import Mixing

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer


AUTO = "auto"


class Plan(ABC):
    """A way to run a layer. ``family`` is its name in configs; several plans of one family differ in detail.

    Those of ``auto`` run where they are the cheapest and are asked for by no name: their base layer is a part of
    another product, where in the family of two factors it runs as it would without experts, bit for bit.

    What is called and what it costs may depend on experts that have rows, and not on others where rows are in groups:
    so that outputs stay the same, bit for bit, when an expert is added.
    """

    family: str

    @abstractmethod
    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        """Whether the plan can run this layer under this mixing."""

    @abstractmethod
    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        """What it costs beyond the base layer."""

    @abstractmethod
    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        """The layer's output."""


def transformed() -> bool:
    """Whether ``torch.func`` differentiates or batches what runs, for which custom operations have no rules."""
    return torch._C._are_functorch_transforms_active()


def weight_sizes(layer: "AdaptedLayer") -> tuple[int, int, int]:
    """(O, I*K, M); M is 0 without low-rank factors."""
    return layer.weight.shape[0], layer.weight[0].numel(), layer.kind.width(layer) if layer.kind.low_rank else 0


def factors_apply(layer: "AdaptedLayer") -> bool:
    """Whether the experts have two factors that run as layers of their own."""
    return layer.kind.low_rank and layer.groups == 1
