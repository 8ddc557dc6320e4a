"""Fold experts into plain weights."""

import copy

import torch
from torch import Tensor, nn

from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.checkpointing import CheckpointBoundary


def merged_copy(net: nn.Module, weights: Tensor) -> nn.Module:
    """A copy of ``net`` with sum_e weights[e] Delta_e folded into each adapted layer, which becomes plain again.

    Args:
        net: a network with adapted layers; it is not changed.
        weights: (E,) one mixing for all inputs; one-hot for one expert.

    Returns:
        A network of the original layer types: no adapter and no checkpoint boundary is left.
    """
    net = copy.deepcopy(net)
    for path, module in list(net.named_modules(remove_duplicate=False)):
        if isinstance(module, AdaptedLayer):
            _replace(net, path, _fold(module, weights))
    while boundaries := [(p, m) for p, m in net.named_modules() if isinstance(m, CheckpointBoundary)]:
        _replace(net, boundaries[0][0], boundaries[0][1].inner)
    return net


@torch.no_grad()
def _fold(layer: AdaptedLayer, weights: Tensor) -> nn.Module:
    plain = layer.plain()
    mixed = torch.einsum("e,e...->...", weights.to(layer.weight), layer.delta())
    plain.weight = nn.Parameter(layer.weight + mixed, requires_grad=layer.weight.requires_grad)
    return plain


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)
