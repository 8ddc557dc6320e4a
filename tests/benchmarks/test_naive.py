"""The naive forms that the benchmark compares with compute what the adapters compute."""

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone, AdaptedConv2d, MixingScope, reference_forward
from mola_lightning.backbones import create_small_resnet
from mola_lightning.benchmarks.naive import LayerForward, dense_forward, kernel_forward, run_layers_by
from mola_lightning.core import ConfigError

ROWS, EXPERTS = 6, 3
FORMS = pytest.mark.parametrize("forward", [kernel_forward, dense_forward, reference_forward])


def backbone() -> AdaptedBackbone:
    """A small network whose experts do something."""
    torch.manual_seed(0)
    adapted = AdaptedBackbone(create_small_resnet(), EXPERTS, rank=2, target_modules=[r"conv\d$"])
    for layer in adapted.adapted.values():
        nn.init.normal_(layer.lora_B, std=0.05)
    return adapted


def routings() -> dict[str, Tensor]:
    """A task id per row, and a mixture per row."""
    return {"hard": torch.tensor([2, 0, 1, 1, 2, 0]), "soft": torch.randn(ROWS, EXPERTS).softmax(1)}


@FORMS
@pytest.mark.parametrize("routing", ["hard", "soft"])
def test_outputs_and_gradients_equal_the_plans(forward: LayerForward, routing: str) -> None:
    images, mixing = torch.randn(ROWS, 3, 16, 16), routings()[routing]
    ours, naive = backbone(), run_layers_by(backbone(), forward)
    wanted, found = ours(images, mixing), naive(images, mixing)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours(images, mixing.roll(1, 0)), wanted, atol=1e-2)  # the experts are not silent
    wanted.square().sum().backward()
    found.square().sum().backward()
    naive_gradients = {name: parameter.grad for name, parameter in naive.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(naive_gradients[name], parameter.grad, rtol=1e-3, atol=1e-4 * scale)


@FORMS
def test_one_layer_with_bias_stride_and_dilation(forward: LayerForward) -> None:
    conv = nn.Conv2d(4, 5, 3, stride=2, padding=2, dilation=2, bias=True)
    layer = AdaptedConv2d(conv, num_experts=EXPERTS, rank=2, alpha=4, scope=MixingScope())
    nn.init.normal_(layer.lora_B)
    x, weights = torch.randn(ROWS, 4, 9, 8), torch.rand(ROWS, EXPERTS)
    wanted = torch.cat(
        [
            nn.functional.conv2d(
                x[b : b + 1],
                layer.weight + sum(weights[b, e] * layer.delta(e) for e in range(EXPERTS)),
                layer.bias,
                stride=2,
                padding=2,
                dilation=2,
            )
            for b in range(ROWS)
        ]
    )
    torch.testing.assert_close(forward(layer, x, weights), wanted, rtol=1e-5, atol=1e-5)


def test_other_layers_are_refused() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    layer = AdaptedConv2d(conv, num_experts=2, rank=1, alpha=1, kind="full", scope=MixingScope())
    with pytest.raises(ConfigError, match="one group with zero padding"):
        kernel_forward(layer, torch.randn(1, 4, 5, 5), torch.ones(1, 2))
