"""Where each sharing scheme falls back to a simpler one: hard parameter sharing, single-task learning."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.architectures import (
    CGC,
    HPS,
    MTAN,
    PLE,
    Architecture,
    CrossStitch,
    DSelectK,
    HPSDomainNorm,
    HPSWide,
    MMoE,
    MoLA,
    SingleTask,
)
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Task, TaskRows
from mola_lightning.routers import ConvRouter, TaskIdRouter
from mola_lightning.training import MultiTaskModule
from mola_lightning.training.parameters import count_multiply_adds, count_parameters

SHAPE = (3, 12, 12)
NAMES = ("a", "b", "c")
TASKS = tuple(Task(name, 2) for name in NAMES)
BACKBONE = partial(create_small_resnet, widths=(4, 6), blocks=(2, 1))
MIXED = TaskRows.from_task_ids(torch.tensor([0, 1, 2, 0, 1, 1, 0, 2]), NAMES)


def batch() -> Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(3))


def force(layer: nn.Module, bias: Sequence[float]) -> None:
    """Make a linear layer answer ``bias`` whatever it reads."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(bias))


def same_as(net: nn.Module, architecture: Architecture, training: bool = False) -> None:
    """The features of every task are those of ``net`` on the whole batch, then its rows."""
    wanted = net.train(training)(batch())
    per_task = architecture.train(training)(batch(), MIXED).per_task
    for name in NAMES:
        torch.testing.assert_close(per_task[name], wanted[MIXED[name]])


def whole(trunk: nn.Module, expert: nn.Module) -> nn.Module:
    return nn.Sequential(trunk, *(expert if isinstance(expert, nn.ModuleList) else [expert]))


# ------------------------------------------------------------------------------------------- the limits that are HPS


@pytest.mark.parametrize("share_until", [0, 2])
@pytest.mark.parametrize("scheme", [MMoE, partial(DSelectK, num_selected=1)], ids=["mmoe", "dselect_k"])
def test_one_expert_is_hps(scheme: Any, share_until: int) -> None:
    architecture = scheme(TASKS, BACKBONE, num_experts=1, share_until=share_until, image_shape=SHAPE)
    same_as(whole(architecture.trunk, architecture.experts[0]), architecture, training=True)


def test_all_weight_on_one_expert_is_hps() -> None:
    architecture = MMoE(TASKS, BACKBONE, num_experts=3, image_shape=SHAPE)
    for gate in architecture.gates:
        force(gate.linear, [-1e4, 0, -1e4])
    same_as(whole(architecture.trunk, architecture.experts[1]), architecture)


@pytest.mark.parametrize("scheme", [CGC, PLE, partial(PLE, share_until=1)], ids=["cgc", "ple", "ple_trunk"])
def test_all_weight_on_the_shared_experts_is_hps(scheme: Any) -> None:
    architecture = scheme(TASKS, BACKBONE, image_shape=SHAPE)
    for module in architecture.modules():
        if isinstance(module, nn.Linear):  # shared experts come last in every gate
            force(module, [*[-1e4] * (module.out_features - 1), 0])
    same_as(whole(architecture.trunk, architecture.experts[0]), architecture)


def test_all_weight_on_own_experts_is_single_task() -> None:
    for architecture in (CGC(TASKS, BACKBONE, image_shape=SHAPE), PLE(TASKS, BACKBONE, image_shape=SHAPE)):
        for name, module in architecture.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("shared_gates"):
                force(module, [0, *[-1e4] * (module.out_features - 1)])
        features = architecture.eval()(batch(), MIXED).per_task
        for t, name in enumerate(NAMES):
            own = whole(architecture.trunk, architecture.experts[1 + t]).eval()
            torch.testing.assert_close(features[name], own(batch())[MIXED[name]])


def test_one_level_of_ple_is_cgc() -> None:
    ple = PLE(TASKS, BACKBONE, num_shared=2, share_until=2, image_shape=SHAPE).eval()
    cgc = CGC(TASKS, BACKBONE, num_shared=2, share_until=2, gate_input=1, image_shape=SHAPE).eval()
    cgc.trunk = ple.trunk
    cgc.experts = nn.ModuleList(expert[0] for expert in ple.experts)
    hidden = ple.trunk(batch())
    for t, name in enumerate(NAMES):
        weights = ple.gates[0][t](hidden[MIXED[name]])  # PLE's gates read the representation, CGC's the image
        outputs = [cgc.experts[e](hidden[MIXED[name]]) for e in (2 + t, 0, 1)]
        wanted = sum(weights[:, [i]] * output for i, output in enumerate(outputs))
        torch.testing.assert_close(ple(batch(), MIXED).per_task[name], wanted)


def test_identity_units_are_single_task() -> None:
    architecture = CrossStitch(TASKS, BACKBONE, alpha_same=1.0, image_shape=SHAPE).eval()
    single = SingleTask(TASKS, BACKBONE, SHAPE).eval()
    for branch, net in zip(architecture.branches, single.backbones.values(), strict=True):
        for mine, theirs in zip(branch.state_dict().values(), net.state_dict().values(), strict=True):
            mine.copy_(theirs)
    wanted = single(batch(), MIXED).per_task
    for name, found in architecture(batch(), MIXED).per_task.items():
        torch.testing.assert_close(found, wanted[name])


