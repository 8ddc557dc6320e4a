"""Linear layers with experts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.grouped import grouped_linear, in_one_precision
from mola_lightning.adapters.scope import MixingScope
from mola_lightning.adapters.shared_product import InputAndCodes, LinearOfTwo


class AdaptedLinear(AdaptedLayer, nn.Linear):
    """A Linear with E experts: y = W x + b + sum_e mixing[:, e] (alpha / r) B_e A_e x on inputs (B, ..., I).

    ``reshaped`` and ``factorised`` are the same here: ordinary LoRA, lora_A (E, r, I), lora_B (E, O, r). The scaling
    applies always, not only after merging as in the released code.

    Args:
        base: the layer to replace; its parameters are taken over, not copied.
        num_experts: E.
        rank: r of the factors.
        alpha: the experts' output is scaled by alpha / rank.
        kind: ``reshaped``, ``factorised`` or ``full``.
        scope: gives the mixing weights of the running forward pass.
        plan: ``auto``, or the family of exact plans to run.
    """

    channel_dim = -1
    grouped_products = True
    shares_product = True

    def __init__(
        self,
        base: nn.Linear,
        *,
        num_experts: int,
        rank: int,
        alpha: float,
        kind: str = "reshaped",
        scope: MixingScope,
        plan: str = "auto",
    ) -> None:
        nn.Linear.__init__(self, base.in_features, base.out_features, base.bias is not None, device="meta")
        self._attach(base, num_experts=num_experts, rank=rank, alpha=alpha, kind=kind, scope=scope, plan=plan)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """X W^T + b."""
        return F.linear(x, weight, bias)

    def run_rows(self, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Batched x W_b^T + b."""
        y = torch.bmm(_tokens(x), weights.transpose(1, 2))
        y = y if bias is None else y + bias.to(y.dtype)
        return y.view(*x.shape[:-1], -1)

    def run_groups(self, x: Tensor, weights: Tensor, sizes: Tensor, bias: Tensor | None) -> Tensor:
        """One product for each group."""
        tokens = _tokens(x)
        y = grouped_linear(*in_one_precision(tokens.flatten(0, 1), weights), sizes, tokens.shape[1])
        y = y if bias is None else y.add_(bias.to(y.dtype))
        return y.view(*x.shape[:-1], self.out_features)

    def run_up(self, codes: Tensor, up: Tensor) -> Tensor:
        """Codes up^T."""
        return F.linear(codes, up)

    def scale(self, y: Tensor, weights: Tensor) -> Tensor:
        """(B, ..., C) times (B, C)."""
        return y * weights.view(weights.shape[0], *[1] * (y.ndim - 2), weights.shape[1])

    def row_codes(self, x: Tensor, down: Tensor) -> Tensor:
        """(B, N, M)."""
        return torch.bmm(_tokens(x), down.transpose(1, 2))

    def add_up(self, y: Tensor, codes: Tensor, up: Tensor) -> Tensor:
        """Y (B, ..., O) plus codes (B, N, M) times up^T."""
        if y.ndim == 3:  # where y is; a view of it would be copied in the backward pass
            return y.baddbmm_(codes.to(y.dtype), up.transpose(1, 2).to(y.dtype))
        return torch.baddbmm(_tokens(y), codes.to(y.dtype), up.transpose(1, 2)).view_as(y)

    def add_shared_up(self, y: Tensor, codes: Tensor, up: Tensor) -> Tensor:
        """In the memory of y where it has a token axis."""
        if y.ndim == 3:  # not len(y), which would fix the number of rows in a graph
            return self.add_up(y, codes, up.to(y.dtype).expand(y.shape[0], -1, -1))
        return super().add_shared_up(y, codes, up)

    def run_shared(self, x: Tensor, down: Tensor, up: Tensor, weights: Tensor) -> Tensor:
        """With more inputs than outputs [W; A] x gives output and codes, else the codes stand beside x for [W, B]."""
        tokens, down, up, weight = in_one_precision(_tokens(x), down, up, self.weight)
        weights = weights.to(tokens.dtype)
        bias = None if self.bias is None else self.bias.to(tokens.dtype)
        if self.out_features < self.in_features:
            bias = None if bias is None else F.pad(bias, (0, len(down)))
            y, codes = LinearOfTwo.apply(tokens, weight, down, bias, 0).split((len(up), len(down)), -1)
            codes = codes.clone() * weights[:, None]  # what is kept of them would keep y
            y = torch.addmm(y.flatten(0, 1), codes.flatten(0, 1), up.t())
        else:
            joined, _ = InputAndCodes.apply(tokens, down, weights)
            y = LinearOfTwo.apply(joined, weight, up, bias, 1)
        return y.view(*x.shape[:-1], self.out_features)

    def mix(self, every: Tensor, weights: Tensor) -> Tensor:
        """(B, ..., E, O), (B, E) -> (B, ..., O)."""
        return torch.einsum("b...eo,be->b...o", every, weights)

    def inputs_per_position(self) -> int:
        """Input features."""
        return self.in_features

    def positions(self, x: Tensor) -> int:
        """Rows times tokens."""
        return x.numel() // x.shape[-1]

    def plain(self) -> nn.Module:
        """A linear layer that shares this one's weight and bias."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)


def _tokens(x: Tensor) -> Tensor:
    """(B, ..., C) -> (B, N, C); N = 1 for (B, C)."""
    return x.unsqueeze(1) if x.ndim == 2 else x.flatten(1, -2)
