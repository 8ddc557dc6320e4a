"""Small models of every kind, not trained: their experts are noise, so that none can be mistaken for another."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.architectures import HPS, MMoE, MoLA, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Task
from mola_lightning.deployment import Deployable, Preprocessing
from mola_lightning.routers import ConvRouter, HardRouter, TopKRouter, UniformRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

SHAPE = (3, 16, 16)
TASKS = (Task("a", 3, ("x", "y", "z")), Task("b", 4))
PREPARED = {"a": Preprocessing((0.5,), (0.25,), ("Resize",)), "b": Preprocessing((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))}
BACKBONE = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
ROUTERS = {"mola_router": ConvRouter, "mola_hard": HardRouter, "mola_top_k": partial(TopKRouter, k=1)}


@torch.no_grad()
def noisy(module: MultiTaskModule) -> MultiTaskModule:
    """Experts that are not zero, and norms that have seen something; of the same name and shape always the same."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        torch.manual_seed(zlib.crc32(name.encode()))
        if name.endswith(("lora_B", "running_mean")):
            tensor.normal_(std=0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return module


def module_of(method: str, tasks: Any = TASKS, backbone: Any = BACKBONE, **settings: Any) -> MultiTaskModule:
    torch.manual_seed(settings.pop("seed", 0))
    shape = settings.pop("shape", SHAPE)
    reading = settings.pop("router", {})  # what else its router is made with
    mola = {"rank": 2, "alpha": 3, **settings}
    if method == "mola_grad":
        return MoLAGrad(tasks, backbone, shape, **mola)
    if method in ROUTERS:
        return MoLARouter(
            tasks, backbone, shape, router=partial(ROUTERS[method], widths=(4, 8), blocks=1, **reading), **mola
        )
    if method == "mola_uniform":
        adapter = partial(AdaptedBackbone, **mola)
        return MultiTaskModule(tasks, MoLA(tasks, backbone, UniformRouter, adapter, image_shape=shape))
    scheme = {"hps": HPS, "single_task": SingleTask, "mmoe": MMoE}[method]
    return MultiTaskModule(tasks, scheme(tasks, backbone, image_shape=shape))


@pytest.fixture(scope="session")
def deployable() -> Callable[..., Deployable]:
    """``deployable("mola_grad", ...)``: always the same weights for the same arguments."""

    def make(method: str, prepared: Any = PREPARED, **settings: Any) -> Deployable:
        module = noisy(module_of(method, **settings))
        return Deployable(
            module, settings.get("shape", SHAPE), {name: prepared.get(name, PREPARED["a"]) for name in module.names}
        )

    return make
