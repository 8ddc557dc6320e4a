"""The exact ways to run an adapted layer. All give the same numbers; which is cheapest depends on shapes.

Letters: P output positions of the whole batch, O and I channels, K = kh*kw, E experts (E' of them present), M codes per
expert (r*kh^2 reshaped, r factorised), N blocks of the flat kernel that share factors (kh reshaped, 1 factorised).
Multiply-adds beyond the base layer's P*O*I*K:

| plan | per position | per batch |
|---|---|---|
| low_rank, soft | E M (I K + O) | |
| shared product, soft, linear layers | E M (I + O), and the narrower of I and O copied | O I numbers copied |
| by columns, soft or hard | E' M (I K / N + O), and I K numbers copied | calls, less than the base convolution |
| low_rank, hard: all codes, then each row's own | E' M I K + M O (pointwise: M (I + O)) | |
| low_rank, hard, unfolded | M (I K / N + O), and I K numbers copied | calls |
| low_rank, hard, grouped by expert | M (I K + O) | calls |
| merged, hard, grouped by expert | 0 | E' O I K r kh, and E' deltas written and read |
| merged, by row: each row's own mixed kernel | 0 | B (E + a write) O I K, and E deltas as above |
| dense | E' O I K | E' deltas as above |
"""

from typing import TYPE_CHECKING

from torch import Tensor

from mola_lightning.adapters.full_rank import Dense, Merged, MergedRows
from mola_lightning.adapters.low_rank import (
    ByColumns,
    LowRankGrouped,
    LowRankHard,
    LowRankSoft,
    SharedProduct,
    UnfoldedHard,
)
from mola_lightning.adapters.plan import AUTO, Plan
from mola_lightning.adapters.scope import Mixing
from mola_lightning.core import ConfigError

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer

PLAN_NAMES = (AUTO, "low_rank", "merged", "dense")


PLANS: tuple[Plan, ...] = (
    LowRankSoft(),
    SharedProduct(),
    ByColumns(),
    LowRankHard(),
    UnfoldedHard(),
    LowRankGrouped(),
    Merged(),
    MergedRows(),
    Dense(),
)


def candidates(layer: "AdaptedLayer", mixing: Mixing) -> list[Plan]:
    """The plans that can run this layer under this mixing, within the family that the layer was told to use.

    Raises:
        ConfigError: when that family has none.
    """
    possible = [plan for plan in PLANS if plan.available(layer, mixing)]
    if layer.plan == AUTO:
        return possible
    chosen = [plan for plan in possible if plan.family == layer.plan]
    if not chosen:
        state = "soft" if not mixing.hard else "hard" if mixing.group_sizes else "hard, rows not grouped by expert"
        families = sorted({plan.family for plan in possible} - {AUTO})
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
