"""What a module holds its parts to: the same tasks in the same order, absent tasks, auxiliary losses, the score."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.regression import MeanAbsoluteError

from mola_lightning.architectures import HPS
from mola_lightning.core import Batch, ConfigError, ModelOutput, Regime, Task, TaskRows
from mola_lightning.losses import AuxiliaryLoss
from mola_lightning.training import MoLARouter, MultiTaskModule
from mola_lightning.training.meters import Meters
from mola_lightning.training.parameters import count_multiply_adds

Make = Callable[..., Any]
SHAPE = (3, 8, 8)


class MeanPrediction(AuxiliaryLoss):
    """A loss on predictions: nothing to do with a router."""

    needs_logits = False

    def __init__(self, num_experts: int, num_tasks: int | None = None, weight: float = 0.5) -> None:
        super().__init__(weight)

    def forward(self, output: ModelOutput) -> Tensor:
        return torch.stack([p.square().sum() for p in output.predictions.values()]).sum()


class Pooled(nn.Module):
    """Takes the mean of each channel."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_an_architecture_of_other_tasks_is_refused() -> None:
    a, b = Task("a", 3), Task("b", 3)
    with pytest.raises(ConfigError, match="built for the tasks b, a, and the model has a, b"):
        MultiTaskModule([a, b], HPS([b, a], Pooled()))


def test_a_batch_of_tasks_in_another_order_is_refused(make_source: Make, make_module: Make) -> None:
    module = make_module("mola_grad", make_source("domains"))
    ids = torch.tensor([0, 1])
    with pytest.raises(ConfigError, match="batch comes with the tasks b, a, c"):
        module(torch.zeros(2, *SHAPE), TaskRows.from_task_ids(ids, ["b", "a", "c"]))
    with pytest.raises(ConfigError, match="batch comes with the tasks b,"):
        module(torch.zeros(2, *SHAPE), TaskRows.from_task_ids(ids * 0, ["b"]))


def test_a_checkpoint_of_tasks_in_another_order_is_refused(make_source: Make, make_module: Make) -> None:
    module, checkpoint = make_module("hps", make_source("domains")), {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match="checkpoint is of the tasks c, b, a"):
        module.on_load_checkpoint({"tasks": ["c", "b", "a"]})


@pytest.mark.parametrize("name", ["mean", "type", "train", "items"])
def test_names_that_torch_needs_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be called '{name}'"):
        Task(name, 2)


def test_a_criterion_is_not_asked_about_an_absent_task() -> None:
    def absolute(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        assert outputs.shape == targets.shape
        return (outputs - targets).abs().sum(), outputs.new_tensor(float(len(targets)))

    names = ["class", "number"]
    tasks = [Task(names[0], 2), Task(names[1], 3, criterion=absolute, discrete=False)]
    module = MultiTaskModule(tasks, HPS(tasks, Pooled()))
    rows = TaskRows.from_task_ids(torch.zeros(4, dtype=torch.long), names)
    targets = {"class": torch.tensor([0, 1, 1, 0]), "number": torch.empty(0, dtype=torch.long)}
    module.training_step(Batch(torch.randn(4, *SHAPE), targets, rows), 0).backward()
    assert all(bool((p.grad == 0).all()) for p in module.heads["number"].parameters())


def test_a_loss_without_logits_goes_with_any_architecture(
    make_source: Make, make_module: Make, make_batch: Make
) -> None:
    source = make_source("domains")
    module, batch = (
        make_module("hps", source, auxiliary={"size": MeanPrediction}),
        make_batch(source, "train", range(9)),
    )
    output = module(batch.images, batch.rows)
    losses, _ = module.task_losses(output, batch.targets)
    expected = losses.sum() + 0.5 * module.auxiliary["size"](output)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_mola_router_keeps_twd_beside_other_losses() -> None:
    tasks = [Task("a", 2), Task("b", 2)]
    net = partial(nn.Sequential, nn.Conv2d(3, 3, 3), Pooled())

    def backbone(**shape: Any) -> nn.Module:
        built = net()
        built.num_features = 3
        return built

    module = MoLARouter(tasks, backbone, auxiliary={"size": MeanPrediction})
    assert set(module.auxiliary) == {"twd", "size"}
    assert set(MoLARouter(tasks, backbone, auxiliary={"size": MeanPrediction}, twd_weight=0).auxiliary) == {"size"}


def test_relative_changes_of_different_metrics_count_the_same_in_the_score() -> None:
    tasks = [
        Task("class", 2),
        Task(
            "number",
            1,
            metrics=lambda _: MetricCollection({"mae": MeanAbsoluteError()}),
            monitor="mae",
            higher_is_better=False,
            discrete=False,
        ),
    ]

    def score(right: int, error: float) -> float:
        meters = Meters(tasks, (), tasks)
        meters.update_losses(torch.zeros(2), torch.ones(2), {})
        classes = torch.zeros(10, dtype=torch.long)
        logits = torch.tensor([[1.0, 0.0]] * right + [[0.0, 1.0]] * (10 - right))
        numbers = torch.zeros(10)
        meters.update_metrics({"class": logits, "number": numbers + error}, {"class": classes, "number": numbers})
        return float(meters.compute()["score"])

    start = score(4, 100.0)
    assert score(8, 100.0) - start == pytest.approx(score(4, 50.0) - start)  # twice as good, by either
    assert score(4, 50.0) > start


def test_multiply_adds_of_an_image_with_several_targets_count_all_tasks(make_source: Make, make_module: Make) -> None:
    module = make_module("single_task", make_source("single_input"))
    one, every = (count_multiply_adds(module, SHAPE, regime) for regime in (Regime.DOMAINS, Regime.SINGLE_INPUT))
    assert every == 3 * one
