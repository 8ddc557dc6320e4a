"""The direct ways to run a layer with mixed experts: what the released code of the paper does, for comparison only.

Each gives the numbers of :class:`AdaptedLayer` at a cost that does not profit from the low rank, in time or in memory.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.adapters import AdaptedBackbone, AdaptedConv2d, AdaptedLayer
from mola_lightning.core import ConfigError

# (layer, x (B, ...), mixing weights (B, E)) -> y
LayerForward = Callable[[AdaptedLayer, Tensor, Tensor], Tensor]


def kernel_forward(layer: AdaptedLayer, x: Tensor, weights: Tensor) -> Tensor:
    """One kernel per row: (B, E, O, I, kh, kw) products, their sum, and a convolution with a group for each row.

    Args:
        layer: a convolution with experts and one group.
        x: (B, C, H, W).
        weights: (B, E) mixing weights.
    """
    _check(layer)
    kernels = layer.weight + (weights[:, :, None, None, None, None] * layer.delta()).sum(1)
    rows, out = kernels.shape[:2]
    x = layer.prepare(x)
    folded = x.reshape(1, -1, *x.shape[2:])  # row b becomes group b
    y = F.conv2d(folded, kernels.flatten(0, 1), None, layer.stride, layer.padding, layer.dilation, groups=rows)
    y = y.reshape(rows, out, *y.shape[2:])
    return y if layer.bias is None else y + layer.bias[:, None, None]


def dense_forward(layer: AdaptedLayer, x: Tensor, weights: Tensor) -> Tensor:
    """E + 1 full convolutions, the base layer's and each expert's, summed with the mixing weights.

    Args:
        layer: a convolution with experts and one group.
        x: (B, C, H, W).
        weights: (B, E) mixing weights.
    """
    _check(layer)
    x = layer.prepare(x)
    every = torch.stack([layer.run(x, delta) for delta in layer.delta()], 1)
    return layer.run(x, layer.weight, layer.bias) + (weights[:, :, None, None, None] * every).sum(1)


def run_layers_by(backbone: AdaptedBackbone, forward: LayerForward) -> AdaptedBackbone:
    """Let every adapted layer of ``backbone`` run by ``forward`` instead of its plans; changes ``backbone``, returns
    it.
    """
    for layer in backbone.adapted.values():
        layer.forward = partial(_forward, layer, forward)  # type: ignore[method-assign]
    return backbone


def _forward(layer: AdaptedLayer, forward: LayerForward, x: Tensor) -> Tensor:
    return forward(layer, x, layer.scope.current().expand(x.shape[0]).dense_weights(x))


def _check(layer: AdaptedLayer) -> None:
    if not isinstance(layer, AdaptedConv2d) or layer.groups != 1 or layer.padding_mode != "zeros":
        raise ConfigError(
            f"the naive forms are written for convolutions of one group with zero padding, got {layer}; "
            "adapt only such layers, or compare with reference_forward"
        )
