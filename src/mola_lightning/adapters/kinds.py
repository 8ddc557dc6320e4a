"""The parametrisations of an expert's weight change Delta_e: what is stored, and how it becomes a delta or two factors.

A kind is stateless: it names the parameters of a layer and reads them from it. Every kind gives ``delta``; the low-rank
kinds also give ``down`` and ``up``, with conv(x, Delta_e) = conv1x1(conv(x, down_e), up_e) exactly.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from mola_lightning.adapters.base import AdaptedLayer


class Parametrisation(ABC):
    """A way to parametrise Delta_e of shape (O, I, kh, kw); linear layers have kh = kw = 1.

    Attributes:
        low_rank: whether ``down`` and ``up`` exist.
    """

    low_rank: bool = True

    @abstractmethod
    def build(
        self, shape: tuple[int, int, int, int], num_experts: int, rank: int, like: Tensor
    ) -> dict[str, nn.Parameter]:
        """New parameters, stacked over experts, such that Delta_e = 0."""

    @abstractmethod
    def delta(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        """(len(experts), *weight.shape), scaled by alpha / rank; all experts by default."""

    def merged(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        """(len(experts), *weight.shape): the layer's weight plus each expert's delta."""
        return layer.weight + self.delta(layer, experts)

    def width(self, layer: "AdaptedLayer") -> int:
        """M, the number of codes per expert between ``down`` and ``up``."""
        raise TypeError(f"{type(self).__name__} has no low-rank factors")

    def blocks(self, layer: "AdaptedLayer") -> int:
        """N, in how many equal blocks of the flat kernel (I*kh*kw) the first factor is used."""
        return 1

    def factor(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        """(len(experts), M / N, I*kh*kw / N): the first factor of one block."""
        raise TypeError(f"{type(self).__name__} has no low-rank factors")

    def down(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        """(len(experts), M, *weight.shape[1:]), the first factor as filters; those of a block follow each other."""
        raise TypeError(f"{type(self).__name__} has no low-rank factors")

    def up(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        """(len(experts), O, M), the second factor, scaled by alpha / rank."""
        raise TypeError(f"{type(self).__name__} has no low-rank factors")


def _uniform(shape: Sequence[int], fan_in: int, like: Tensor) -> nn.Parameter:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): kaiming_uniform with a = sqrt(5), the initialisation of LoRA's A."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape, dtype=like.dtype, device=like.device).uniform_(-bound, bound))


def _zeros(shape: Sequence[int], like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, dtype=like.dtype, device=like.device))


def _pick(parameter: Tensor, experts: Sequence[int] | None) -> Tensor:
    if experts is None:
        return parameter
    return parameter[experts[0] : experts[0] + 1] if len(experts) == 1 else parameter[list(experts)]


def _scaled(layer: "AdaptedLayer", factor: Tensor) -> Tensor:
    return factor if layer.scaling == 1 else factor * layer.scaling


def _added_to(layer: "AdaptedLayer", b: Tensor, a: Tensor) -> Tensor:
    """The weight plus the scaled products b a, in one pass over their numbers."""
    weight = layer.weight.reshape(1, b.shape[1], a.shape[2])
    return torch.baddbmm(weight, b, a, alpha=layer.scaling).view(-1, *layer.weight.shape)


class Reshaped(Parametrisation):
    """The paper's and loralib's: Delta_e = (alpha / r) * (B_e A_e) read row by row as (O, I, kh, kw).

    A is (E, r*kh, I*kw), B is (E, O*kh, r*kh). The rank bound r*kh concerns the (O*kh, I*kw) matrix. Within an output
    channel the flat kernel of length I*kh*kw splits in kh blocks of length I*kw, and block i is row i of that channel
    in B_e times A_e: so the first factor is A_e written into each of the kh blocks in turn (kh * r * kh filters), exact
    for every I, also where a block ends inside a channel's kernel.
    """

    def build(
        self, shape: tuple[int, int, int, int], num_experts: int, rank: int, like: Tensor
    ) -> dict[str, nn.Parameter]:
        o, i, kh, kw = shape
        return {
            "lora_A": _uniform((num_experts, rank * kh, i * kw), i * kw, like),
            "lora_B": _zeros((num_experts, o * kh, rank * kh), like),
        }

    def delta(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        product = torch.bmm(_scaled(layer, _pick(layer.lora_B, experts)), _pick(layer.lora_A, experts))
        return product.reshape(-1, *layer.weight.shape)

    def merged(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _added_to(layer, _pick(layer.lora_B, experts), _pick(layer.lora_A, experts))

    def width(self, layer: "AdaptedLayer") -> int:
        return layer.kernel[0] ** 2 * layer.rank

    def blocks(self, layer: "AdaptedLayer") -> int:
        return layer.kernel[0]

    def factor(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _pick(layer.lora_A, experts)

    def down(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        a, kh = _pick(layer.lora_A, experts), layer.kernel[0]
        if kh > 1:  # by padding: its backward is a slice
            length = a.shape[2]
            blocks = [F.pad(a, (i * length, (kh - 1 - i) * length)) for i in range(kh)]
            a = torch.stack(blocks, 1).flatten(1, 2)
        return a.reshape(*a.shape[:2], *layer.weight.shape[1:])

    def up(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        b = _pick(layer.lora_B, experts)
        return _scaled(layer, b.reshape(b.shape[0], layer.weight.shape[0], -1))


class Factorised(Parametrisation):
    """PEFT's: a kh x kw convolution to r channels, then 1 x 1. A is (E, r, I, kh, kw), B is (E, O, r)."""

    def build(
        self, shape: tuple[int, int, int, int], num_experts: int, rank: int, like: Tensor
    ) -> dict[str, nn.Parameter]:
        o, i, kh, kw = shape
        inner = (i, kh, kw) if like.ndim == 4 else (i,)
        return {
            "lora_A": _uniform((num_experts, rank, *inner), i * kh * kw, like),
            "lora_B": _zeros((num_experts, o, rank), like),
        }

    def delta(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        product = torch.bmm(_scaled(layer, _pick(layer.lora_B, experts)), _pick(layer.lora_A, experts).flatten(2))
        return product.reshape(-1, *layer.weight.shape)

    def merged(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _added_to(layer, _pick(layer.lora_B, experts), _pick(layer.lora_A, experts).flatten(2))

    def width(self, layer: "AdaptedLayer") -> int:
        return layer.rank

    def factor(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _pick(layer.lora_A, experts).flatten(2)

    def down(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _pick(layer.lora_A, experts)

    def up(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _scaled(layer, _pick(layer.lora_B, experts))


class Full(Parametrisation):
    """Full-rank experts: Delta_e = (alpha / r) * X_e, X (E, *weight.shape) zero at start; the rank only scales."""

    low_rank = False

    def build(
        self, shape: tuple[int, int, int, int], num_experts: int, rank: int, like: Tensor
    ) -> dict[str, nn.Parameter]:
        return {"expert_weight": _zeros((num_experts, *like.shape), like)}

    def delta(self, layer: "AdaptedLayer", experts: Sequence[int] | None = None) -> Tensor:
        return _scaled(layer, _pick(layer.expert_weight, experts))


PARAMETRISATIONS: dict[str, Parametrisation] = {"reshaped": Reshaped(), "factorised": Factorised(), "full": Full()}
ADAPTER_PARAMETERS = ("lora_A", "lora_B", "expert_weight")


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter's (dotted) name is that of an adapted layer's experts."""
    return name.rpartition(".")[2] in ADAPTER_PARAMETERS
