"""Activation checkpointing changes memory and time, and nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone, AdaptedLayer, CheckpointBoundary
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import ConfigError

EXPERTS = 3
IDS, OTHER_IDS = torch.tensor([2, 0, 2, 0]), torch.tensor([1, 1, 0, 2])
NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet": (lambda: create_small_resnet((4, 8), (1, 2)), r"^layer\d$"),
    "convnext": (
        lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 6, 6, 8), num_classes=0, ls_init_value=1.0),
        r"^stages\.\d$",
    ),
    "vit": (
        lambda: VisionTransformer(32, 16, num_classes=0, embed_dim=12, depth=2, num_heads=2, drop_rate=0.1),
        r"^blocks\.\d+$",
    ),
    "swin": (
        lambda: SwinTransformer(
            32, 4, num_classes=0, embed_dim=8, depths=(2, 1), num_heads=(2, 2), window_size=4, drop_path_rate=0.5
        ),
        r"^layers\.\d$",
    ),
}
PATTERN = NETS["resnet"][1]


def make(name: str = "resnet", **settings: object) -> AdaptedBackbone:
    """In float64, in training mode, with random experts."""
    torch.manual_seed(0)
    backbone = AdaptedBackbone(NETS[name][0](), EXPERTS, rank=2, **settings).double()
    with torch.no_grad():
        for layer in backbone.adapted.values():
            layer.lora_B.normal_(std=0.3)
    return backbone.train()


def make_images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def soft(seed: int) -> Tensor:
    return torch.rand(4, EXPERTS, generator=torch.Generator().manual_seed(seed)).double().requires_grad_()


def gradients(backbone: AdaptedBackbone, *routings: Tensor) -> list[Tensor]:
    """Of one backward pass over a forward pass for each routing: to images, parameters and mixing weights."""
    torch.manual_seed(7)  # dropout
    images = make_images().requires_grad_()
    outputs = [backbone(images, routing) for routing in routings]
    loss = sum((i + 1) * output.square().sum() for i, output in enumerate(outputs))
    leaves = [images, *backbone.parameters(), *(r for r in routings if r.is_floating_point())]
    return list(torch.autograd.grad(loss, leaves))


def count_calls(backbone: AdaptedBackbone) -> Callable[[], int]:
    """How often an adapted layer inside a checkpointed block runs from now on."""
    boundary = next(m for m in backbone.modules() if isinstance(m, CheckpointBoundary))
    layer = next(m for m in boundary.modules() if isinstance(m, AdaptedLayer))
    calls: list[None] = []
    layer.register_forward_pre_hook(lambda *_: calls.append(None))
    return lambda: len(calls)


@pytest.mark.parametrize("routing", ["soft", "hard", "soft twice", "hard twice", "soft then hard"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_the_same(name: str, routing: str) -> None:
    """Bit for bit, also when a second forward pass with another routing runs before the backward pass."""
    routings = {
        "soft": [soft(1)],
        "hard": [IDS],
        "soft twice": [soft(1), soft(2)],
        "hard twice": [IDS, OTHER_IDS],
        "soft then hard": [soft(1), IDS],
    }[routing]
    plain = gradients(make(name), *routings)
    checkpointed = gradients(make(name, checkpoint_modules=[NETS[name][1]]), *routings)
    assert all(torch.equal(one, other) for one, other in zip(plain, checkpointed, strict=True))


def test_blocks_are_recomputed() -> None:
    """In training, not without gradients."""
    backbone = make(checkpoint_modules=[PATTERN])
    calls = count_calls(backbone)
    with torch.no_grad():
        backbone(make_images(), IDS)
    assert calls() == 1
    backbone(make_images(), soft(1)).sum().backward()
    assert calls() == 3


def test_frozen_backbone_is_checkpointed_too() -> None:
    """Its network stays in eval mode, where its experts still train."""
    backbone = make(checkpoint_modules=[PATTERN], freeze_backbone=True)
    calls = count_calls(backbone)
    backbone(make_images(), soft(1)).sum().backward()
    assert calls() == 2


def test_running_statistics_are_updated_once() -> None:
    """Recomputing a block in the backward pass is not another batch."""
    plain, checkpointed = make(), make(checkpoint_modules=[PATTERN])
    for backbone in (plain, checkpointed):
        backbone(make_images(), soft(1)).sum().backward()
    buffers = checkpointed.state_dict()
    for name in dict(plain.named_buffers()):
        torch.testing.assert_close(buffers[name], plain.state_dict()[name], rtol=1e-12, atol=1e-12, msg=name)


def test_checkpoint_files_are_the_same() -> None:
    plain, checkpointed = make(), make(checkpoint_modules=[PATTERN])
    assert list(checkpointed.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        for parameter in checkpointed.parameters():
            parameter.normal_()
    checkpointed.load_state_dict(plain.state_dict())
    for name, value in checkpointed.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    plain.load_state_dict(checkpointed.state_dict())
    checkpointed.net.load_state_dict(NETS["resnet"][0]().state_dict(), strict=False)
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1"):
        checkpointed.load_state_dict({k: v for k, v in plain.state_dict().items() if "layer1" not in k})


def test_paths_are_those_of_the_network() -> None:
    assert list(make(checkpoint_modules=[PATTERN]).adapted) == list(make().adapted)
    one_layer = make(checkpoint_modules=[r"^layer1\.0\.conv1$"])
    assert list(one_layer.adapted) == list(make().adapted)


def test_only_the_outermost_match_is_wrapped() -> None:
    backbone = make(checkpoint_modules=[r"^layer2", r"^layer2\.0$"])
    assert [p for p, m in backbone.net.named_modules() if isinstance(m, CheckpointBoundary)] == ["layer2"]


def test_copies_and_merges() -> None:
    backbone = make(checkpoint_modules=[PATTERN])
    twin = copy.deepcopy(backbone)
    before = gradients(backbone, IDS)
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(twin, IDS), strict=True))
    merged = backbone.merge(expert=1)
    assert not any(isinstance(module, (CheckpointBoundary, AdaptedLayer)) for module in merged.modules())
    assert list(merged.state_dict()) == list(NETS["resnet"][0]().state_dict())
    torch.testing.assert_close(
        merged.eval()(make_images()), backbone.eval()(make_images(), torch.ones(4, dtype=torch.long))
    )


def test_the_networks_own_checkpointing_is_refused() -> None:
    backbone = make("vit")
    backbone.net.set_grad_checkpointing(True)
    with pytest.raises(ConfigError, match="checkpoint_modules"):
        backbone(make_images(), IDS)


def test_a_pattern_without_a_match() -> None:
    with pytest.raises(ConfigError, match=r"'\^block7\$' matches no module; there are .*layer1"):
        make(checkpoint_modules=[PATTERN, r"^block7$"])


def test_a_bad_pattern() -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        make(checkpoint_modules=["layer("])
