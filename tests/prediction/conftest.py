"""Small untrained models, and images whose task can be seen."""

from collections.abc import Callable

import pytest
import torch

from mola_lightning import MoLAGrad, MoLARouter, MultiTaskModule
from mola_lightning.architectures import HPS
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Task
from mola_lightning.data import TensorSource

TASKS = (Task("dark", 3, class_names=("a", "b", "c")), Task("bright", 5))
SHAPE = (3, 8, 8)


@pytest.fixture
def make_model() -> Callable[[str], MultiTaskModule]:
    """``make_model("mola_grad" | "mola_router" | "hps")``, in evaluation mode, its experts not zero."""

    def make(method: str) -> MultiTaskModule:
        torch.manual_seed(0)
        settings = {"image_shape": SHAPE, "rank": 1, "alpha": 1}
        module: MultiTaskModule
        if method == "mola_grad":
            module = MoLAGrad(TASKS, create_small_resnet, **settings)
        elif method == "mola_router":
            module = MoLARouter(TASKS, create_small_resnet, **settings)
        else:
            module = MultiTaskModule(TASKS, HPS(TASKS, create_small_resnet, SHAPE))
        for name, parameter in module.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter, std=0.5)
        return module.eval()

    return make


@pytest.fixture
def source() -> TensorSource:
    """Noise around 0.2 in one task and around 0.8 in the other."""

    def images(count: int, level: float) -> torch.Tensor:
        return (level + 0.1 * torch.randn(count, *SHAPE)).clamp(0, 1)

    def part(count: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        sizes = (("dark", 0.2, 3), ("bright", 0.8, 5))
        return {name: (images(count, level), torch.arange(count) % classes) for name, level, classes in sizes}

    return TensorSource({"train": part(40), "val": part(15), "test": part(30)}, {"dark": 3, "bright": 5})
