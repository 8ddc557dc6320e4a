"""Backbones: every shipped recipe builds, options act or are refused by name."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from mola_lightning import backbones
from mola_lightning.backbones import create_backbone, create_small_resnet
from mola_lightning.core import ConfigError

RECIPES = sorted((Path(__file__).parents[2] / "conf" / "backbone").glob("*.yaml"))


def build(recipe: Path, **options: object) -> nn.Module:
    settings = yaml.safe_load(recipe.read_text())
    factory = getattr(backbones, settings.pop("_target_").removeprefix("mola_lightning.backbones."))
    assert settings.pop("_partial_") is True
    return factory(**{**settings, **options})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_give_pooled_features(recipe: Path) -> None:
    net = build(recipe, in_channels=2, image_size=(32, 48)).eval()
    assert net(torch.randn(2, 2, 32, 48)).shape == (2, net.num_features)


@pytest.mark.parametrize("name", ["resnet10t", "regnetx_002", "efficientnet_lite0"])
def test_feature_map_pools_to_the_features(name: str) -> None:
    pooled, mapped = create_backbone(name).eval(), create_backbone(name, pooled=False).eval()
    mapped.load_state_dict(pooled.state_dict())
    images = torch.randn(2, 3, 64, 32)
    found = mapped(images)
    assert found.shape == (2, mapped.num_features, 2, 1)
    torch.testing.assert_close(found.mean(dim=(2, 3)), pooled(images))


def test_convnext_gives_a_feature_map_of_the_pooled_width() -> None:
    pooled, mapped = create_backbone("convnext_atto"), create_backbone("convnext_atto", pooled=False)
    assert mapped(torch.randn(1, 3, 64, 32)).shape == (1, pooled.num_features, 2, 1)


def test_dilated_stages_are_the_papers() -> None:
    """Stages 3 and 4 keep the resolution; the first 3x3 of each still has the dilation of the stage before."""
    recipe = next(recipe for recipe in RECIPES if recipe.stem == "resnet50_dilated")
    net = build(recipe, pooled=False, image_size=(48, 64)).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 48, 64)).shape == (1, 2048, 6, 8)
    for stage, first, rest in ((net.layer3, 1, 2), (net.layer4, 2, 4)):
        convs = [block.conv2 for block in stage]
        assert [conv.dilation for conv in convs] == [(first, first), *[(rest, rest)] * (len(convs) - 1)]
        assert all(conv.padding == conv.dilation and conv.stride == (1, 1) for conv in convs)
    plain = create_backbone("resnet50")
    net.load_state_dict(plain.state_dict())  # pretrained weights fit


def test_width_is_that_of_what_comes_out() -> None:
    """MobileNetV3 widens its features after pooling."""
    for pooled in (True, False):
        net = create_backbone("mobilenetv3_small_050", image_size=32, pooled=pooled).eval()
        assert net(torch.randn(1, 3, 32, 32)).shape[1] == net.num_features


class TestSmallImages:
    @pytest.mark.parametrize("name", ["resnet18", "resnet10t"])
    def test_resolution_is_kept(self, name: str) -> None:
        usual = create_backbone(name, pooled=False).eval()
        small = create_backbone(name, pooled=False, small_images=True).eval()
        images = torch.randn(1, 3, 32, 32)
        assert usual(images).shape[2:] == (1, 1)
        assert small(images).shape[2:] == (4, 4)

    @pytest.mark.parametrize("name", ["resnet18", "resnet10t"])
    def test_reductions_are_told(self, name: str) -> None:
        net = create_backbone(name, small_images=True).eval()
        sizes: dict[str, int] = {}
        for info in net.feature_info:
            module, key = net.get_submodule(info["module"]), info["module"]
            module.register_forward_hook(lambda _, __, y, key=key: sizes.update({key: y.shape[-1]}))
        net(torch.randn(1, 3, 64, 64))
        assert sizes == {info["module"]: 64 // info["reduction"] for info in net.feature_info}

    def test_other_families(self) -> None:
        with pytest.raises(ConfigError, match=r"ResNet class .*got 'convnext_atto', a ConvNeXt"):
            create_backbone("convnext_atto", small_images=True)


class TestZeroInitLast:
    @pytest.mark.parametrize("name", ["resnet10t", "regnetx_002"])
    def test_every_weight_gets_a_gradient_unless_asked_otherwise(self, name: str) -> None:
        def idle(**options: object) -> list[str]:
            net = create_backbone(name, **options)
            net(torch.randn(2, 3, 64, 64)).square().sum().backward()
            return [key for key, p in net.named_parameters() if not p.grad.any()]

        assert not idle()
        assert idle(zero_init_last=True)

    def test_small_resnet(self) -> None:
        assert not any(not p.any() for n, p in create_small_resnet().named_parameters() if n.endswith("bn2.weight"))
        zeroed = create_small_resnet(zero_init_last=True).named_parameters()
        assert all(not p.any() for n, p in zeroed if n.endswith("bn2.weight"))


class TestSmallResnet:
    def test_about_twenty_thousand_parameters(self) -> None:
        assert 18_000 < sum(p.numel() for p in create_small_resnet().parameters()) < 22_000

    @pytest.mark.parametrize("widths", [(8,), (8, 12), (8, 16, 32), (4, 4, 4, 4)])
    def test_stages(self, widths: tuple[int, ...]) -> None:
        blocks = (2, 1, 1, 1)[: len(widths)]
        net = create_small_resnet(widths, blocks, in_channels=1, pooled=False)
        side = 16 // 2 ** (len(widths) - 1)
        assert net(torch.randn(2, 1, 16, 16)).shape == (2, widths[-1], side, side)
        assert net.num_features == widths[-1]
        assert [info["reduction"] for info in net.feature_info] == [1, *(2**i for i in range(len(widths)))]

    @pytest.mark.parametrize(
        ("widths", "blocks", "message"),
        [
            ((8, 16), (1,), "one entry per stage"),
            ((), (), "one entry per stage"),
            ((8,) * 5, (1,) * 5, "1 to 4 stages"),
            ((8,), (1,), "2 blocks or more"),
            ((7, 16), (1, 1), "first of widths must be even"),
            ((8, 16), (1, 0), ">= 1, got 0"),
        ],
    )
    def test_refuses(self, widths: tuple[int, ...], blocks: tuple[int, ...], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            create_small_resnet(widths, blocks)


class TestErrors:
    def test_unknown_name(self) -> None:
        with pytest.raises(ConfigError, match=r"timm knows no model 'resnett18'; close names: .*resnet18"):
            create_backbone("resnett18")

    def test_unknown_tag(self) -> None:
        with pytest.raises(ConfigError, match=r"timm knows no weights 'resnet18.best'; known: .*resnet18.a1_in1k"):
            create_backbone("resnet18.best")

    def test_unknown_option(self) -> None:
        with pytest.raises(ConfigError, match=r"cannot build 'resnet18' .*'window'"):
            create_backbone("resnet18", window=7)

    def test_patches_that_do_not_tile(self) -> None:
        with pytest.raises(ConfigError, match="patches of 16 x 16 pixels, which do not tile images of 28 x 28"):
            create_backbone("vit_tiny_patch16_224", image_size=28)

    def test_tokens_are_no_feature_map(self) -> None:
        with pytest.raises(ConfigError, match="needs a backbone that gives a feature map"):
            create_backbone("vit_tiny_patch16_224", image_size=32, pooled=False)

    @pytest.mark.parametrize("size", [0, (32,), (32, -1), (32, 32, 3)])
    def test_image_size(self, size: object) -> None:
        with pytest.raises(ConfigError, match="image_size"):
            create_backbone("resnet18", image_size=size)

    def test_pretrained_weights_out_of_reach(self) -> None:
        with pytest.raises(ConfigError, match=r"pretrained weights of 'resnet10t' cannot be had.*checkpoint_path"):
            create_backbone("resnet10t", pretrained=True)
