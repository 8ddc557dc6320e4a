"""The slow, obvious definition of an adapted layer: the oracle of every test and the yardstick of the benchmark."""

import torch
from torch import Tensor

from mola_lightning.adapters.base import AdaptedLayer


def reference_forward(layer: AdaptedLayer, x: Tensor, weights: Tensor) -> Tensor:
    """Loop over samples; each runs the layer with its own mixed weight W + sum_e weights[b, e] Delta_e.

    Args:
        layer: any adapted layer.
        x: the layer's input, B rows.
        weights: (B, E) mixing weights.
    """
    deltas = layer.delta()
    rows = []
    for b in range(x.shape[0]):
        weight = layer.weight + torch.einsum("e,e...->...", weights[b].to(deltas.dtype), deltas)
        rows.append(layer.run(layer.prepare(x[b : b + 1]), weight, layer.bias))
    return torch.cat(rows)
