"""Building sharing schemes: from what, what is refused, and how many experts."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.architectures import HPS, MoLA, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import ConfigError, DataError, Regime, Task, TaskRows
from mola_lightning.routers import ConvRouter, TaskIdRouter

TASKS = [Task("art", 3), Task("clipart", 5), Task("product", 2)]
NAMES = tuple(task.name for task in TASKS)
SHAPE = (3, 16, 16)
WIDTH = 8
SMALL_ROUTER = partial(ConvRouter, widths=(4, 6), blocks=1)
IMAGES = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
DISJOINT = TaskRows.from_task_ids(torch.tensor([2, 0, 1, 0, 2]), NAMES)
PARTIAL = TaskRows(
    {"art": torch.tensor([0, 3]), "clipart": torch.tensor([], dtype=torch.long), "product": torch.arange(4)}, 5
)


def net() -> nn.Module:
    return create_small_resnet((4, WIDTH), (1, 1))


def make_mola(router: type | partial, num_experts: int | None = None) -> MoLA:
    mola = MoLA(TASKS, net(), router, num_experts=num_experts, image_shape=SHAPE).double().eval()
    with torch.no_grad():
        for layer in mola.backbone.adapted.values():
            layer.lora_B.normal_(std=0.3)
    return mola


def test_the_given_module_is_not_changed() -> None:
    given = net()
    keys = list(given.state_dict())
    MoLA(TASKS, given, TaskIdRouter)
    assert list(given.state_dict()) == keys


def test_backbones_from_names_and_factories() -> None:
    seen = {}

    def factory(in_channels: int, image_size: tuple[int, int] | None) -> nn.Module:
        seen.update(in_channels=in_channels, image_size=image_size)
        return create_small_resnet((4, WIDTH), (1, 1), in_channels=in_channels)

    hps = HPS(TASKS, factory, (1, 8, 12))
    assert seen == {"in_channels": 1, "image_size": (8, 12)}
    assert hps(torch.zeros(2, 1, 8, 12), TaskRows.all_rows(2, NAMES)).per_task["art"].shape == (2, WIDTH)
    HPS(TASKS, factory)
    assert seen == {"in_channels": 3, "image_size": None}
    by_name = HPS(TASKS, "test_resnet", (3, 32, 32))
    assert by_name.num_features == by_name.backbone.num_features
    channels = MoLA(TASKS, factory, SMALL_ROUTER, image_shape=(1, 8, 12))
    assert channels.router.conv1.in_channels == 1


def test_dense_features() -> None:
    """A backbone without pooling gives maps, also of absent tasks."""
    dense = create_small_resnet((4, WIDTH), (1, 1), pooled=False)
    for architecture in (HPS(TASKS, dense, SHAPE), SingleTask(TASKS, dense, SHAPE), MoLA(TASKS, dense, TaskIdRouter)):
        features = architecture.double()(IMAGES, PARTIAL).per_task
        assert [tuple(feature.shape) for feature in features.values()] == [(n, WIDTH, 8, 8) for n in (2, 0, 4)]


def test_regimes() -> None:
    for architecture in (HPS(TASKS, net()), SingleTask(TASKS, net()), make_mola(TaskIdRouter)):
        for regime in Regime:
            architecture.check_regime(regime)

    class OneTaskARow(HPS):
        regimes = frozenset({Regime.DOMAINS, Regime.MULTI_INPUT})

    with pytest.raises(ConfigError, match="OneTaskARow is not defined for the single_input .*domains, multi_input"):
        OneTaskARow(TASKS, net()).check_regime(Regime.SINGLE_INPUT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 0}, "num_experts must be an integer >= 1, got 0"),
        ({"single_input": "stack"}, "single_input must be one of 'loop', 'tile', got 'stack'"),
        ({"backbone": 7}, "backbone must be a timm name, a module or a factory, got 7"),
        ({"backbone": nn.Conv2d(3, 4, 1)}, r"num_features.*Conv2d has none\. Set it"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "found twice: art"),
        ({"image_shape": SHAPE, "adapter": partial(AdaptedBackbone, target_modules=["nothing"])}, "matches no"),
    ],
)
def test_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MoLA(**{"tasks": TASKS, "backbone": net(), "router": TaskIdRouter, **settings})


def test_a_network_that_reads_weights_is_found_out_at_once() -> None:
    class Reads(nn.Module):
        num_features = 4

        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.linear(self.used(images).mean((2, 3)), self.unused.weight)

    with pytest.raises(ConfigError, match="never calls these adapted layers.*unused"):
        MoLA(TASKS, Reads(), TaskIdRouter, image_shape=SHAPE)


def test_too_few_experts_for_the_tasks() -> None:
    with pytest.raises(ConfigError, match=r"an expert for each of the 3 tasks, got num_experts=2"):
        make_mola(TaskIdRouter, num_experts=2)


def test_more_experts_than_tasks() -> None:
    """Experts beyond the tasks stay unused under routing by task id, and serve all under a learned router."""
    for router in (TaskIdRouter, SMALL_ROUTER):
        mola = make_mola(router, num_experts=5)
        features = mola(IMAGES, DISJOINT)
        sum(feature.square().sum() for feature in features.per_task.values()).backward()
        gradient = mola.backbone.adapted["conv1"].lora_B.grad
        assert [bool(g.any()) for g in gradient] == [True] * 3 + [router is SMALL_ROUTER] * 2


def test_task_ids_are_needed() -> None:
    mola = make_mola(TaskIdRouter)
    with pytest.raises(ConfigError, match="TaskIdRouter routes by task id"):
        mola.router(IMAGES)
    with pytest.raises(DataError, match="exactly one task"):
        mola.router(IMAGES, TaskRows.all_rows(5, NAMES))
