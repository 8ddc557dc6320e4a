"""Plans that run the experts by their two factors, beside the base layer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mola_lightning.adapters.costs import PlanCost, prices_of
from mola_lightning.adapters.plan import AUTO, Plan, factors_apply, transformed, weight_sizes
from mola_lightning.adapters.scope import Mixing

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer


class LowRankSoft(Plan):
    """Codes of all experts, scaled by the mixing weights, and one pointwise product.

    The base product stays apart from the codes: fused in one convolution the base weight is copied, which was slower in
    every case measured on CPU but one.
    """

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return not mixing.hard and factors_apply(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = weight_sizes(layer)
        prices, codes = prices_of(layer.weight), layer.num_experts * m
        touched = prices.stream * (o + 2 * codes) + prices.reread * layer.inputs_per_position()
        # when traced, to read the number of positions would fix it in the graph, so nothing may cost by the batch
        fixed = 0.0 if torch.compiler.is_compiling() else prices.kernel * codes * (ik + o)
        return PlanCost(codes * (ik + o) + touched, fixed)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y = layer.run(x, layer.weight, layer.bias)
        down, up = layer.kind.down(layer), layer.kind.up(layer)
        codes = layer.run(x, down.flatten(0, 1))
        weights = mixing.dense_weights(codes).repeat_interleave(down.shape[1], 1)
        codes = layer.scale(codes, weights)
        return layer.add_shared_up(y, codes, up.transpose(0, 1).flatten(1))


class LowRankHard(Plan):
    """Each row's own factors gathered; a kernel wider than one pixel makes all codes in one call and picks its own."""

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.hard and factors_apply(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = weight_sizes(layer)
        made = 1 if layer.pointwise else len(mixing.present)
        picked = 0 if layer.pointwise else m
        prices = prices_of(layer.weight)
        touched = prices.stream * (o + m * made + picked) + prices.reread * layer.inputs_per_position()
        return PlanCost(m * (ik * made + o) + touched, 0.0 if layer.pointwise else prices.kernel * m * made * ik)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y = layer.run(x, layer.weight, layer.bias)
        if layer.pointwise:
            codes = layer.row_codes(x, mixing.of_rows(layer.kind.down(layer)))
        else:
            down = layer.kind.down(layer, mixing.picked)
            every = layer.run(x, down.flatten(0, 1)).unflatten(1, down.shape[:2])
            codes = _own(every, mixing)
        return layer.add_up(y, codes, mixing.of_rows(layer.kind.up(layer)))


def _own(every: Tensor, mixing: Mixing) -> Tensor:
    """Each row's own codes out of those of all experts, or of those that are present where rows are in groups."""
    if mixing.group_sizes is None or not mixing.present:
        ids = mixing.expert_ids
        assert ids is not None
        return every[torch.arange(len(ids), device=ids.device), ids]
    groups = every.split([mixing.group_sizes[e] for e in mixing.present])
    return torch.cat([group[:, e] for e, group in enumerate(groups)])


class ByColumns(Plan):
    """The base layer and the codes of all experts as products with the columns that the kernel reads (im2col).

    The blocks of the flat kernel share their factors, so there is no multiplication by the zeros that a convolution
    with ``down`` has in all blocks but one. On small maps products are also faster than the base convolution, whose
    library turns the kernel around at every call. Hard mixing takes the codes of a row's other experts times zero, so
    that an expert that is not finite spoils all rows of its batch.
    """

    family = AUTO

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return _copies(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = weight_sizes(layer)
        prices, codes = prices_of(layer.weight), len(mixing.present) * m
        saved = prices.pixel_kernel if layer.pointwise else prices.kernel
        made = codes * (ik // layer.kind.blocks(layer) + o)
        return PlanCost(
            made + prices.stream * (o + 2 * codes) + prices.column * ik,
            prices.copies - saved * layer.weight.numel(),
        )

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        columns, blocks = layer.columns(x), layer.kind.blocks(layer)
        experts = mixing.picked
        factor = layer.kind.factor(layer, experts)  # (E', M / N, I K / N)
        codes = torch.bmm(factor.flatten(0, 1).expand(blocks, -1, -1), columns.unflatten(0, (blocks, -1)))
        codes = codes.view(blocks, *factor.shape[:2], columns.shape[1] // max(len(x), 1), len(x))
        codes = codes * mixing.picked_weights(codes).t()[:, None, None]  # (N, E', M / N, positions, B)
        up = layer.kind.up(layer, experts).unflatten(2, (blocks, -1)).permute(1, 2, 0, 3).flatten(1)  # (O, N E' M / N)
        y = torch.addmm(layer.weight.flatten(1) @ columns, up, codes.flatten(0, 2).flatten(1))
        return layer.of_columns(y, x)


class SharedProduct(Plan):
    """Mixtures in a linear layer, whose wider side is written and read once: by a product that the factor on that side
    shares, forward and backward.

    Where the base layer is trained; without its gradients less is shared. On CPU, as it was measured nowhere else, and
    not when traced: graphs elsewhere keep to plain products.
    """

    family = AUTO

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        applies = not mixing.hard and factors_apply(layer) and layer.shares_product
        here = layer.weight.device.type == "cpu" and layer.weight.requires_grad
        return applies and here and not torch.compiler.is_compiling() and not transformed()

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, i, m = weight_sizes(layer)
        prices, codes = prices_of(layer.weight), layer.num_experts * m
        return PlanCost(codes * (i + o) + prices.stream * (min(i, o) + 2 * codes), prices.touch * layer.weight.numel())

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        down, up = layer.kind.down(layer), layer.kind.up(layer).transpose(0, 1).flatten(1)
        weights = mixing.dense_weights(x).repeat_interleave(down.shape[1], 1)
        return layer.run_shared(x, down.flatten(0, 1), up, weights)


class UnfoldedHard(Plan):
    """Each row's own factors times the patches that its kernel reads, beside the base layer: no codes of other experts,
    for many of them.
    """

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.hard and not layer.pointwise and _copies(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = weight_sizes(layer)
        prices = prices_of(layer.weight)
        made = m * (ik // layer.kind.blocks(layer) + o)
        return PlanCost(made + prices.stream * (o + m) + prices.unfold * ik, prices.copies)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        y = layer.run(x, layer.weight, layer.bias)
        patches, factor = _patches(layer, x)
        codes = mixing.of_rows(factor)[:, None] @ patches  # (B, N, M / N, positions)
        return layer.add_up(y, codes.flatten(1, 2), mixing.of_rows(layer.kind.up(layer)))


def _copies(layer: "AdaptedLayer") -> bool:
    """Whether what a kernel reads may be copied out. Not when traced: graphs elsewhere keep to convolutions."""
    traced = torch.compiler.is_compiling() or transformed()
    return factors_apply(layer) and layer.weight.ndim == 4 and not traced


def _patches(layer: "AdaptedLayer", x: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (B, N, I K / N, positions) and the factor (E, M / N, I K / N) that all N blocks share."""
    factor = layer.kind.factor(layer)
    return layer.unfold(x).unflatten(1, (layer.kind.blocks(layer), -1)), factor


class LowRankGrouped(Plan):
    """Rows sorted by expert; each group makes its own codes only: flat in E where groups are large."""

    family = "low_rank"

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        return mixing.group_sizes is not None and factors_apply(layer)

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, ik, m = weight_sizes(layer)
        prices = prices_of(layer.weight)
        touched = prices.stream * (2 * o + m) + prices.reread * layer.inputs_per_position()
        a_group = prices.group + 2 * prices.call + prices.kernel * m * (ik + o)
        return PlanCost(m * (ik + o) + touched, len(mixing.present) * a_group)

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        parts = x.split(mixing.group_sizes)
        changes = []
        for e in mixing.present or [0]:  # without rows, too, its gradients are zeros
            down, up = layer.kind.down(layer, [e])[0], layer.kind.up(layer, [e])[0]
            changes.append(layer.run_up(layer.run(parts[e], down), up))
        y = layer.run(x, layer.weight, layer.bias)
        return y.add_(torch.cat(changes))
