"""Tasks with a target per pixel through the whole module: every sharing scheme, partial annotation, heads per task."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mola_lightning import architectures
from mola_lightning.architectures import Architecture, MoLA
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Collate, ConfigError, DataError, Task
from mola_lightning.data import Source, TensorSource
from mola_lightning.heads import LightDecoder, LinearHead, PSPDecoder
from mola_lightning.losses import depth_loss, normal_loss, segmentation_loss, unit_length
from mola_lightning.metrics import depth_metrics, normal_metrics, segmentation_metrics
from mola_lightning.routers import ConvRouter, TaskIdRouter
from mola_lightning.training import MultiTaskModule

SIZE = (12, 16)
TASKS = (
    Task("parts", 3, criterion=segmentation_loss, metrics=segmentation_metrics, monitor="miou", ignore_index=-1),
    Task("depth", 1, (), depth_loss, depth_metrics, monitor="abs_err", higher_is_better=False, discrete=False),
    Task(
        "normals",
        3,
        criterion=normal_loss,
        metrics=normal_metrics,
        monitor="mean_angle",
        higher_is_better=False,
        discrete=False,
        activation=unit_length,
    ),
)
METRICS = {
    "parts": {"miou", "pixel_accuracy"},
    "depth": {"abs_err", "rel_err"},
    "normals": {"mean_angle", "median_angle", "within_11", "within_22", "within_30"},
}
BACKBONE = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1), pooled=False)
HEAD = partial(LightDecoder, width=4)
ROUTER = partial(ConvRouter, widths=(4, 8), blocks=1)
SCHEMES: dict[str, Callable[..., Architecture]] = {
    "hps": architectures.HPS,
    "hps_dsbn": architectures.HPSDomainNorm,
    "single_task": architectures.SingleTask,
    "mola_grad": partial(MoLA, router=TaskIdRouter),
    "mola_grad_tile": partial(MoLA, router=TaskIdRouter, single_input="tile"),
    "mola_router": partial(MoLA, router=ROUTER),
    "cross_stitch": architectures.CrossStitch,
    "mmoe": architectures.MMoE,
    "dselect_k": architectures.DSelectK,
    "cgc": architectures.CGC,
    "ple": architectures.PLE,
    "ltb": architectures.LTB,
    "mtan": architectures.MTAN,
}


def source(partly: bool = False) -> Source:
    """Images whose red channel is depth, whose classes are depth in steps, and normals that lean with green."""
    images, targets, annotated = {}, {}, {}
    for s, (split, size) in enumerate({"train": 12, "val": 7}.items()):
        pictures = torch.rand(size, 3, *SIZE, generator=torch.Generator().manual_seed(s))
        images[split] = nn.functional.avg_pool2d(pictures, 5, stride=1, padding=2)
        red, green = images[split][:, :1], images[split][:, 1:2]
        parts = (6 * red[:, 0]).long().clamp(max=2)
        depth, normals = 1 + red, unit_length(torch.cat([green, 0 * green, 1 - green], 1))
        parts[..., 0], depth[..., 0], normals[..., 0] = -1, 0.0, 0.0  # a void column
        targets[split] = {"parts": parts, "depth": depth, "normals": normals}
        if partly:
            annotated[split] = {"depth": torch.arange(size) < 3, "normals": torch.arange(size) >= size - 1}
    return TensorSource.single_input(images, targets, TASKS, annotated)


def build(scheme: str, head: Any = HEAD, **settings: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=0.02)
    architecture = SCHEMES[scheme](TASKS, BACKBONE, image_shape=(3, *SIZE))
    return MultiTaskModule(TASKS, architecture, head, optimizer=optimizer, **settings)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rows", [range(4), range(3, 5), [11]], ids=["all tasks", "two absent", "one row"])
def test_every_scheme_trains_dense_tasks(scheme: str, rows: Any) -> None:
    dataset, module = source(partly=True).dataset("train"), build(scheme, partial(PSPDecoder, width=3, grids=(1, 2)))
    batch = Collate(TASKS)([dataset[row] for row in rows])
    loss = module.training_step(batch, 0)
    loss.backward()
    predictions = module(batch.images, batch.rows).predictions
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    for task in TASKS:
        assert predictions[task.name].shape == (batch.rows.counts[task.name], task.num_outputs, *SIZE)


@pytest.mark.parametrize("scheme", ["hps", "single_task", "mola_grad", "mola_router"])
def test_it_learns(scheme: str, fit: Callable[..., Any]) -> None:
    module, data = build(scheme), source()
    found = fit(module, data, batch_size=6, max_epochs=1).callback_metrics
    keys = {f"{task}/{metric}" for task, names in METRICS.items() for metric in (*names, "loss")}
    assert keys <= {key.removeprefix("val/") for key in found}
    before = {task.name: float(found[f"train/{task.name}/loss"]) for task in TASKS}
    after = fit(module, data, batch_size=6, max_epochs=8).callback_metrics
    assert all(value.isfinite() for value in after.values())
    assert all(after[f"train/{name}/loss"] < 0.8 * loss for name, loss in before.items())


def test_val_loss_is_the_mean_over_pixels_and_not_over_batches(fit: Callable[..., Any]) -> None:
    module, data = build("hps"), source(partly=True)
    found = fit(module, data, batch_size=2).callback_metrics
    dataset = data.dataset("val")
    batch = Collate(TASKS)([dataset[row] for row in range(len(dataset))])
    with torch.no_grad():
        losses, units = module.eval().task_losses(module(batch.images, batch.rows), batch.targets)
    assert units.tolist() == [7 * 12 * 15, 3 * 12 * 15, 1 * 12 * 15]
    torch.testing.assert_close(torch.stack([found[f"val/{task.name}/loss"] for task in TASKS]), losses)


def test_evaluation_waits_for_no_other_process() -> None:
    """Processes may have unequal numbers of evaluation batches: one that waited in a step would wait for ever."""
    module, dataset = build("hps"), source(partly=True).dataset("val")
    batch = Collate(TASKS)([dataset[row] for row in range(4)])
    alone = build("hps")
    alone.eval().validation_step(batch, 0)
    module._trainer = SimpleNamespace(world_size=2, strategy=None)  # of which nothing may be asked
    module.eval().validation_step(batch, 0)
    torch.testing.assert_close(module.meters["val_"].compute(), alone.meters["val_"].compute())


def test_predictions_went_through_the_activation() -> None:
    module, images = build("hps").eval(), torch.rand(2, 3, *SIZE)
    rows = Collate(TASKS)([source().dataset("train")[row] for row in range(2)]).rows
    predictions = module(images, rows).predictions
    torch.testing.assert_close(predictions["normals"].norm(dim=1), torch.ones(2, *SIZE))
    raw = module.heads["depth"](module.architecture(images, rows).per_task["depth"], SIZE)
    assert torch.equal(predictions["depth"], raw)


# ------------------------------------------------------------------------------------------------------- heads per task


def test_each_task_may_have_a_head_of_its_own() -> None:
    light, psp = partial(LightDecoder, width=4), partial(PSPDecoder, width=3, grids=(1,))
    module = build("hps", {"depth": psp, "parts": light, "normals": light})
    assert {name: type(head) for name, head in module.heads.items()} == {
        "parts": LightDecoder,
        "depth": PSPDecoder,
        "normals": LightDecoder,
    }


@pytest.mark.parametrize("names", [("parts", "depth"), ("parts", "depth", "normals", "edges")])
def test_heads_for_other_tasks_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="one factory, or one for each task"):
        build("hps", dict.fromkeys(names, LightDecoder))


def test_a_head_of_the_wrong_kind_is_refused() -> None:
    dataset, module = source().dataset("train"), build("hps", LinearHead)
    with pytest.raises(ConfigError, match="head=light"):
        module.training_step(Collate(TASKS)([dataset[0], dataset[1]]), 0)


# ---------------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize(("value", "fits"), [(-1, True), (2, True), (3, False), (-2, False)])
def test_void_labels_pass_the_check(value: int, fits: bool) -> None:
    targets: Tensor = torch.full((1, 2, 2), value)
    if fits:
        TASKS[0].check_targets(targets)
        return
    with pytest.raises(DataError, match=r"0..2 \(3 classes\), or be -1 for no label, found"):
        TASKS[0].check_targets(targets)
    with pytest.raises(DataError, match=r"0..2 \(3 classes\), found"):
        replace(TASKS[0], ignore_index=None).check_targets(targets)
