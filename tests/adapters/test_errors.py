"""What cannot work is refused with what was expected, what was found and what to do."""

import re

import pytest
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.adapters import AdaptedBackbone, inject
from mola_lightning.core import ConfigError, Routing

IMAGES = torch.zeros(2, 3, 8, 8)


class Net(nn.Module):
    """Two convolutions, of which one is depthwise, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.last = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.depthwise(self.first(images)).mean((2, 3)))


@pytest.fixture
def backbone() -> AdaptedBackbone:
    return AdaptedBackbone(Net(), num_experts=3, rank=2)


def test_a_layer_outside_its_backbone(backbone: AdaptedBackbone) -> None:
    for call in (lambda: backbone.net(IMAGES), lambda: backbone.adapted["last"](torch.zeros(2, 4))):
        with pytest.raises(RuntimeError, match=r"Call backbone\(images, routing\)"):
            call()


def test_nothing_stays_bound_after_a_failure(backbone: AdaptedBackbone) -> None:
    with pytest.raises(RuntimeError):
        backbone(torch.zeros(2, 7, 8, 8), torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="no mixing weights"):
        backbone.net(IMAGES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"rank": 2.0}, "rank must be an integer >= 1, got 2.0"),
        ({"num_experts": 0}, "num_experts must be an integer >= 1, got 0"),
        ({"num_experts": True}, "num_experts must be an integer >= 1, got True"),
        ({"kind": "lora"}, "kind must be one of 'reshaped', 'factorised', 'full', got 'lora'"),
        ({"plan": "fast"}, "plan must be one of 'auto', 'low_rank', 'merged', 'dense', got 'fast'"),
        ({"target_modules": ["^layer1"]}, "the pattern '^layer1' matches no Conv2d or Linear layer; there are: first"),
        ({"exclude_modules": ["firts"]}, "the pattern 'firts' matches no"),
        ({"rank_pattern": {"stem": 3}}, "the pattern 'stem' matches no"),
        ({"rank_pattern": {"first": 0}}, "rank must be an integer >= 1, got 0"),
        ({"target_modules": ["first("]}, "'first(' is not a regular expression"),
        ({"target_modules": ["depthwise"]}, "all that matched were skipped"),
        ({"target_modules": ["first"], "exclude_modules": ["first"]}, "no layer was adapted"),
        ({"target_modules": []}, "no layer was adapted"),
    ],
)
def test_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        AdaptedBackbone(Net(), **{"num_experts": 3, **settings})


def test_a_network_without_layers() -> None:
    with pytest.raises(ConfigError, match="no Conv2d or Linear layer"):
        inject(nn.ReLU(), num_experts=2)


@pytest.mark.parametrize("net", [nn.Linear(4, 4), nn.Conv2d(3, 4, 1)], ids=str)
def test_a_layer_that_is_the_whole_network(net: nn.Module) -> None:
    """Nothing could take its place."""
    with pytest.raises(ConfigError, match="Sequential"):
        AdaptedBackbone(net, num_experts=2)


def test_a_network_twice(backbone: AdaptedBackbone) -> None:
    with pytest.raises(ConfigError, match="first is adapted already"):
        AdaptedBackbone(backbone.net, num_experts=3)


class Standardised(nn.Module):
    """Its convolution does not use its weight as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StdConv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.stem(images)


def test_a_layer_type_that_changes_its_weight() -> None:
    with pytest.raises(ConfigError, match=r"stem is a StdConv2d.*Conv2d, Conv2dSame, Linear.*exclude_modules"):
        inject(Standardised(), num_experts=2)


def test_multihead_attention() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(ConfigError, match=r"self_attn.out_proj belongs to nn.MultiheadAttention") as error:
        inject(net, num_experts=2)
    advice = re.search(r"exclude_modules=\[r'(.*?)'\]", str(error.value))
    report = inject(net, num_experts=2, exclude_modules=[advice[1]])
    assert set(report.adapted) == {"linear1", "linear2"}


class Reads(nn.Module):
    """Reads the weight of a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(self.used(images).mean((2, 3)), self.unused.weight)


def test_a_layer_that_is_never_called() -> None:
    backbone = AdaptedBackbone(Reads(), num_experts=2).train()
    with pytest.raises(ConfigError, match=r"never calls.*: unused\. Leave them out with exclude_modules"):
        backbone.check_reached(IMAGES)
    assert backbone.training
    AdaptedBackbone(Reads(), num_experts=2, exclude_modules=["unused"]).check_reached(IMAGES)


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        (torch.zeros(2, 4), "mixing weights must be (B, E) = (2, 3), got (2, 4)"),
        (torch.zeros(1, 3), "mixing weights must be (B, E) = (2, 3), got (1, 3)"),
        (torch.zeros(3), "mixing weights must be (B, E) = (2, 3), got (3,)"),
        (torch.zeros(3, dtype=torch.long), "expert ids must be (B,) = (2,), got (3,)"),
        (torch.zeros(2, 3, dtype=torch.long), "expert ids must be (B,) = (2,), got (2, 3)"),
        (torch.tensor([0, 3]), "expert ids must lie in 0..2, got 3"),
        (torch.tensor([0, 3], dtype=torch.uint8), "expert ids must lie in 0..2, got 3"),
        (
            torch.tensor([True, False]),
            "a routing must be mixing weights (B, E), floating, or expert ids (B,), integer; got bool",
        ),
        (torch.tensor([-1, 0]), "expert ids must lie in 0..2, got -1"),
        (Routing(mixing=torch.zeros(2, 2)), "mixing weights must be (B, E) = (2, 3), got (2, 2)"),
    ],
)
def test_routings(backbone: AdaptedBackbone, routing: Tensor | Routing, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        backbone(IMAGES, routing)


def test_a_routing_needs_something() -> None:
    with pytest.raises(ConfigError, match="mixing weights"):
        Routing(logits=torch.zeros(2, 3))


def test_rows_that_do_not_fit() -> None:
    """A layer whose input holds other rows than the batch's."""

    class Pools(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images).mean((2, 3))[:1])

    with pytest.raises(ConfigError, match="got 1 rows where the routing has 2.*exclude_modules"):
        AdaptedBackbone(Pools(), num_experts=3)(IMAGES, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "merge takes either"),
        ({"expert": 1, "mixing": torch.ones(3)}, "merge takes either"),
        ({"expert": 3}, "expert must lie in 0..2, got 3"),
        ({"expert": -1}, "expert must lie in 0..2, got -1"),
        ({"mixing": torch.ones(2)}, "mixing"),
        ({"mixing": torch.ones(2, 3)}, "mixing"),
    ],
    ids=str,
)
def test_merge(backbone: AdaptedBackbone, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        backbone.merge(**arguments)


@pytest.mark.parametrize("expert", [3, -1])
def test_delta(backbone: AdaptedBackbone, expert: int) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"expert must lie in 0..2, got {expert}")):
        backbone.adapted["first"].delta(expert)


def test_a_plan_that_cannot_run() -> None:
    grouped = AdaptedBackbone(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), num_experts=3, plan="low_rank")
    with pytest.raises(ConfigError, match=r"plan='low_rank' cannot run.*groups=2.*possible here: .*dense"):
        grouped(torch.zeros(2, 4, 5, 5), torch.zeros(2, 3))
