"""Mixtures in linear layers: one of the experts' two factors shares the base layer's product."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from mola_lightning.adapters.costs import PlanCost, prices_of
from mola_lightning.adapters.grouped import in_one_precision
from mola_lightning.adapters.plan import AUTO, Plan, factors_apply, weight_sizes
from mola_lightning.adapters.scope import Mixing

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer


class SharedProduct(Plan):
    """A layer's wider side is written and read once, by a product that the factor on that side shares.

    With more inputs than outputs [W; A] x gives output and codes, else the codes stand beside the input for [W, B]. In
    the backward pass it is the same product that is shared. Not when traced: graphs elsewhere keep to plain products.
    On CPU, as it was measured nowhere else.

    Of no family that can be asked for: in those of two factors the base layer runs as it would without experts, bit for
    bit.
    """

    family = AUTO

    def available(self, layer: "AdaptedLayer", mixing: Mixing) -> bool:
        applies = not mixing.hard and factors_apply(layer) and layer.weight.ndim == 2
        return applies and layer.weight.device.type == "cpu" and not torch.compiler.is_compiling()

    def cost(self, layer: "AdaptedLayer", mixing: Mixing) -> PlanCost:
        o, i, m = weight_sizes(layer)
        prices, codes = prices_of(layer.weight), layer.num_experts * m
        return PlanCost(codes * (i + o) + prices.stream * (min(i, o) + 2 * codes), prices.touch * layer.weight.numel())

    def run(self, layer: "AdaptedLayer", x: Tensor, mixing: Mixing) -> Tensor:
        tokens = x.unsqueeze(1) if x.ndim == 2 else x.flatten(1, -2)
        down, up = layer.kind.down(layer).flatten(0, 1), layer.kind.up(layer).transpose(0, 1).flatten(1)
        tokens, down, up, weight = in_one_precision(tokens, down, up, layer.weight)
        weights = mixing.dense_weights(tokens).repeat_interleave(len(down) // layer.num_experts, 1)
        bias = None if layer.bias is None else layer.bias.to(tokens.dtype)
        if len(up) < tokens.shape[-1]:
            bias = None if bias is None else pad(bias, (0, len(down)))
            y, codes = LinearOfTwo.apply(tokens, weight, down, bias, 0).split((len(up), len(down)), -1)
            codes = codes.clone() * weights[:, None]  # what is kept of them would keep y
            y = torch.addmm(y.flatten(0, 1), codes.flatten(0, 1), up.t())
        else:
            joined, _ = InputAndCodes.apply(tokens, down, weights)
            y = LinearOfTwo.apply(joined, weight, up, bias, 1)
        return y.view(*x.shape[:-1], len(up))


class LinearOfTwo(torch.autograd.Function):
    """A linear layer on (B, N, I) whose weight is two put together, along an axis; not kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, axis: int) -> Tensor:
        """One product."""
        return linear(x, torch.cat([first, second], axis), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """For the backward pass."""
        *tensors, bias, ctx.axis = inputs
        ctx.save_for_backward(*tensors)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of inputs, both parts, and bias."""
        x, *parts = ctx.saved_tensors
        rows = _rows(gradient)
        of_parts = (rows.t() @ _rows(x)).split([part.shape[ctx.axis] for part in parts], ctx.axis)
        return gradient @ torch.cat(parts, ctx.axis), *of_parts, rows.sum(0) if ctx.has_bias else None, None


class InputAndCodes(torch.autograd.Function):
    """Inputs (B, N, I), factor (M, I) and a weight of each code (B, M) -> (B, N, I + M) and the codes without weights.

    By itself so that the backward pass keeps the inputs only once: where they stand beside the codes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, down: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Beside each other."""
        codes = x @ down.t()
        return torch.cat([x, codes * weights[:, None]], -1), codes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """For the backward pass; results, as they can be differentiated once more."""
        ctx.save_for_backward(*output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of inputs, factor and weights."""
        joined, codes, down, weights = ctx.saved_tensors
        sides = (down.shape[1], down.shape[0])
        (x, _), (of_x, of_weighted) = joined.split(sides, -1), gradient.split(sides, -1)
        of_codes = _rows(torch.addcmul(of_codes, of_weighted, weights[:, None]))
        of_x = torch.addmm(_rows(of_x), of_codes, down).view(x.shape)
        return of_x, of_codes.t() @ _rows(x), (of_weighted * codes).sum(1)


def _rows(x: Tensor) -> Tensor:
    """(B, N, C) -> (B N, C), of which vmap knows more than of ``flatten``."""
    return x.reshape(-1, x.shape[-1])
