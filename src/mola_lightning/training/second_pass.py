"""What a second forward pass of a batch must leave as it was."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn


@contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Put the buffers of ``module`` back at the end: normalisation layers in training would count a batch twice."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def kept_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Draws within do not move the global generators that later draws come from."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
