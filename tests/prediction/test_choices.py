"""The task of an image that nobody names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mola_lightning import MultiTaskDataModule
from mola_lightning.core import ConfigError, DataError, Regime, Task, TaskRows
from mola_lightning.data import TensorSource, make_task
from mola_lightning.prediction.agnostic import chosen_outputs, target_agnostic_accuracy
from mola_lightning.prediction.choice_store import fit_linear_choice, load_choice
from mola_lightning.prediction.choices import (
    Chosen,
    LeastEntropy,
    NoChoice,
    TaskChoice,
    check_choice,
    check_classes,
    default_choice,
)

METHODS = ("mola_grad", "mola_router", "hps")


def of_one_task(module: Any, images: Tensor, name: str) -> Tensor:
    task_ids = torch.full((len(images),), module.names.index(name))
    return module(images, TaskRows.from_task_ids(task_ids, module.names)).predictions[name]


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_the_surest_task_answers_with_its_own_expert(method: str, make_model) -> None:
    module, images = make_model(method), torch.rand(12, 3, 8, 8)
    chosen = LeastEntropy().choose(module, images)
    logits = [of_one_task(module, images, name) for name in module.names]
    p = [each.softmax(dim=1) for each in logits]
    # relative to the entropy of C equal probabilities
    uncertainty = torch.stack([-(q * q.log()).sum(dim=1) / torch.log(torch.tensor(float(q.shape[1]))) for q in p])
    assert torch.equal(chosen.task_ids, uncertainty.argmin(dim=0))
    torch.testing.assert_close(chosen.scores, 1 - uncertainty.min(dim=0).values, atol=1e-5, rtol=1e-4)
    for task, (rows, found) in chosen_outputs(module, images, chosen).items():
        assert torch.equal(rows, (chosen.task_ids == task).nonzero().flatten())
        torch.testing.assert_close(found, logits[task][rows], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("method", "reads"), [("mola_grad", "mapper"), ("mola_router", "router"), ("hps", "mapper")])
@torch.no_grad()
def test_a_classifier_finds_a_visible_task(method: str, reads: str, make_model, source) -> None:
    module = make_model(method)
    choice = fit_linear_choice(module, source.dataset("train"), reads, batch_size=16)
    test = source.dataset("test")
    images = torch.stack([test[row].image for row in range(len(test))])
    chosen = choice.choose(module, images)
    assert (chosen.task_ids == torch.from_numpy(test.task_ids())).float().mean() > 0.95
    assert bool((chosen.scores >= 0.5).all())
    for task, (rows, found) in chosen_outputs(module, images, chosen).items():
        own = of_one_task(module, images[rows], module.names[task])
        torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)


def test_a_task_without_training_images(make_model) -> None:
    """What is fitted on the other tasks would call them by wrong names."""
    sizes = (("dark", 0, 3), ("bright", 4, 5))
    train = {name: (torch.rand(count, 3, 8, 8), torch.arange(count)) for name, count, _ in sizes}
    source = TensorSource({"train": train}, {name: classes for name, _, classes in sizes})
    with pytest.raises(DataError, match="of each task, and there are none of 'dark'"):
        fit_linear_choice(make_model("hps"), source.dataset("train"), "mapper")


@torch.no_grad()
def test_a_mapper_does_not_look_at_the_experts(make_model) -> None:
    from mola_lightning.prediction.choices import read_evidence

    module, images = make_model("mola_grad"), torch.rand(4, 3, 8, 8)
    before, _ = read_evidence(module, images, "mapper")
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.add_(1)
    assert torch.equal(before, read_evidence(module, images, "mapper")[0])


class Always(TaskChoice):
    name = "always"

    def __init__(self, task: int) -> None:
        self.task = task

    def choose(self, module: Any, images: Tensor) -> Chosen:
        return Chosen(torch.full((len(images),), self.task), torch.ones(len(images)))


@pytest.mark.parametrize("regime", [Regime.MULTI_INPUT, Regime.DOMAINS])
def test_what_counts_as_right(regime: Regime, make_model, source) -> None:
    """A label of another task's own classes is wrong; of classes that domains share it may be right."""
    module, test = make_model("mola_grad"), source.dataset("test")
    found = target_agnostic_accuracy(module, test, regime, {"always": Always(0)}, batch_size=7)
    assert found["always"]["dark"] == {"accuracy": found["task_id"]["dark"]["accuracy"], "task_accuracy": 1.0}
    bright = test.images[30:]
    answers = of_one_task(module, bright, "dark").argmax(dim=1)
    right = float((answers == torch.arange(30) % 5).float().mean()) if regime is Regime.DOMAINS else 0.0
    assert found["always"]["bright"] == {"accuracy": pytest.approx(right), "task_accuracy": 0.0}
    assert found["always"]["mean"]["task_accuracy"] == 0.5


def test_what_a_model_cannot_choose_by(make_model) -> None:
    with pytest.raises(ConfigError, match="no router that reads the image"):
        check_choice(make_model("mola_grad"), "router")
    with pytest.raises(ConfigError, match="no router that reads the image"):
        check_choice(make_model("hps"), "router")
    assert [default_choice(make_model(method)) for method in METHODS] == ["mapper", "router", "mapper"]


def test_tasks_that_cannot_be_chosen_among() -> None:
    check_classes(Task("a", 2))
    for task, found in ((Task("a", 1), "one class only"), (make_task("a", "multi_label", 3), "no classes")):
        with pytest.raises(NoChoice, match=f"task 'a' has {found}"):
            check_classes(task)


def test_a_classifier_is_fitted_once_a_checkpoint(make_model, source, tmp_path: Path) -> None:
    module, data, checkpoint = make_model("hps"), MultiTaskDataModule(source), tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    first = load_choice(module, "mapper", tmp_path, checkpoint, data, "key")
    data.dataset = lambda split: pytest.fail("fitted again")  # type: ignore[method-assign]
    again = load_choice(module, "mapper", tmp_path, checkpoint, data, "key")
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        load_choice(module, "mapper", tmp_path, checkpoint, data, "other data")
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        load_choice(module, "mapper", tmp_path, checkpoint, data, "key")
    with pytest.raises(ConfigError, match="must be one of 'router', 'entropy', 'mapper', got 'luck'"):
        load_choice(module, "luck", tmp_path, checkpoint, data, "key")
