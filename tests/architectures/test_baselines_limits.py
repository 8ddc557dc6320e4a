"""Where each sharing scheme falls back to a simpler one: hard parameter sharing, single-task learning."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.architectures import (
    CGC,
    HPS,
    LTB,
    MTAN,
    PLE,
    Architecture,
    CrossStitch,
    DSelectK,
    HPSDomainNorm,
    MMoE,
    SingleTask,
)
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Task, TaskRows
from mola_lightning.training import MultiTaskModule
from mola_lightning.training.parameters import count_multiply_adds, count_parameters

Force = Callable[..., None]
SHAPE = (3, 12, 12)
NAMES = ("a", "b", "c")
TASKS = tuple(Task(name, 2) for name in NAMES)
BACKBONE = partial(create_small_resnet, widths=(4, 6), blocks=(2, 1))
MIXED = TaskRows.from_task_ids(torch.tensor([0, 1, 2, 0, 1, 1, 0, 2]), NAMES)


def batch() -> Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(3))


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


def test_all_weight_on_one_expert_is_hps(force: Force) -> None:
    architecture = MMoE(TASKS, BACKBONE, num_experts=3, image_shape=SHAPE)
    for gate in architecture.gates:
        force(gate.linear, [-1e4, 0, -1e4])
    same_as(whole(architecture.trunk, architecture.experts[1]), architecture)


@pytest.mark.parametrize("scheme", [CGC, PLE, partial(PLE, share_until=1)], ids=["cgc", "ple", "ple_trunk"])
def test_all_weight_on_the_shared_experts_is_hps(scheme: Any, force: Force) -> None:
    architecture = scheme(TASKS, BACKBONE, image_shape=SHAPE)
    for module in architecture.modules():
        if isinstance(module, nn.Linear):  # shared experts come last in every gate
            force(module, [*[-1e4] * (module.out_features - 1), 0])
    same_as(whole(architecture.trunk, architecture.experts[0]), architecture)


def test_all_weight_on_own_experts_is_single_task(force: Force) -> None:
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


def test_open_masks_are_hps(force: Force) -> None:
    architecture = MTAN(TASKS, BACKBONE, SHAPE)
    for module in architecture.attention.modules():
        if isinstance(module, nn.BatchNorm2d):
            force(module, [50.0] * module.num_features)
    parts = [half for stage in architecture.stages for half in stage]
    same_as(nn.Sequential(architecture.stem, *parts, architecture.head), architecture, training=True)


def test_masks_multiply_features_of_the_stage(force: Force) -> None:
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


def test_units_start_as_averages() -> None:
    """Rows of every unit sum to one, so equal branches stay equal to one branch: no sum of T activations."""
    net = BACKBONE()
    architecture = CrossStitch(TASKS, net, alpha_same=0.7, image_shape=SHAPE)
    for weights in architecture.weights():
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        torch.testing.assert_close(weights.diagonal(), torch.full((3,), 0.7))
    same_as(net, architecture, training=True)


@pytest.mark.parametrize("training", [True, False])
def test_one_branch_for_all_is_a_single_path(training: bool) -> None:
    architecture = LTB(TASKS, BACKBONE, image_shape=SHAPE)
    architecture.set_progress(9, 10)
    with torch.no_grad():
        for logits in (*architecture.logits, *architecture.last_logits):
            logits.copy_(torch.tensor([0, 1e5, 0]).expand_as(logits))
    assert architecture.paths() == [[1] * (len(architecture.branches[0]) - 1) + [t] for t in range(3)]
    same_as(nn.Sequential(*architecture.branches[1]), architecture, training)  # heads only pool


def test_the_warm_up_reads_averages() -> None:
    net = BACKBONE()
    architecture = LTB(TASKS, net, warmup=0.2, image_shape=SHAPE)
    same_as(net, architecture, training=True)  # equal branches: a sum would differ
    for epoch, warm in [(0, True), (1, True), (2, False), (9, False)]:
        architecture.set_progress(epoch, 10)
        assert architecture.warming_up is warm


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
