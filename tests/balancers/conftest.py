"""Every balancer by its yaml, and a problem whose gradients are known: losses that are linear in the parameters."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from mola_lightning.architectures import HPS, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.balancers import Balancer, Step
from mola_lightning.core import Batch, Collate, Task
from mola_lightning.data import MultiTaskDataModule, Source, TensorSource
from mola_lightning.routers import ConvRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

CONF = Path(__file__).parents[2] / "conf" / "balancer"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
FEATURE_LEVEL = ("aligned_mtl_ub", "mgda_ub")
SHAPE = (3, 8, 8)


@pytest.fixture(params=[name for name in NAMES if name not in FEATURE_LEVEL])
def name(request: pytest.FixtureRequest) -> str:
    """Each balancer that acts on losses or parameter gradients."""
    return request.param


@pytest.fixture(scope="session")
def make_balancer() -> Callable[..., Balancer]:
    """``make_balancer("pcgrad", num_tasks=3, **settings)``."""

    def make(name: str, num_tasks: int = 3, **settings: Any) -> Balancer:
        cfg = OmegaConf.merge({"seed": 0, "balancer": OmegaConf.load(CONF / f"{name}.yaml")}, {"balancer": settings})
        made = instantiate(cfg.balancer, _convert_="all")
        return made if isinstance(made, Balancer) else made(num_tasks=num_tasks)

    return make


@pytest.fixture(scope="session")
def combine() -> Callable[..., Tensor]:
    """``combine(balancer, jacobian, losses, present)``: what the balancer makes of gradients (T, P) that are known."""

    def run(
        balancer: Balancer,
        jacobian: Tensor,
        losses: Sequence[float] | None = None,
        present: Sequence[bool] | None = None,
    ) -> Tensor:
        there = torch.tensor([True] * len(jacobian) if present is None else list(present))
        values = torch.tensor([1.0 + 0.5 * t for t in range(len(jacobian))] if losses is None else list(losses))
        parameter = nn.Parameter(torch.zeros(jacobian.shape[1]))
        terms = [(row @ parameter + value) * flag for row, value, flag in zip(jacobian, values, there, strict=True)]
        total = balancer(torch.stack(terms), there, [parameter], step=Step(terms))
        total.backward()
        assert parameter.grad is not None
        if balancer.wants_losses_after_step:
            after = torch.stack([row @ (-0.01 * parameter.grad) for row in jacobian]) + values
            balancer.after_step(after.clamp(min=0.1) * there, there)
        return parameter.grad

    return run


@pytest.fixture(scope="session")
def source() -> Source:
    """Three domains of three classes, a pattern for each class."""
    shown = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    splits: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"train": {}, "val": {}}
    for s, split in enumerate(splits):
        for t, task in enumerate("abc"):
            draw = torch.Generator().manual_seed(10 * s + t)
            labels = torch.randint(3, (16,), generator=draw)
            splits[split][task] = (shown.roll(t, 0)[labels] + torch.randn(16, *SHAPE, generator=draw), labels)
    return TensorSource(splits, num_classes=3)


@pytest.fixture(scope="session")
def single_input() -> Source:
    """Images with a target for each of three tasks; a quarter of the images has none for the last."""
    draw = torch.Generator().manual_seed(1)
    splits = ("train", "val")
    images = {split: torch.randn(32, *SHAPE, generator=draw) for split in splits}
    targets = {split: {task: torch.randint(3, (32,), generator=draw) for task in "abc"} for split in splits}
    annotated = {split: {"c": torch.arange(32) % 4 > 0} for split in splits}
    return TensorSource.single_input(images, targets, [Task(task, 3) for task in "abc"], annotated)


@pytest.fixture(scope="session")
def make_module() -> Callable[..., MultiTaskModule]:
    """``make_module("hps" | "single_task" | "mola_grad" | "mola_router", source, **settings)``, of the same weights."""

    def make(method: str, source: Source, **settings: Any) -> MultiTaskModule:
        torch.manual_seed(0)
        backbone = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1), zero_init_last=False)
        settings = {"optimizer": partial(torch.optim.SGD, lr=0.01)} | settings
        tasks, shape = source.tasks, source.image_shape
        if method in ("hps", "single_task"):
            build = HPS if method == "hps" else SingleTask
            return MultiTaskModule(tasks, build(tasks, backbone, shape), **settings)
        if method == "mola_grad":
            module: MultiTaskModule = MoLAGrad(tasks, backbone, shape, rank=2, alpha=4, **settings)
        else:
            router = partial(ConvRouter, widths=(4, 8), blocks=1)
            module = MoLARouter(tasks, backbone, shape, rank=2, alpha=4, router=router, twd_weight=0.0, **settings)
        for parameter_name, parameter in module.named_parameters():
            if parameter_name.endswith("lora_B"):  # zero at the start, which would hide the experts' gradients
                nn.init.normal_(parameter, std=0.1)
        return module

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """``make_batch(source, rows)``: these rows of the training split as one batch."""

    def make(source: Source, rows: Sequence[int] = range(0, 48, 3)) -> Batch:
        dataset = source.dataset("train")
        return Collate(source.tasks)([dataset[row] for row in rows])

    return make


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """``fit(module, source, **trainer)``: a plain Trainer after two epochs of two batches of 12."""

    def run(module: MultiTaskModule, source: Source, **trainer: Any) -> pl.Trainer:
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "limit_train_batches": 2,
            "limit_val_batches": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "default_root_dir": str(tmp_path),
        }
        runner = pl.Trainer(**settings | trainer)
        runner.fit(module, MultiTaskDataModule(source, batch_size=12))
        return runner

    return run
