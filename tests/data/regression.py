"""Losses of the first training steps, and the script that stores them.

After a change that is meant to change numbers, run from the checkout ``.venv/bin/python tests/data/regression.py`` and
look at the difference of ``regression.json`` before it is committed.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mola_lightning.adapters import AdaptedBackbone
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
    HPSWide,
    MMoE,
    MoLA,
    SingleTask,
)
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Collate, Task
from mola_lightning.data import BalancedSampler, TensorSource
from mola_lightning.losses import AuxiliaryLoss, TaskCrossEntropy, TwDLoss
from mola_lightning.routers import ConvRouter, HardRouter, Router, UniformRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

Build = Callable[[Sequence[Task]], MultiTaskModule]
STORED = Path(__file__).with_name("regression.json")
SHAPE, CLASSES, SIZE, STEPS = (3, 12, 12), {"a": 3, "b": 4, "c": 2}, 16, 5


def wave(*shape: int, phase: float) -> Tensor:
    """Irregular numbers that do not depend on a random generator, in [-1, 1]."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(count.square() * 0.37 + count * 0.11 + phase).reshape(shape)


def source() -> TensorSource:
    """Three tasks with label spaces of their own."""
    parts = {}
    for t, (name, classes) in enumerate(CLASSES.items()):
        parts[name] = (wave(SIZE, *SHAPE, phase=t), torch.arange(SIZE) % classes)
    return TensorSource({"train": parts, "val": parts}, num_classes=CLASSES)


def baseline(scheme: type[Architecture], **options: Any) -> Build:
    """A scheme without auxiliary losses."""
    return lambda tasks: MultiTaskModule(tasks, scheme(tasks, BACKBONE, image_shape=SHAPE, **options))


def mola(router: Callable[..., Router], kind: str = "reshaped", **auxiliary: Callable[..., AuxiliaryLoss]) -> Build:
    """Any other MoLA, with these losses on its router."""

    def built(tasks: Sequence[Task]) -> MultiTaskModule:
        adapter = partial(AdaptedBackbone, rank=2, alpha=4, kind=kind)
        return MultiTaskModule(tasks, MoLA(tasks, BACKBONE, router, adapter, image_shape=SHAPE), auxiliary=auxiliary)

    return built


BACKBONE = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
SMALL_ROUTER = {"widths": (4, 8), "blocks": 1}
CONV = partial(ConvRouter, **SMALL_ROUTER)
METHODS: dict[str, Build] = {
    "hps": baseline(HPS),
    "single_task": baseline(SingleTask),
    "mola_grad": lambda tasks: MoLAGrad(tasks, BACKBONE, SHAPE, rank=2, alpha=4),
    "mola_router": lambda tasks: MoLARouter(tasks, BACKBONE, SHAPE, rank=2, alpha=4, router=CONV),
    "mola_hard": mola(partial(HardRouter, **SMALL_ROUTER), twd=TwDLoss),
    "mola_no_twd": mola(CONV),
    "mola_task_ce": mola(CONV, task_cross_entropy=TaskCrossEntropy),
    "mola_uniform": mola(UniformRouter),
    "expert_mix": mola(UniformRouter, kind="full"),
    "hps_dsbn": baseline(HPSDomainNorm),
    "hps_wide": baseline(HPSWide, widen_to=3000),
    "cross_stitch": baseline(CrossStitch),
    "mmoe": baseline(MMoE, num_experts=2, gate_input=2),
    "dselect_k": baseline(DSelectK, gate_input=2, gamma=16, entropy_weight=0.01),
    "cgc": baseline(CGC, gate_input=2),
    "ple": baseline(PLE, gate_input=2),
    "ltb": baseline(LTB),  # in its warm-up: the draws afterwards are those of the machine's generator
    "mtan": baseline(MTAN),
}


def build(method: str, data: TensorSource) -> MultiTaskModule:
    """A method with weights that are functions of their names' order alone."""
    module = METHODS[method](data.tasks)
    module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            size = 1 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
            centre = 0.0 if parameter.ndim > 1 else 0.5
            parameter.copy_(centre + size * wave(*parameter.shape, phase=0.5 * i))
    return module


def losses(method: str, steps: int = STEPS) -> list[float]:
    """The total loss of each of the first steps of SGD at seed 0."""
    data = source()
    module, dataset = build(method, data), data.dataset("train")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    batches = iter(BalancedSampler(dataset, batch_size=8, seed=0))
    collate, found = Collate(data.tasks), []
    for step in range(steps):
        batch = collate([dataset[key] for key in next(batches)])
        batch.images = batch.images.double()
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    STORED.write_text(json.dumps({method: losses(method) for method in METHODS}, indent=1) + "\n")
