"""Plans that run the experts by whole weight changes."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mola_lightning.adapters.costs import PlanCost, prices_of
from mola_lightning.adapters.plan import Plan, weight_sizes
from mola_lightning.adapters.scope import Mixing

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer


class Merged(Plan):
    """Rows sorted by expert; each group runs one product with W + Delta_e."""

    family = "merged"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.row_counts is not None

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, _ = weight_sizes(layer)
        inner = layer.rank * layer.kernel[0] if layer.kind.low_rank else 0
        prices = prices_of(layer.weight)
        begun, again = (prices.product, 0.0) if layer.grouped_products else (prices.call, prices.kernel * o * ik)
        present = len(mixing.present)
        fixed = present * (o * ik * (inner + prices.touch) + begun) + max(present - 1, 0) * again
        return PlanCost(prices.stream * layer.regrouped_per_position(), fixed)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        if not mixing.present:  # an empty batch
            return layer.run(x, layer.weight, layer.bias)
        present, counts = mixing.present, mixing.row_counts
        assert counts is not None
        all_of_them = len(present) == layer.num_experts
        merged = layer.kind.merged(layer, None if all_of_them else present)
        return layer.run_groups(x, merged, counts if all_of_them else counts[present], layer.bias)


class MergedRows(Plan):
    """Each row with its own kernel W + sum_e mixing[b, e] Delta_e, all rows in one product (a convolution with B
    groups).

    For few channels and many pixels. Not when traced: the number of groups would be a constant of the graph.
    """

    family = "merged"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return not mixing.hard and not torch.compiler.is_compiling()

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        rows = prices_of(layer.weight).touch_rows
        return PlanCost(0.0, mixing.rows * layer.weight.numel() * (layer.num_experts + rows))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        if not mixing.rows:
            return layer.run(x, layer.weight, layer.bias)
        deltas = layer.kind.delta(layer).flatten(1)
        weights = torch.addmm(layer.weight.flatten(), mixing.dense_weights(deltas), deltas)
        return layer.run_rows(x, weights.view(-1, *layer.weight.shape), layer.bias)


class Dense(Plan):
    """All experts' full products, weighted; for few channels, high ranks, full-rank experts and grouped
    convolutions.
    """

    family = "dense"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return True

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, _ = weight_sizes(layer)
        prices = prices_of(layer.weight)
        calls = 0 if layer.groups == 1 else layer.num_experts * prices.call
        return PlanCost(layer.num_experts * o * (ik + prices.stream), calls)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y, deltas = layer.run(x, layer.weight, layer.bias), layer.kind.delta(layer)
        weights = mixing.dense_weights(y)
        if layer.groups > 1:  # output channels are laid out by group: one call per expert keeps it simple
            for e, delta in enumerate(deltas):
                y = y.add_(layer.scale(layer.run(x, delta), weights[:, e, None]))
            return y
        every = layer.run(x, deltas.flatten(0, 1)).unflatten(layer.channel_dim, deltas.shape[:2])
        return y.add_(layer.mix(every, weights))
