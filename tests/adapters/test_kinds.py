"""What an adapted layer is: its type, its parameters at the start, the rank of what its experts can change."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from mola_lightning.adapters import AdaptedConv2d, AdaptedConv2dSame, AdaptedLayer, AdaptedLinear, MixingScope

EXPERTS = 3
TYPES = {nn.Conv2d: AdaptedConv2d, Conv2dSame: AdaptedConv2dSame, nn.Linear: AdaptedLinear}


def adapt(base: nn.Module, kind: str = "reshaped", rank: int = 2) -> AdaptedLayer:
    layer = TYPES[type(base)](base.double(), num_experts=EXPERTS, rank=rank, alpha=3, kind=kind, scope=MixingScope())
    with torch.no_grad():
        layer.lora_B.normal_()
    return layer


@pytest.mark.parametrize("kind", ["reshaped", "factorised"])
@pytest.mark.parametrize("base", [nn.Conv2d(16, 6, 3), nn.Conv2d(16, 6, (1, 3)), nn.Linear(64, 6)], ids=str)
def test_rank_bounds_the_delta(base: nn.Module, kind: str) -> None:
    """By r of (O, I kh kw) when factorised; by r kh of (O kh, I kw) when reshaped."""
    layer = adapt(base, kind, rank=1)
    kh = layer.kernel[0] if kind == "reshaped" else 1
    matrix = layer.delta(0).reshape(layer.weight.shape[0] * kh, -1)
    assert torch.linalg.matrix_rank(matrix) == kh


@pytest.mark.parametrize("kind", ["reshaped", "factorised"])
def test_initialisation(kind: str) -> None:
    """B at zero, A uniform within 1 / sqrt of the width that it sums over: every expert starts as no change."""
    base = nn.Conv2d(32, 8, 3)
    layer = AdaptedConv2d(base, num_experts=EXPERTS, rank=4, alpha=16, kind=kind, scope=MixingScope())
    bound = (32 * 3 if kind == "reshaped" else 32 * 9) ** -0.5
    assert not layer.lora_B.any()
    assert 0.95 * bound < layer.lora_A.abs().max() <= bound
    assert layer.lora_A.mean().abs() < 0.05 * bound
    assert layer.scaling == 4
    assert layer.weight is base.weight
    assert layer.bias is base.bias


def test_it_is_the_layer_type_it_replaced() -> None:
    conv = adapt(nn.Conv2d(4, 6, 3, padding=1, stride=2))
    assert isinstance(conv, nn.Conv2d)
    assert conv.stride == (2, 2)
    assert "num_experts=3, rank=2, alpha=3, kind=reshaped" in repr(conv)
    assert "stride=(2, 2)" in repr(conv)
    assert isinstance(adapt(Conv2dSame(4, 6, 3)), nn.Conv2d)
    assert isinstance(adapt(nn.Linear(4, 6)), nn.Linear)
