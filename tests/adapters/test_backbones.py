"""Experts inside real backbones: what must hold whatever the network, the kind of expert and the plan."""

import copy
from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone, AdaptedLayer, Mixing, reference_forward
from mola_lightning.adapters.kinds import ADAPTER_PARAMETERS
from mola_lightning.adapters.plans import PLANS
from mola_lightning.backbones import create_backbone

EXPERTS = 3
SIZES = {
    "resnet18": 32,
    "resnet50": 32,
    "convnext_atto": 32,
    "vit_tiny_patch16_224": 32,
    "tf_efficientnet_lite0": 32,
}
# Blocks that a network repeats are there fewer times, and of half the width; test_layers.py has layers of every shape.
OPTIONS = {
    "resnet18": {"channels": (32, 64, 128, 256)},
    "resnet50": {"layers": (2, 2, 1, 1), "channels": (32, 64, 128, 256)},
    "convnext_atto": {
        "depths": (1, 1, 2, 1),
        "ls_init_value": 1.0,  # 1e-6, as it starts with, would hide whatever the experts do
    },
    "vit_tiny_patch16_224": {"depth": 4},
}
CASES = [(name, kind) for name in SIZES for kind in ("reshaped", "factorised")]
CASES += [("resnet18", "full"), ("tf_efficientnet_lite0", "full")]
ADDING = {"reshaped": "low_rank", "factorised": "low_rank", "full": "dense"}
IDS = torch.tensor([2, 0, 2, 0])  # an expert twice, one absent
RELATIVE = 1e-10  # float64


