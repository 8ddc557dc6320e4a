"""Multiply-adds, counted while code runs."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class MultiplyAdds(TorchDispatchMode):
    """Counts those of convolutions, matrix products and attention, forward and backward, that run inside the context.

    By torch's formulas. Its own ``FlopCounterMode`` also follows modules, with hooks that fail where
    :func:`torch.autograd.grad` meets parameters that were arguments of a module: what balancers do.

    Attributes:
        total: the count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        formula = FORMULAS.get(getattr(func, "_overloadpacket", None))
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # in inference mode operations made of others come whole
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


def convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *settings: Any, **_: Any) -> int:
    """Operations of a convolution's backward pass: those of its forward pass for each of the two gradients wanted.

    torch's own formula counts a convolution with groups as if it had one.
    """
    for_input, for_weight, _bias = settings[-1]
    return (for_input + for_weight) * 2 * gradient.numel() * prod(weight.shape[1:])


FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, torch.ops.aten.convolution_backward: convolution_backward}