def test_open_masks_are_hps() -> None:
    architecture = MTAN(TASKS, BACKBONE, SHAPE)
    for module in architecture.attention.modules():
        if isinstance(module, nn.BatchNorm2d):
            force(module, [50.0] * module.num_features)
    parts = [half for stage in architecture.stages for half in stage]
    same_as(nn.Sequential(architecture.stem, *parts, architecture.head), architecture, training=True)


def test_masks_multiply_features_of_the_stage() -> None:
    """Closed masks at the last stage: nothing passes, whatever comes before."""
    architecture = MTAN(TASKS, BACKBONE, SHAPE).eval()
    for module in architecture.attention[1][-1].mask.modules():
        if isinstance(module, nn.BatchNorm2d):
            force(module, [-200.0] * module.num_features)
    features = architecture(batch(), MIXED).per_task
    assert not features["b"].any()
    assert features["a"].any()


def test_norms_of_one_task_are_hps() -> None:
    """Norms start equal: HPS in evaluation; in training each task is normalised as if alone in the batch."""
    torch.manual_seed(1)
    net = HPS(TASKS, BACKBONE, SHAPE).backbone
    architecture = HPSDomainNorm(TASKS, net, SHAPE)
    same_as(net, architecture)
    features = architecture.train()(batch(), MIXED).per_task
    for name in NAMES:
        torch.testing.assert_close(features[name], net.train()(batch()[MIXED[name]]))


def test_single_pixels_are_normalised_by_running_statistics() -> None:
    architecture = HPSDomainNorm(TASKS, BACKBONE, SHAPE).train()
    rows = TaskRows.from_task_ids(torch.tensor([0, 1, 1, 0]), NAMES)
    one = TaskRows.from_task_ids(torch.tensor([0, 1, 1]), NAMES)
    tiny = torch.randn(4, 3, 1, 1)
    assert all(f.isfinite().all() for f in architecture(tiny, rows).per_task.values())
    before = {key: value.clone() for key, value in architecture.named_buffers()}
    architecture(tiny[:3], one)
    changed = {key.split("norms.")[1][0] for key, v in architecture.named_buffers() if not torch.equal(v, before[key])}
    assert changed == {"1"}
    assert architecture.training
    assert all(module.training for module in architecture.modules())


def test_a_norm_does_not_guess_its_rows() -> None:
    with pytest.raises(RuntimeError, match="call the architecture"):
        HPSDomainNorm(TASKS, BACKBONE, SHAPE).backbone(batch())


# -------------------------------------------------------------------------------------------------------- HPS, wider


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_backbones_own_size_is_hps() -> None:
    torch.manual_seed(0)
    plain = HPS(TASKS, BACKBONE, SHAPE)
    torch.manual_seed(0)
    wide = HPSWide(TASKS, BACKBONE, widen_to=size_of(plain), image_shape=SHAPE)
    assert wide.widths == [4, 6]
    torch.testing.assert_close(dict(wide.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("backbone", ["resnet10t", "resnet26", "convnext_atto", BACKBONE, create_small_resnet])
def test_as_wide_as_the_target(backbone: Any) -> None:
    target = 3 * size_of(HPS(TASKS, backbone, SHAPE))
    wide = HPSWide(TASKS, backbone, widen_to=target, image_shape=SHAPE)
    assert size_of(wide) == pytest.approx(target, rel=0.15 if backbone is BACKBONE else 0.05)
    assert all(f.shape[1] == wide.num_features for f in wide(torch.randn(8, 3, 32, 32), MIXED).per_task.values())


@pytest.mark.parametrize("router", [TaskIdRouter, partial(ConvRouter, widths=(4, 8), blocks=1)])
def test_as_wide_as_a_rival(router: Any) -> None:
    rival = partial(MoLA, backbone=BACKBONE, router=router)
    wide = HPSWide(TASKS, BACKBONE, match=rival, image_shape=SHAPE)
    assert size_of(wide) == pytest.approx(size_of(rival(TASKS, image_shape=SHAPE)), rel=0.15)


# ----------------------------------------------------------------------------------------------------------- counts


def test_multiply_adds_of_a_known_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.num_features = 5
    modules = {scheme: MultiTaskModule(TASKS, scheme(TASKS, net, image_shape=SHAPE)) for scheme in (HPS, MMoE)}
    conv, head = 12 * 12 * 5 * 27, 5 * 2
    assert count_multiply_adds(modules[HPS], SHAPE) == conv + head
    gates = 3 * 8 * 8 * 3
    assert count_multiply_adds(modules[MMoE], SHAPE) == 3 * conv + gates + head
    assert modules[HPS].training
    counts = count_parameters(modules[MMoE])
    assert counts["other"] == 3 * (gates + 3)
    assert counts["backbone"] == 3 * (5 * 27 + 5)
