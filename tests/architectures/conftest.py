"""Layers that answer what a test wants."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def force() -> Callable[[nn.Module, Sequence[float]], None]:
    """``force(layer, bias)``: a linear layer, or a norm, that answers ``bias`` whatever it reads."""

    def forced(layer: nn.Module, bias: Sequence[float]) -> None:
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))

    return forced