@lru_cache(maxsize=1)  # tests come ordered by network
def _built(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_backbone(name, image_size=SIZES[name], **OPTIONS.get(name, {}))


def make_net(name: str) -> nn.Module:
    """Always with the same weights: drawing them takes longer than to copy them."""
    return copy.deepcopy(_built(name))


def experts_of(backbone: AdaptedBackbone) -> list[nn.Parameter]:
    return [p for name, p in backbone.named_parameters() if name.rpartition(".")[2] in ADAPTER_PARAMETERS]


def make_images(name: str, rows: int = 4) -> Tensor:
    size = SIZES[name]
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def randomise(backbone: AdaptedBackbone) -> AdaptedBackbone:
    """Give every expert a delta of half the size of the weight that it changes."""
    for layer in backbone.adapted.values():
        last = layer.expert_weight if layer.kind_name == "full" else layer.lora_B
        last.normal_()
        last *= 0.5 * layer.weight.norm() / layer.delta(0).norm()
    return backbone


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def backbone(case: tuple[str, str]) -> AdaptedBackbone:
    """With random experts, in float64, in eval mode; tests leave it as it is."""
    name, kind = case
    torch.manual_seed(0)
    return randomise(AdaptedBackbone(make_net(name), EXPERTS, rank=2, kind=kind)).double().eval()


@pytest.fixture(scope="module")
def images(case: tuple[str, str]) -> Tensor:
    return make_images(case[0]).double()


@pytest.fixture(scope="module")
def mixing() -> Tensor:
    return torch.rand(len(IDS), EXPERTS, generator=torch.Generator().manual_seed(2)).double()


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_close(found: Tensor, wanted: Tensor, relative: float = RELATIVE) -> None:
    error = (found - wanted).abs().max() / wanted.abs().max()
    assert error < relative, f"relative error {error:.1e}"


def test_experts_matter(backbone: AdaptedBackbone, images: Tensor) -> None:
    """Or all other tests would prove nothing."""
    one, other = (backbone(images, torch.full((len(images),), e)) for e in (0, 1))
    assert (one - other).norm() > 1e-2 * one.norm()


def test_untrained_experts_change_nothing(case: tuple[str, str]) -> None:
    """Bit for bit where the experts' part is added to the plain product; to rounding where a plan may run the rows in
    other groups, as ``merged`` plans and hard mixing do.
    """
    name, kind = case
    net = make_net(name).eval()
    adding = AdaptedBackbone(copy.deepcopy(net), EXPERTS, rank=2, kind=kind, plan=ADDING[kind]).eval()
    free = AdaptedBackbone(copy.deepcopy(net), EXPERTS, rank=2, kind=kind).eval()
    images = make_images(name)
    plain, mixing = net(images), torch.rand(len(images), EXPERTS)
    assert torch.equal(adding(images, mixing), plain)
    assert_close(free(images, mixing), plain, 1e-5)
    assert_close(free(images, IDS), plain, 1e-5)


@pytest.mark.parametrize("form", ["soft", "hard"])
def test_a_mixed_batch_is_its_rows_one_by_one(
    backbone: AdaptedBackbone, images: Tensor, mixing: Tensor, form: str
) -> None:
    routing = mixing if form == "soft" else IDS
    alone = torch.cat([backbone(images[b : b + 1], routing[b : b + 1]) for b in range(len(images))])
    assert_close(backbone(images, routing), alone)


def test_ids_are_one_hot_mixing(backbone: AdaptedBackbone, images: Tensor) -> None:
    one_hot = nn.functional.one_hot(IDS, EXPERTS).double()
    assert_close(backbone(images, IDS), backbone(images, one_hot))


def test_every_plan_is_the_reference(backbone: AdaptedBackbone, images: Tensor, mixing: Tensor) -> None:
    """Layer by layer, on the inputs that the network gives it; of layers with equal shapes one."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, path=path: inputs.__setitem__(path, args[0]))
        for path, layer in backbone.adapted.items()
    ]
    backbone(images, mixing)
    for hook in hooks:
        hook.remove()
    assert set(inputs) == set(backbone.adapted)
    ids, sizes = IDS.sort().values, tuple(torch.bincount(IDS, minlength=EXPERTS).tolist())
    one_hot = nn.functional.one_hot(ids, EXPERTS).double()
    forms = [
        (Mixing(EXPERTS, weights=mixing), mixing),
        (Mixing(EXPERTS, expert_ids=ids), one_hot),
        (Mixing(EXPERTS, expert_ids=ids, group_sizes=sizes), one_hot),
    ]
    ran = set()
    different = {(layer.extra_repr(), inputs[path].shape): path for path, layer in backbone.adapted.items()}
    for path in different.values():
        layer, x = backbone.adapted[path], inputs[path]
        for form, weights in forms:
            wanted = reference_forward(layer, x, weights)
            for plan in PLANS:
                if plan.available(layer, form):
                    assert_close(plan.run(layer, layer.prepare(x), form), wanted)
                    ran.add(type(plan).__name__)
    assert ran >= {"Merged", "Dense"}
    if layer.kind_name != "full":
        linear = {"SharedProduct"} if all(layer.weight.ndim == 4 for layer in backbone.adapted.values()) else set()
        assert ran == {type(plan).__name__ for plan in PLANS} - linear


def test_merged_weights_are_the_mixture(backbone: AdaptedBackbone, images: Tensor, mixing: Tensor) -> None:
    plain = backbone.merge(expert=1)
    assert not any(isinstance(module, AdaptedLayer) for module in plain.modules())
    assert_close(plain(images), backbone(images, torch.ones(len(images), dtype=torch.long)))
    one_mixing = mixing[0]
    assert_close(backbone.merge(mixing=one_mixing)(images), backbone(images, one_mixing.expand(len(images), -1)))


def test_merge_restores_the_layer_types(case: tuple[str, str], backbone: AdaptedBackbone) -> None:
    plain, merged = make_net(case[0]), backbone.merge(expert=0)
    assert [(n, type(m)) for n, m in merged.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    assert list(merged.state_dict()) == list(plain.state_dict())


def test_plain_weights_load(case: tuple[str, str], backbone: AdaptedBackbone) -> None:
    net = make_net(case[0]).double()
    adapted = copy.deepcopy(backbone)
    result = adapted.net.load_state_dict(net.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {key.rpartition(".")[2] for key in result.missing_keys} <= set(ADAPTER_PARAMETERS)
    found = adapted.net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())


def test_a_copy_is_independent(backbone: AdaptedBackbone, images: Tensor, mixing: Tensor) -> None:
    before = backbone(images, mixing)
    twin = copy.deepcopy(backbone)
    assert torch.equal(twin(images, mixing), before)
    scopes = {id(layer.scope) for layer in twin.adapted.values()}
    assert scopes == {id(twin.scope)}
    assert twin.scope is not backbone.scope
    for parameter in experts_of(twin):
        parameter.zero_()
    with backbone.scope.bind(Mixing(EXPERTS, weights=torch.zeros_like(mixing))):
        assert not torch.equal(twin(images, mixing), before)
    assert torch.equal(backbone(images, mixing), before)


def test_frozen_backbone(case: tuple[str, str]) -> None:
    """Only the experts train, and running statistics stand still in training, whoever calls ``train`` or does not."""
    name, kind = case
    backbone = AdaptedBackbone(make_net(name).train(), EXPERTS, rank=2, kind=kind, freeze_backbone=True)
    names = {n.rpartition(".")[2] for n, p in backbone.named_parameters() if p.requires_grad}
    assert names <= set(ADAPTER_PARAMETERS)
    trained = {id(p) for p in backbone.parameters() if p.requires_grad}
    assert trained == {id(p) for p in experts_of(backbone)}
    buffers = copy.deepcopy(dict(backbone.named_buffers()))
    for frozen in (backbone, backbone.train()):
        with torch.enable_grad():
            frozen(make_images(name), torch.rand(4, EXPERTS)).sum().backward()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in backbone.named_buffers())
    assert all(p.grad is not None for p in experts_of(backbone))
    assert all(p.grad is None for p in backbone.parameters() if not p.requires_grad)


@pytest.mark.parametrize("name", ["convnext_atto", "tf_efficientnet_lite0"])
def test_depthwise_convolutions_are_reported(name: str) -> None:
    net = make_net(name)
    depthwise = {p for p, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
    report = AdaptedBackbone(copy.deepcopy(net), EXPERTS).report
    assert set(report.skipped) == depthwise
    assert all("depthwise" in reason for reason in report.skipped.values())
    assert depthwise.isdisjoint(report.adapted)
    assert depthwise <= set(AdaptedBackbone(net, EXPERTS, kind="full").report.adapted)


@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize("form", ["soft", "hard", "hard without counts"])
def test_windows_folded_into_the_batch(kind: str, form: str) -> None:
    """Swin runs its attention on (rows x windows, tokens, width): each window mixes as the row that it came from."""
    net = SwinTransformer(
        img_size=56, patch_size=4, window_size=7, embed_dim=24, depths=(2, 1), num_heads=(2, 2), num_classes=0
    )
    backbone = randomise(AdaptedBackbone(net, EXPERTS, rank=2, kind=kind)).double().eval()
    assert any("attn.qkv" in path for path in backbone.adapted)
    images = torch.randn(4, 3, 56, 56).double()
    routing = torch.rand(4, EXPERTS).double() if form == "soft" else IDS
    alone = torch.cat([backbone(images[b : b + 1], routing[b : b + 1]) for b in range(4)])
    if form == "hard without counts":  # as inside a compiled graph, or on a device
        with backbone.scope.bind(Mixing(EXPERTS, expert_ids=IDS)):
            together = backbone.net(images)
    else:
        together = backbone(images, routing)
    assert_close(together, alone)
