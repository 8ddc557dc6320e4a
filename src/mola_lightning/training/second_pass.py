"""A second forward pass of a batch, which must leave no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def second_pass(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """No gradients within, unless they are enabled again; draws do not move the generators that later ones come from.

    At the end the buffers of ``modules`` are put back: normalisation layers in training would count the batch twice.
    """
    before = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, value in before:
                buffer.copy_(value)
