"""Backbones of torchvision: without their classifier, adapted like any other."""

from functools import partial

import pytest
import torch

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.backbones import create_torchvision_backbone
from mola_lightning.core import ConfigError


def test_shufflenet_has_the_adapters_of_the_paper() -> None:
    net = create_torchvision_backbone("shufflenet_v2_x1_0").eval()
    images = torch.randn(2, 3, 64, 64)
    plain = net(images)
    assert plain.shape == (2, net.num_features) == (2, 1024)
    adapted = AdaptedBackbone(net, num_experts=3, rank=4, alpha=16).eval()
    assert len(adapted.adapted) == 37
    torch.testing.assert_close(adapted(images, torch.tensor([0, 2])), plain)  # zero-initialised


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(create_torchvision_backbone, "shuflenet"), "torchvision has no classifier 'shuflenet'"),
        (partial(create_torchvision_backbone, "vgg11"), "vgg11 has no last layer 'fc'"),
        (partial(create_torchvision_backbone, "resnet18", in_channels=0), "in_channels must be an integer >= 1"),
    ],
)
def test_what_it_cannot_make(call: partial, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
