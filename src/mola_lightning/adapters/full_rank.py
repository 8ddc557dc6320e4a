"""Plans that run the experts by whole weight changes."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mola_lightning.adapters.costs import PlanCost, prices_of
from mola_lightning.adapters.plan import Plan, transformed, weight_sizes
from mola_lightning.adapters.scope import Mixing

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer


class Merged(Plan):
    """Rows sorted by expert; each group runs one product with W + Delta_e."""

    family = "merged"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.row_counts is not None and not transformed()

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, _ = weight_sizes(layer)
        prices = prices_of(layer.weight)
        begun, again = (prices.product, 0.0) if layer.grouped_products else (prices.call, prices.kernel * o * ik)
        present = len(mixing.present)
        fixed = present * (o * ik * _made(layer) + begun) + max(present - 1, 0) * again
        return PlanCost(prices.stream * layer.regrouped_per_position(), fixed)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        if not mixing.present:  # an empty batch, whose gradients are zeros
            return layer.run(x, layer.kind.merged(layer, [0])[0], layer.bias)
        present, counts = mixing.present, mixing.row_counts
        assert counts is not None
        counts = counts if mixing.picked is None else counts[present]
        return layer.run_groups(x, layer.kind.merged(layer, mixing.picked), counts, layer.bias)


class MergedRows(Plan):
    """Each row with its own kernel W + sum_e mixing[b, e] Delta_e, all rows in one product (a convolution with B
    groups).

    For few channels and many pixels. Not when traced: the number of groups would be a constant of the graph.
    """

    family = "merged"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return not mixing.hard and not torch.compiler.is_compiling()

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        experts, rows = layer.num_experts, prices_of(layer.weight).touch_rows
        return PlanCost(0.0, layer.weight.numel() * (mixing.rows * (experts + rows) + experts * _made(layer)))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        deltas = layer.kind.delta(layer).flatten(1)
        if not mixing.rows:  # gradients are zeros
            return layer.run(x, layer.weight + deltas.sum(0).view_as(layer.weight), layer.bias)
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
        prices, experts = prices_of(layer.weight), len(mixing.present)
        calls = 0 if layer.groups == 1 else experts * prices.call
        if not torch.compiler.is_compiling():  # for the reason given in LowRankSoft
            calls += experts * o * ik * (_made(layer) + (prices.kernel if layer.weight.ndim == 4 else 0))
        return PlanCost(experts * o * (ik + prices.stream), calls)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y, deltas = layer.run(x, layer.weight, layer.bias), layer.kind.delta(layer, mixing.picked)
        weights = mixing.picked_weights(y)
        if layer.groups > 1:  # output channels are laid out by group: one call per expert keeps it simple
            for e, delta in enumerate(deltas):
                y = y.add_(layer.scale(layer.run(x, delta), weights[:, e, None]))
            return y
        every = layer.run(x, deltas.flatten(0, 1)).unflatten(layer.channel_dim, deltas.shape[:2])
        return y.add_(layer.mix(every, weights))


def _made(layer: "AdaptedLayer") -> float:
    """What each number of an expert's delta costs; full-rank experts are their deltas, which are only read."""
    m = layer.kind.width(layer) // layer.kind.blocks(layer) if layer.kind.low_rank else 0
    return m + prices_of(layer.weight).touch
