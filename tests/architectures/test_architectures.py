"""Sharing schemes in all three regimes: features aligned with rows, absent tasks, and what equals what."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.adapters.kinds import ADAPTER_PARAMETERS
from mola_lightning.architectures import HPS, Architecture, MoLA, SingleTask
from mola_lightning.architectures.mola import cut_at_adapters
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Task, TaskRows
from mola_lightning.routers import ConvRouter, HardRouter, Router, TaskIdRouter, TopKRouter, UniformRouter

TASKS = [Task("art", 3), Task("clipart", 5), Task("product", 2)]
NAMES = tuple(task.name for task in TASKS)
SHAPE = (3, 16, 16)
WIDTH = 8
SMALL = {"widths": (4, 6), "blocks": 1}
ROUTERS: dict[str, type[Router] | partial] = {
    "mola_grad": TaskIdRouter,
    "mola_router": partial(ConvRouter, **SMALL),
    "mola_hard_router": partial(HardRouter, **SMALL),
    "mola_top_k_router": partial(TopKRouter, **SMALL),
    "mola_uniform": UniformRouter,
}
LEARNED = ("mola_router", "mola_hard_router", "mola_top_k_router")
METHODS = ["hps", "single_task", *ROUTERS]
REGIMES = {
    "disjoint": TaskRows.from_task_ids(torch.tensor([2, 0, 1, 0, 2]), NAMES),
    "disjoint, one task absent": TaskRows.from_task_ids(torch.tensor([2, 0, 2, 0, 2]), NAMES),
    "disjoint, one task alone": TaskRows.from_task_ids(torch.tensor([1, 1, 1, 1, 1]), NAMES),
    "all rows": TaskRows.all_rows(5, NAMES),
    "partial": TaskRows({"art": torch.tensor([0, 3]), "clipart": torch.tensor([3]), "product": torch.arange(4)}, 5),
    "partial, one task absent": TaskRows(
        {"art": torch.tensor([0, 3]), "clipart": torch.tensor([], dtype=torch.long), "product": torch.arange(4)}, 5
    ),
}


def net() -> nn.Module:
    return create_small_resnet((4, WIDTH), (1, 1))


def make(method: str, seed: int = 0, random_experts: bool = True, **settings: object) -> Architecture:
    """In float64, in eval mode, with experts that matter."""
    torch.manual_seed(seed)
    if method in ("hps", "single_task"):
        return (HPS if method == "hps" else SingleTask)(TASKS, net(), SHAPE).double().eval()
    mola = MoLA(TASKS, net(), ROUTERS[method], image_shape=SHAPE, **settings).double().eval()
    if random_experts:
        with torch.no_grad():
            for layer in mola.backbone.adapted.values():
                layer.lora_B.normal_(std=0.3)
    return mola


def make_images(rows: int = 5) -> Tensor:
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(1)).double()


def alone(architecture: Architecture, image: Tensor, name: str) -> Tensor:
    """Features of one image as its task's only row."""
    rows = TaskRows.from_task_ids(torch.tensor([NAMES.index(name)]), NAMES)
    return architecture(image[None], rows).per_task[name][0]


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("method", METHODS)
def test_features_belong_to_their_rows(method: str, regime: str) -> None:
    """Each row's features for each of its tasks are those that it has alone."""
    architecture, rows, images = make(method), REGIMES[regime], make_images()
    with torch.no_grad():
        features = architecture(images, rows)
        assert tuple(features.per_task) == NAMES
        for name in NAMES:
            found = features.per_task[name]
            assert found.shape == (rows.counts[name], WIDTH)
            for row, feature in zip(rows[name], found, strict=True):
                torch.testing.assert_close(feature, alone(architecture, images[row], name), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("regime", ["disjoint, one task absent", "partial, one task absent"])
@pytest.mark.parametrize("method", METHODS)
def test_absent_tasks_train_without_nan(method: str, regime: str) -> None:
    architecture, rows = make(method).train(), REGIMES[regime]
    features = architecture(make_images(), rows)
    loss = sum(feature.square().sum() for feature in features.per_task.values())
    loss.backward()
    gradients = [p.grad for p in architecture.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_targets(method: str) -> None:
    """No row belongs to any task: features of 0 rows each."""
    rows = TaskRows({name: torch.tensor([], dtype=torch.long) for name in NAMES}, 2)
    features = make(method)(make_images(2), rows).per_task
    assert [feature.shape[0] for feature in features.values()] == [0, 0, 0]


def test_experts_matter() -> None:
    """Or the tests around would prove nothing: one image has other features for each task under MoLA-Grad."""
    features = make("mola_grad")(make_images(1), TaskRows.all_rows(1, NAMES)).per_task
    assert (features["art"] - features["clipart"]).norm() > 1e-2 * features["art"].norm()


@pytest.mark.parametrize("regime", REGIMES)
def test_loop_is_tile(regime: str) -> None:
    """In eval mode. In training the statistics of a pass differ."""
    loop, tile = make("mola_grad"), make("mola_grad", single_input="tile")
    rows, images = REGIMES[regime], make_images()
    one, other = loop(images, rows), tile(images, rows)
    for name in NAMES:
        torch.testing.assert_close(one.per_task[name], other.per_task[name], rtol=1e-9, atol=1e-11)
    if not rows.disjoint:
        assert one.routed is not None
        for features in (one, other):
            assert torch.equal(features.routing.expert_ids, rows.queries[1])
            assert torch.equal(features.routed.task_ids, rows.queries[1])
    else:
        assert one.routed is None
        assert torch.equal(one.routing.expert_ids, rows.task_ids)


def late_experts(**settings: object) -> Architecture:
    """MoLA-Grad with experts in the last stage only."""
    return make("mola_grad", adapter=partial(AdaptedBackbone, target_modules=["^layer2"]), **settings)


def counted_runs(layer: nn.Module) -> list[int]:
    """The number of rows of each run of a layer, filled as it runs."""
    runs: list[int] = []
    layer.register_forward_hook(lambda _, inputs, __: runs.append(len(inputs[0])))
    return runs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("regime", ["all rows", "partial", "partial, one task absent"])
def test_what_all_passes_of_a_loop_share_runs_once(
    regime: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features and gradients are those of passes of the whole network."""
    once, loop, rows = late_experts().train(training), late_experts().train(training), REGIMES[regime]
    stem, last = counted_runs(once.backbone.net.conv1), counted_runs(once.backbone.adapted["layer2.0.conv1"])
    outputs = [once(make_images(), rows).per_task]
    monkeypatch.setattr("mola_lightning.architectures.mola.cut_at_adapters", lambda _: None)
    outputs.append(loop(make_images(), rows).per_task)
    for name in NAMES:
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=1e-9, atol=1e-11)
    for features in outputs:
        sum((t + 1) * feature.square().sum() for t, feature in enumerate(features.values())).backward()
    for one, other in zip(once.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-10)
    each = [count for count in rows.counts.values() if count]
    # in training the rows of a pass share the statistics of norms, and these tasks have different rows
    assert stem == (each if training and regime != "all rows" else [5])
    assert last == each


def test_norms_before_the_experts_count_a_batch_once() -> None:
    mola = late_experts().train()
    mola(make_images(), REGIMES["all rows"])
    assert mola.backbone.net.bn1.num_batches_tracked == 1
    assert mola.backbone.net.layer2[0].bn1.num_batches_tracked == len(NAMES)


def test_a_norm_that_was_replaced_runs() -> None:
    """As for training on several processes."""
    mola, rows = late_experts(), REGIMES["all rows"]
    before = mola(make_images(), rows).per_task["art"]
    mola.backbone.net.bn1 = nn.Identity()
    assert not before.equal(mola(make_images(), rows).per_task["art"])


@pytest.mark.parametrize("settings", [{}, {"target_modules": ["layer2"], "checkpoint_modules": ["layer2"]}])
def test_nothing_runs_once_where_the_first_layer_has_experts_or_blocks_are_recomputed(settings: dict) -> None:
    assert cut_at_adapters(make("mola_grad", adapter=partial(AdaptedBackbone, **settings)).backbone) is None
    assert cut_at_adapters(late_experts().backbone) is not None


def test_loop_normalises_each_task_by_itself() -> None:
    """One pass a task: its batch statistics are those of its own rows."""
    loop, images = make("mola_grad").train(), make_images()
    rows = TaskRows(
        {"art": torch.tensor([0, 1, 2]), "clipart": torch.tensor([2, 3, 4]), "product": torch.tensor([0])}, 5
    )
    together = loop(images, rows).per_task["art"]
    only = TaskRows.from_task_ids(torch.zeros(3, dtype=torch.long), NAMES)
    torch.testing.assert_close(together, loop(images[:3], only).per_task["art"], rtol=1e-9, atol=1e-11)
    tiled = make("mola_grad", single_input="tile").train()(images, rows).per_task["art"]
    assert (together - tiled).abs().max() > 1e-3


@pytest.mark.parametrize("regime", ["disjoint", "all rows", "partial, one task absent"])
@pytest.mark.parametrize("method", ROUTERS)
def test_untrained_mola_is_hps(method: str, regime: str) -> None:
    """Experts start as no change, so with equal weights the features are those of one shared backbone."""
    mola, hps = make(method, random_experts=False), make("hps", seed=5)
    missing = mola.backbone.net.load_state_dict(hps.backbone.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert {key.rpartition(".")[2] for key in missing.missing_keys} == {"lora_A", "lora_B"}
    rows, images = REGIMES[regime], make_images()
    one, other = mola(images, rows).per_task, hps(images, rows).per_task
    for name in NAMES:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_an_experts_gradients(method: str) -> None:
    """MoLA-Grad: the loss of a task reaches no expert but its own (in training batch statistics, which rows share,
    carry a little of it to others). Soft routers: it reaches all.
    """
    architecture = make(method).train()
    for module in architecture.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    features = architecture(make_images(), REGIMES["disjoint"])
    features.per_task["clipart"].square().sum().backward()
    if method == "single_task":
        reached = {n.split(".")[1] for n, p in architecture.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == {"clipart"}
    elif method == "mola_grad":
        for layer in architecture.backbone.adapted.values():
            assert [bool(gradient.any()) for gradient in layer.lora_B.grad] == [False, True, False]
    elif method in ("mola_router", "mola_uniform"):
        for layer in architecture.backbone.adapted.values():
            assert all(gradient.any() for gradient in layer.lora_B.grad)
    if method in LEARNED:
        assert architecture.router.conv1.weight.grad.any()


@pytest.mark.parametrize("method", METHODS)
def test_method_labels(method: str) -> None:
    architecture = make(method)
    assert architecture.method == method
    assert architecture.num_features == WIDTH
    assert architecture.num_experts == (len(TASKS) if method in ROUTERS else 0)
    assert architecture.learned_logits is (method in LEARNED)


@pytest.mark.parametrize("method", METHODS)
def test_shared_parameters(method: str) -> None:
    """What several tasks pull on: under routing by task id an expert is its task's own."""
    architecture = make(method)
    names = {id(p): n for n, p in architecture.named_parameters()}
    shared = [names[id(p)] for p in architecture.shared_parameters()]
    experts = [name for name in names.values() if name.rpartition(".")[2] in ADAPTER_PARAMETERS]
    if method == "single_task":
        assert shared == []
    elif method == "mola_grad":
        assert experts
        assert set(shared) == set(names.values()) - set(experts)
    else:
        assert set(shared) == set(names.values())
    assert len(shared) == len(set(shared))


def test_frozen_parameters_are_not_shared() -> None:
    adapter = partial(AdaptedBackbone, freeze_backbone=True)
    assert make("mola_grad", adapter=adapter).shared_parameters() == []
    router = make("mola_router", adapter=adapter)
    components = {n: router.component_of(n) for n, _ in router.named_parameters()}
    shared = {id(p) for p in router.shared_parameters()}
    assert {components[n] for n, p in router.named_parameters() if id(p) in shared} == {"adapters", "router"}


def test_components() -> None:
    mola = make("mola_router")
    counted = {"backbone": 0, "adapters": 0, "router": 0}
    for name, parameter in mola.named_parameters():
        counted[mola.component_of(name)] += parameter.numel()
    assert counted["backbone"] == sum(p.numel() for p in net().parameters())
    assert counted["router"] == sum(p.numel() for p in mola.router.parameters())
    assert counted["adapters"] == sum(p.numel() for p in mola.backbone.parameters()) - counted["backbone"]


def test_single_task_backbones_are_separate() -> None:
    architecture = make("single_task").train()
    weights = [backbone.conv1.weight for backbone in architecture.backbones.values()]
    assert len({weight.data_ptr() for weight in weights}) == 3
    assert torch.equal(weights[0], weights[1])  # copies of the module that was given
    before = copy.deepcopy(architecture.backbones["clipart"].state_dict())
    architecture(make_images(), REGIMES["disjoint, one task absent"])
    after = architecture.backbones["clipart"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())  # its norm statistics stand
