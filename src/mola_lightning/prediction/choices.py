"""Which task does an image belong to? Three ways to choose a head where nobody says it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.analysis.forced import fixed_mixing, routes
from mola_lightning.architectures import HPS
from mola_lightning.core import ConfigError, ModelOutput, Routing, Task, TaskRows

CHOICES = ("router", "entropy", "mapper")


@dataclass
class Chosen:
    """A choice for B images.

    Attributes:
        task_ids: (B,) int64.
        scores: (B,) how sure the choice is, from 0 to 1.
        output: of the model, where the choice was made from it; its rows are :func:`every_task`.
    """

    task_ids: Tensor
    scores: Tensor
    output: ModelOutput | None = None


def every_task(names: tuple[str, ...], images: Tensor) -> TaskRows:
    """Each image as a row of each task."""
    return TaskRows.all_rows(len(images), names).to(images.device)


class NoChoice(ConfigError):
    """A model that has nothing to choose a task by, or tasks that cannot be chosen among."""


def check_classes(task: Task) -> None:
    """Raise :class:`NoChoice` unless each image has one class of a task, of two or more."""
    if not task.discrete or task.num_outputs < 2:  # of one class every answer is certain: sureness is 0 / 0
        found = "one class only" if task.discrete else "no classes"
        raise NoChoice(
            f"task {task.name!r} has {found}, so its answers cannot be compared with those of other tasks; name the "
            "task of the images (mola-predict task=<name>), or evaluate with task ids"
        )


class TaskChoice(ABC):
    """Base of the ways to choose."""

    name: ClassVar[str]

    @abstractmethod
    def choose(self, module: Any, images: Tensor) -> Chosen:
        """The task of each of B images (B, C, H, W).

        Args:
            module: a MultiTaskModule in evaluation mode.
            images: on its device.
        """


class LeastEntropy(TaskChoice):
    """Every task answers (under MoLA-Grad each with its own expert), and the surest one is right.

    Sureness is 1 - H(p) / log C of the C classes' probabilities, so that tasks with more classes are not less sure.
    Under routing by task id this costs a pass of the backbone for each task.
    """

    name = "entropy"

    def choose(self, module: Any, images: Tensor) -> Chosen:
        output = module(images, every_task(module.names, images))
        sureness = torch.stack([_sureness(output.predictions[name]) for name in module.names], dim=1)
        scores, ids = sureness.max(dim=1)
        return Chosen(ids, scores, output)


def _sureness(logits: Tensor) -> Tensor:
    """(B, C) -> (B,): 1 for one certain class, 0 for equal probabilities."""
    if logits.ndim != 2:
        raise ConfigError("tasks with a target for each pixel have no single answer whose sureness could be compared")
    log_p = F.log_softmax(logits.float(), dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    return 1 - entropy / torch.tensor(float(logits.shape[1])).log()


class LinearChoice(TaskChoice):
    """A linear classifier of tasks over what the model knows of an image before any head is chosen.

    Args:
        reads: ``router``: the router's logits, of which the mixing weights are made; ``mapper``: the features of the
            shared backbone with all experts off.
        weight: (T, D).
        bias: (T,).
    """

    def __init__(self, reads: str, weight: Tensor, bias: Tensor) -> None:
        self.reads, self.weight, self.bias = reads, weight, bias

    @property
    def name(self) -> str:  # type: ignore[override]
        """What it reads."""
        return self.reads

    def choose(self, module: Any, images: Tensor) -> Chosen:
        evidence, output = read_evidence(module, images, self.reads)
        logits = F.linear(evidence.float(), self.weight.to(evidence.device), self.bias.to(evidence.device))
        scores, ids = logits.softmax(dim=1).max(dim=1)
        return Chosen(ids, scores, output)


def check_choice(module: Any, by: str) -> None:
    """Raise :class:`NoChoice` when a model has nothing that the choice could be made by.

    Args:
        module: a MultiTaskModule.
        by: one of :data:`CHOICES`.
    """
    architecture = module.architecture
    if by == "router" and not (routes(architecture) and architecture.learned_logits):
        raise NoChoice(
            f"{architecture.method} has no router that reads the image; choose the task by 'entropy' or 'mapper'"
        )
    if by == "mapper" and not (routes(architecture) or isinstance(architecture, HPS)):
        raise NoChoice(
            f"{architecture.method} has no features that all tasks share, for a mapper to read; choose by 'entropy'"
        )
    for task in module.tasks:
        check_classes(task)


def default_choice(module: Any) -> str:
    """The router where it reads the image; else the mapper; entropy where tasks share no features."""
    for by in ("router", "mapper"):
        try:
            check_choice(module, by)
        except NoChoice:
            continue
        return by
    return "entropy"


def read_evidence(module: Any, images: Tensor, reads: str) -> tuple[Tensor, ModelOutput | None]:
    """What a :class:`LinearChoice` reads, (B, D), and the model's output where it came along."""
    architecture, rows = module.architecture, every_task(module.names, images)
    if reads == "router":
        output = module(images, rows)
        routing: Routing = output.routing
        assert routing.logits is not None  # by check_choice
        return routing.logits, output
    if isinstance(architecture, HPS):
        return _flat(architecture(images, rows).per_task[module.names[0]]), None
    with fixed_mixing(architecture, torch.zeros(architecture.num_experts)):
        return _flat(architecture(images, rows).per_task[module.names[0]]), None


def _flat(features: Tensor) -> Tensor:
    if features.ndim != 2:
        raise ConfigError("a mapper reads pooled features (B, D), and this backbone keeps its map for dense heads")
    return features
