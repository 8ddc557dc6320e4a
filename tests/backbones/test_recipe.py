"""Backbones made again from what they say of how they were made."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mola_lightning.backbones import Recipe, create_backbone, create_small_resnet
from mola_lightning.core import ConfigError


@pytest.mark.parametrize(
    "make",
    [
        create_small_resnet,
        partial(create_small_resnet, (4, 6), (2, 1), in_channels=1),
        partial(create_small_resnet, (4, 6, 6, 8), (1, 1, 1, 1)),
        partial(create_backbone, "test_resnet", small_images=True),
        partial(create_backbone, "resnet10t", small_images=True, in_channels=1),
        partial(create_backbone, "test_vit", image_size=(32, 16)),
        partial(create_backbone, "test_convnext", drop_path_rate=0.1),
        partial(create_backbone, "test_efficientnet", pooled=False, output_stride=16),
    ],
)
def test_timm_makes_it_again(make: Callable[..., Any]) -> None:
    net = make().eval()
    recipe = Recipe(**json.loads(json.dumps(net.recipe.plain())))
    again = recipe.build().eval()
    again.load_state_dict(net.state_dict())
    channels = getattr(make, "keywords", {}).get("in_channels", 3)
    height, width = getattr(make, "keywords", {}).get("image_size", (32, 32))
    images = torch.rand(2, channels, height, width)
    torch.testing.assert_close(again(images), net(images), rtol=0, atol=0)


def test_what_is_no_plain_value_has_no_recipe() -> None:
    assert create_backbone("test_resnet", act_layer=nn.SiLU).recipe is None


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [("no_such_model", {}), ("hf-hub:somebody/model", {}), ("test_resnet", {"checkpoint_path": "weights.pt"})],
)
def test_recipes_that_nobody_exported(model: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="a description of a backbone has"):
        Recipe(model, kwargs).build()
