"""What sets single sharing schemes apart, and the values that they refuse."""

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
    PLE,
    CrossStitch,
    DSelectK,
    HPSWide,
    MMoE,
    MoLA,
)
from mola_lightning.architectures.dselect_k import SelectorGate, selection_penalty, smooth_step
from mola_lightning.backbones import create_backbone, create_small_resnet
from mola_lightning.core import ConfigError, Task, TaskRows
from mola_lightning.routers import ConvRouter, TaskIdRouter

Force = Callable[..., None]
SHAPE = (3, 12, 12)
NAMES = ("a", "b", "c")
TASKS = tuple(Task(name, 2) for name in NAMES)
BACKBONE = partial(create_small_resnet, widths=(4, 6), blocks=(2, 1))
MIXED = TaskRows.from_task_ids(torch.tensor([0, 1, 2, 0, 1, 1, 0, 2]), NAMES)


def batch() -> Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(3))


# --------------------------------------------------------------------------------------------------------- DSelect-k


def test_smooth_step() -> None:
    t = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    found = smooth_step(t, gamma=2.0)
    assert found[[0, 1, 5, 6]].tolist() == [0, 0, 1, 1]
    assert found[3] == 0.5
    assert 0 < found[2] < 1e-5
    assert found[4] == pytest.approx(-2 * 0.25**3 + 1.5 * 0.25 + 0.5)
    torch.testing.assert_close(smooth_step(-t, 2.0), 1 - found)


@pytest.mark.parametrize(("experts", "selected"), [(4, 2), (5, 3), (8, 1), (1, 1)])
def test_decided_selectors_choose_k_experts(experts: int, selected: int, force: Force) -> None:
    gate = SelectorGate(6, experts, selected, gamma=1.0)
    chosen = list(range(experts))[-selected:]
    if gate.selectors is not None:
        force(gate.selectors, [9.0 if number >> bit & 1 else -9.0 for number in chosen for bit in range(gate.num_bits)])
    weights, selections = gate(torch.randn(7, 6))
    assert selections.shape == (7, selected, experts)
    assert (weights > 0).sum(1).tolist() == [selected] * 7
    assert (weights > 0).nonzero()[:, 1].unique().tolist() == chosen
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    smallest = 0.0 if gate.complete else float(selected)  # each selector's mass is on experts: 1 / 1
    assert selection_penalty(selections, gate.complete).item() == pytest.approx(smallest, abs=1e-4)


def test_the_penalty_makes_selectors_decide() -> None:
    torch.manual_seed(0)
    gate = SelectorGate(6, 5, 2, gamma=1.0)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.02)
    inputs = torch.randn(16, 6)
    assert (gate(inputs)[0] > 0).sum(1).min() == 5  # undecided, every expert runs
    for _ in range(300):
        optimizer.zero_grad()
        selection_penalty(gate(inputs)[1], gate.complete).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in gate.parameters())
        optimizer.step()
    weights, selections = gate(inputs)
    assert (weights > 0).sum(1).max() <= 2
    torch.testing.assert_close(selections.sum(2), torch.ones(16, 2))  # no code that is nobody's


def test_the_penalty_of_every_task_counts() -> None:
    architecture = DSelectK(TASKS, BACKBONE, entropy_weight=0.5, image_shape=SHAPE)
    penalty = architecture(batch(), MIXED).penalties["entropy"]
    gradients = torch.autograd.grad(penalty, list(architecture.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(architecture.named_parameters(), gradients, strict=True) if g is not None}
    assert reached == {f"gates.{t}.selectors.{kind}" for t in range(3) for kind in ("weight", "bias")}
    one = architecture(batch(), MIXED.select("b")).penalties["entropy"]
    assert 0 < one < penalty


# ---------------------------------------------------------------------------------------------------------------- LTB


def decide(architecture: LTB, seed: int) -> list[Tensor]:
    """Make every node want one random parent; the one-hot weights of each place."""
    architecture.set_progress(9, 10)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in (*architecture.logits, *architecture.last_logits):
            logits.copy_(1e4 * torch.rand(logits.shape, generator=draw))
    return architecture.weights()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [MIXED, TaskRows.all_rows(8, NAMES)], ids=["disjoint", "all"])
def test_the_tree_is_the_mixture_with_one_parent_each(seed: int, rows: TaskRows) -> None:
    architecture = LTB(TASKS, BACKBONE, image_shape=SHAPE).eval()
    weights = decide(architecture.eval(), seed)
    assert all(set(w.unique().tolist()) <= {0, 1} and w.sum(1).eq(1).all() for w in weights)
    wanted = super(LTB, architecture).forward(batch(), rows).per_task  # every node on every row
    for name, found in architecture(batch(), rows).per_task.items():
        torch.testing.assert_close(found, wanted[name])


def test_training_draws_parents_by_their_probability() -> None:
    architecture = LTB(TASKS, BACKBONE, temperature=1.0, image_shape=SHAPE).train()
    architecture.set_progress(0, 100)
    assert architecture.warming_up
    architecture.set_progress(1, 100)
    with torch.no_grad():
        architecture.logits[0].copy_(torch.tensor([0.0, 1.0, 2.0]).expand(3, 3))
    drawn = torch.stack([architecture.weights()[0] for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0)[0], torch.tensor([0.0, 1.0, 2.0]).softmax(0), rtol=0, atol=0.05)


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


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(MMoE, num_experts=0), "num_experts must be an integer >= 1"),
        (partial(MMoE, gate_input=0), "gate_input must be an integer >= 1"),
        (partial(MMoE, share_until=9), r"share_until must be the index of a stage, 0 .* to 3"),
        (partial(CGC, share_until=3), "shares every stage that has parameters"),
        (partial(CGC, num_shared=0), "num_shared must be"),
        (partial(PLE, num_specific=0), "num_specific must be"),
        (partial(DSelectK, num_selected=4), "num_selected must be at most num_experts=3"),
        (partial(DSelectK, gamma=0), "gamma must be > 0"),
        (partial(DSelectK, entropy_weight=-1), "entropy_weight must be >= 0"),
        (partial(CrossStitch, alpha_same=1.5), r"alpha_same must lie in 0\.\.1"),
        (partial(LTB, warmup=2), r"warmup must be a fraction"),
        (partial(LTB, temperature=0), "temperature must be > 0"),
        (partial(HPSWide), "either widen_to, a number of parameters, or match"),
        (partial(HPSWide, widen_to=10), "at least what the backbone has"),
        (partial(HPSWide, widen_to=0), "widen_to must be an integer >= 1"),
    ],
)
def test_values_that_cannot_work(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TASKS, BACKBONE, image_shape=SHAPE)


def test_backbones_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="already built cannot be widened"):
        HPSWide(TASKS, BACKBONE(), widen_to=10**5)
    with pytest.raises(ConfigError, match="no pretrained weights"):
        HPSWide(TASKS, partial(create_backbone, "resnet18", pretrained=True), widen_to=10**8)
    one = nn.Sequential(nn.Flatten())
    one.num_features = 432
    with pytest.raises(ConfigError, match="one only"):
        CrossStitch(TASKS, one, image_shape=SHAPE)
