"""A backbone in stages is the same backbone."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mola_lightning.backbones import create_backbone, create_small_resnet, split
from mola_lightning.core import ConfigError

Build = Callable[[], nn.Module]


def sequential() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.num_features = 6
    return net


def tiny_vit(depth: int = 4, **options: object) -> nn.Module:
    return VisionTransformer(16, 8, embed_dim=8, depth=depth, num_heads=2, num_classes=0, **options)


NETS: dict[str, tuple[Build, int, list[int]]] = {
    "resnet18": (lambda: create_backbone("resnet18"), 32, [64, 64, 128, 256, 512, 512]),
    "resnet18_small_images": (lambda: create_backbone("resnet18", small_images=True), 16, [64, 64, 128, 256, 512, 512]),
    "resnet50": (lambda: create_backbone("resnet50"), 64, [64, 256, 512, 1024, 2048, 2048]),
    "small_resnet": (create_small_resnet, 16, [8, 8, 16, 32, 32]),
    "convnext_atto": (lambda: create_backbone("convnext_atto"), 64, [40, 40, 80, 160, 320, 320]),
    "efficientnet": (lambda: create_backbone("tf_efficientnet_lite0"), 64, [32, 16, 24, 40, 112, 320, 1280]),
    "vit_tiny": (lambda: create_backbone("vit_tiny_patch16_224", image_size=32), 32, [192] * 6),
    "dropout": (lambda: create_backbone("resnet10t", drop_rate=0.5), 32, [64, 64, 128, 256, 512, 512]),
    "registers": (lambda: tiny_vit(reg_tokens=2, class_token=False, global_pool="avg"), 16, [8] * 6),
    "shallow_vit": (lambda: tiny_vit(depth=2, pre_norm=True), 16, [8] * 4),
    "sequential": (sequential, 8, [6, 6, 6, 6]),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_stages_in_order_are_the_network(name: str, training: bool) -> None:
    build, size, channels = NETS[name]
    net = build()
    stages = split(copy.deepcopy(net), (3, size, size))
    assert stages.channels == channels
    assert stages.num_features == net.num_features == channels[-1]
    images = torch.randn(3, 3, size, size)
    outputs = []
    for each in (net, stages):
        each.train(training)
        torch.manual_seed(1)
        outputs.append(each(images))
    assert torch.equal(*outputs)
    if training:
        for mine, theirs in zip(stages.buffers(), net.buffers(), strict=True):
            assert torch.equal(mine, theirs)  # norm statistics


@pytest.mark.parametrize("name", NETS)
def test_parameters_are_the_networks_own(name: str) -> None:
    net = NETS[name][0]()
    stages = split(net)
    assert {id(p) for p in stages.parameters()} == {id(p) for p in net.parameters()}
    assert len(list(stages.parameters())) == len(list(net.parameters()))  # none in two stages
    assert all(m.training for m in stages.modules())  # the dry run left the mode alone
    assert all(b.eq(0).all() for n, b in stages.named_buffers() if n.endswith("num_batches_tracked"))


def test_a_cut_vit_leaves_the_network_whole() -> None:
    net = tiny_vit().eval()
    images = torch.randn(2, 3, 16, 16)
    before = net(images)
    split(net)
    assert torch.equal(net(images), before)
    assert len(net.blocks) == 4


def test_feature_maps() -> None:
    net = create_small_resnet(pooled=False)
    assert split(net, (3, 16, 16))(torch.randn(2, 3, 16, 16)).shape == (2, 32, 4, 4)


def test_copies_are_independent() -> None:
    stages = split(tiny_vit())
    twin = copy.deepcopy(stages)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(stages(images), twin(images))
    with torch.no_grad():
        for parameter in stages.parameters():
            parameter.add_(1)
    assert not torch.equal(stages(images), twin(images))


def test_other_networks_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"cannot cut a Linear .*ResNet, ConvNeXt, EfficientNet, VisionTransformer"):
        split(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="cannot cut a RegNet"):
        split(create_backbone("regnetx_002"))
    with pytest.raises(ConfigError, match=r"empty nn\.Sequential"):
        split(nn.Sequential())


def test_own_checkpointing_is_refused() -> None:
    net = create_backbone("resnet10t")
    net.set_grad_checkpointing()
    with pytest.raises(ConfigError, match="activation checkpointing"):
        split(net)


def test_a_shape_that_does_not_run_is_told() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    assert split(net, (3, 8, 8)).channels == [192, 5]
    with pytest.raises(ConfigError, match="Give the image_shape"):
        split(net)
