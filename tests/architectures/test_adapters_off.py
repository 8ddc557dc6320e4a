"""MoLA whose experts contribute nothing is hard parameter sharing: not about as good, but the same training."""

from functools import partial
from typing import Any

import pytest
import torch

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.architectures import HPS, MoLA
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Batch, Task, TaskRows
from mola_lightning.routers import ConvRouter, HardRouter, TaskIdRouter, TopKRouter, UniformRouter
from mola_lightning.training import MultiTaskModule

SHAPE = (3, 12, 12)
NAMES = ("a", "b", "c")
TASKS = tuple(Task(name, outputs) for name, outputs in zip(NAMES, (3, 4, 2), strict=True))
BACKBONE = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1), zero_init_last=False)
SMALL = {"widths": (4, 6), "blocks": 1}
ROUTERS: dict[str, Any] = {
    "task_id": TaskIdRouter,
    "conv": partial(ConvRouter, **SMALL),
    "hard": partial(HardRouter, **SMALL),
    "top_k": partial(TopKRouter, **SMALL),
    "uniform": UniformRouter,
}
# Routing by task id sorts rows by expert, and sums over rows are as exact as their order: rows that come sorted.
SORTED = TaskRows.from_task_ids(torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]), NAMES)
MIXED = TaskRows.from_task_ids(torch.tensor([2, 0, 1, 0, 1, 1, 2, 0, 2]), NAMES)
STEPS = 3


def trained(module: MultiTaskModule, rows: TaskRows) -> list[float]:
    """Losses of the first steps."""
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    losses = []
    for step in range(STEPS):
        targets = {t.name: torch.randint(t.num_outputs, (rows.counts[t.name],), generator=draw) for t in TASKS}
        loss = module.training_step(Batch(torch.randn(9, *SHAPE, generator=draw), targets, rows), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def pair(router: Any, off: str, **adapter: Any) -> tuple[MultiTaskModule, MultiTaskModule]:
    """HPS, and MoLA with the same weights and its experts off: scaled by 0, or zero and frozen."""
    torch.manual_seed(0)
    hps = MultiTaskModule(TASKS, HPS(TASKS, BACKBONE, SHAPE))
    settings = {"alpha": 0 if off == "scaled by 0" else 16, **adapter}
    mola = MultiTaskModule(
        TASKS, MoLA(TASKS, BACKBONE, router, partial(AdaptedBackbone, **settings), image_shape=SHAPE)
    )
    for name, parameter in mola.named_parameters():
        if name.endswith("lora_B"):
            if off == "scaled by 0":  # what alpha = 0 has to silence
                torch.nn.init.normal_(parameter)
            else:
                parameter.requires_grad_(False)
                assert not parameter.any()
    mola.load_state_dict({in_mola(key): value for key, value in hps.state_dict().items()}, strict=False)
    return hps, mola


def in_mola(key: str) -> str:
    return key.replace("architecture.backbone.", "architecture.backbone.net.")


@pytest.mark.parametrize("plan", ["low_rank", "dense"])
@pytest.mark.parametrize("off", ["scaled by 0", "zero and frozen"])
@pytest.mark.parametrize("router", ROUTERS)
def test_experts_that_add_zero_leave_hps_to_the_bit(router: str, off: str, plan: str) -> None:
    hps, mola = pair(ROUTERS[router], off, plan=plan)
    rows = SORTED if router == "task_id" else MIXED
    assert trained(hps, rows) == trained(mola, rows)
    found = mola.state_dict()
    for key, value in hps.state_dict().items():
        if not key.startswith("meters"):
            assert torch.equal(found[in_mola(key)], value), key


@pytest.mark.parametrize("rows", [SORTED, MIXED, TaskRows.all_rows(9, NAMES)], ids=["sorted", "mixed", "all"])
@pytest.mark.parametrize("router", ROUTERS)
def test_any_plan_stays_near(router: str, rows: TaskRows) -> None:
    """Kernels merged group by group, and rows in another order, sum the same numbers in another order."""
    hps, mola = pair(ROUTERS[router], "zero and frozen", plan="auto")
    assert trained(mola, rows) == pytest.approx(trained(hps, rows), rel=1e-5)


def test_it_is_the_experts_that_make_the_difference() -> None:
    """The comparison above is not of two things that could not differ."""
    hps, mola = pair(ROUTERS["conv"], "scaled by 0", plan="low_rank", alpha=16)
    assert trained(hps, MIXED)[0] != pytest.approx(trained(mola, MIXED)[0], rel=1e-2)
