"""Losses of the first training steps, and the script that stores them.

After a change that is meant to change numbers, run from the checkout ``.venv/bin/python tests/data/regression.py`` and
look at the difference of ``regression.json`` before it is committed.
"""

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mola_lightning.architectures import HPS, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Collate
from mola_lightning.data import BalancedSampler, TensorSource
from mola_lightning.routers import ConvRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

STORED = Path(__file__).with_name("regression.json")
METHODS = ("hps", "single_task", "mola_grad", "mola_router")
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


def build(method: str, data: TensorSource) -> MultiTaskModule:
    """A method with weights that are functions of their names' order alone."""
    backbone, tasks = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1)), data.tasks
    if method in ("hps", "single_task"):
        scheme = HPS if method == "hps" else SingleTask
        module = MultiTaskModule(tasks, scheme(tasks, backbone, SHAPE))
    elif method == "mola_grad":
        module = MoLAGrad(tasks, backbone, SHAPE, rank=2, alpha=4)
    else:
        router = partial(ConvRouter, widths=(4, 8), blocks=1)
        module = MoLARouter(tasks, backbone, SHAPE, rank=2, alpha=4, router=router)
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
