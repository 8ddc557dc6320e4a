"""The exact ways to run an adapted layer. All give the same numbers; which is cheapest depends on shapes.

Letters: P output positions of the whole batch, O and I channels, K = kh*kw, E experts (E' of them present), M codes per
expert (r*kh^2 reshaped, r factorised). Multiply-adds beyond the base layer's P*O*I*K:

| plan | per position | per batch |
|---|---|---|
| low_rank, soft | E M (I K + O) | |
| low_rank, hard: all codes, then each row's own | E M I K + M O (pointwise: M (I + O)) | |
| low_rank, hard, grouped by expert | M (I K + O) | calls |
| merged, hard, grouped by expert | 0 | E' O I K r kh, and E' deltas written and read |
| merged, by row: each row's own mixed kernel | 0 | B (E + a write) O I K |
| dense, soft | E O I K | the same with E |
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mola_lightning.adapters.costs import CALL, STREAM, TOUCH, TOUCH_ROWS, PlanCost
from mola_lightning.adapters.scope import Mixing
from mola_lightning.core import ConfigError

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer

PLAN_NAMES = ("auto", "low_rank", "merged", "dense")


class Plan(ABC):
    """A way to run a layer. ``family`` is its name in configs; several plans of one family differ in detail."""

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


def _sizes(layer: "AdaptedLayer") -> tuple[int, int, int]:
    """(O, I*K, M); M is 0 without low-rank factors."""
    return layer.weight.shape[0], layer.weight[0].numel(), layer.kind.width(layer) if layer.kind.low_rank else 0


def _factors_apply(layer: "AdaptedLayer") -> bool:
    return layer.kind.low_rank and layer.groups == 1


class LowRankSoft(Plan):
    """Codes of all experts, scaled by the mixing weights, and one pointwise product.

    The base product stays apart from the codes: fused in one convolution the base weight is copied, which was slower in
    every case measured on CPU but one.
    """

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return not mixing.hard and _factors_apply(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = _sizes(layer)
        codes = layer.num_experts * m
        return PlanCost(codes * (ik + o) + STREAM * (o + 2 * codes))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y = layer.run(x, layer.weight, layer.bias)
        down, up = layer.kind.down(layer), layer.kind.up(layer)
        codes = layer.run(x, down.flatten(0, 1))
        weights = mixing.dense_weights(codes).repeat_interleave(down.shape[1], 1)
        codes = layer.scale(codes, weights)
        return y.add_(layer.run_up(codes, up.transpose(0, 1).flatten(1)))  # no backward reads y: no copy


class LowRankHard(Plan):
    """Each row's own factors gathered; a kernel wider than one pixel makes all codes in one call and picks its own."""

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.hard and _factors_apply(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = _sizes(layer)
        made = 1 if layer.pointwise else layer.num_experts
        picked = 0 if layer.pointwise else m
        return PlanCost(m * (ik * made + o) + STREAM * (o + m * made + picked))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y = layer.run(x, layer.weight, layer.bias)
        down, up, ids = layer.kind.down(layer), layer.kind.up(layer), mixing.expert_ids
        assert ids is not None
        if layer.pointwise:
            codes = layer.row_codes(x, down[ids])
        else:
            every = layer.run(x, down.flatten(0, 1)).unflatten(1, down.shape[:2])
            codes = every[torch.arange(len(ids), device=ids.device), ids]
        return layer.add_up(y, codes, up[ids])


class LowRankGrouped(Plan):
    """Rows sorted by expert; each group makes its own codes only: flat in E where groups are large."""

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.group_sizes is not None and _factors_apply(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = _sizes(layer)
        return PlanCost(m * (ik + o) + STREAM * (2 * o + m), 2 * CALL * len(mixing.present))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        parts = x.split(mixing.group_sizes)
        changes = []
        for e in mixing.present:
            down, up = layer.kind.down(layer, [e])[0], layer.kind.up(layer, [e])[0]
            changes.append(layer.run_up(layer.run(parts[e], down), up))
        y = layer.run(x, layer.weight, layer.bias)
        return y.add_(torch.cat(changes)) if changes else y


class Merged(Plan):
    """Rows sorted by expert; each group runs one product with W + Delta_e."""

    family = "merged"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.group_sizes is not None

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, _ = _sizes(layer)
        inner = layer.rank * layer.kernel[0] if layer.kind.low_rank else 0
        regrouped = o + layer.inputs_per_position()
        return PlanCost(STREAM * regrouped, len(mixing.present) * (o * ik * (inner + TOUCH) + CALL))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        if not mixing.present:  # an empty batch
            return layer.run(x, layer.weight, layer.bias)
        merged = layer.weight + layer.kind.delta(layer, mixing.present)
        parts = [x.split(mixing.group_sizes)[e] for e in mixing.present]
        return torch.cat([layer.run(part, w, layer.bias) for part, w in zip(parts, merged, strict=True)])


class MergedRows(Plan):
    """Each row with its own kernel W + sum_e mixing[b, e] Delta_e, all rows in one product (a convolution with B
    groups).

    For few channels and many pixels. Not when traced: the number of groups would be a constant of the graph.
    """

    family = "merged"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return not mixing.hard and mixing.rows > 0 and not torch.compiler.is_compiling()

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        return PlanCost(0.0, mixing.rows * layer.weight.numel() * (layer.num_experts + TOUCH_ROWS))

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
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
        o, ik, _ = _sizes(layer)
        calls = 0 if layer.groups == 1 else layer.num_experts * CALL
        return PlanCost(layer.num_experts * o * (ik + STREAM), calls)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y, deltas = layer.run(x, layer.weight, layer.bias), layer.kind.delta(layer)
        weights = mixing.dense_weights(y)
        if layer.groups > 1:  # output channels are laid out by group: one call per expert keeps it simple
            for e, delta in enumerate(deltas):
                y = y.add_(layer.scale(layer.run(x, delta), weights[:, e, None]))
            return y
        every = layer.run(x, deltas.flatten(0, 1)).unflatten(layer.channel_dim, deltas.shape[:2])
        return y.add_(layer.mix(every, weights))


PLANS: tuple[Plan, ...] = (LowRankSoft(), LowRankHard(), LowRankGrouped(), Merged(), MergedRows(), Dense())


def candidates(layer: "AdaptedLayer", mixing: Mixing) -> list[Plan]:
    """The plans that can run this layer under this mixing, within the family that the layer was told to use.

    Raises:
        ConfigError: when that family has none.
    """
    possible = [plan for plan in PLANS if plan.available(layer, mixing)]
    if layer.plan == "auto":
        return possible
    chosen = [plan for plan in possible if plan.family == layer.plan]
    if not chosen:
        state = "soft" if not mixing.hard else "hard" if mixing.group_sizes else "hard, rows not grouped by expert"
        families = sorted({plan.family for plan in possible})
        raise ConfigError(
            f"plan={layer.plan!r} cannot run a {layer.kind_name} {type(layer).__name__} with groups={layer.groups} "
            f"under {state} mixing; possible here: {', '.join(families)}, or plan='auto'"
        )
    return chosen


def choose(layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Plan:
    """The cheapest plan. Where nothing has a cost per batch the number of positions is not read: no guard when
    traced.
    """
    options = candidates(layer, mixing)
    if len(options) == 1:
        return options[0]
    costs = [plan.cost(layer, mixing) for plan in options]
    positions = layer.positions(x) if any(cost.fixed for cost in costs) else 1
    totals = [cost.total(positions) for cost in costs]
    return options[totals.index(min(totals))]
