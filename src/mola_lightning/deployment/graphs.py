"""Whole models as graphs: normalisation, router, backbone and heads, for any number of images."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mola_lightning.architectures import MoLA
from mola_lightning.core import ConfigError, Task, TaskRows
from mola_lightning.core.errors import first_line
from mola_lightning.deployment.artefact import write_bytes
from mola_lightning.deployment.deployable import Deployable, Normalized, need

SUFFIX = {"torch_export": ".pt2", "onnx": ".onnx"}
OPSET = 20
INPUT, BATCH = "images", "batch"
# What torch's tracer and translator raise for a network that they cannot take.
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)


class TaskGraph(nn.Module):
    """Images in [0, 1] -> the outputs of one task, by a network of its own.

    Args:
        normalized: the first step.
        net: images -> features.
        head: features, size of the images -> outputs.
        task: whose outputs they are.
    """

    def __init__(self, normalized: Normalized, net: nn.Module, head: nn.Module, task: Task) -> None:
        super().__init__()
        self.normalized, self.net, self.head, self.task = normalized, net, head, task

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> {task: (B, outputs ...)}."""
        features = self.net(self.normalized(images))
        return {self.task.name: self.task.activation(self.head(features, images.shape[-2:]))}


class ModelGraph(nn.Module):
    """Images in [0, 1] -> the outputs of some tasks, by the whole model.

    Args:
        normalized: the first step.
        module: the model.
        names: the tasks to answer, each for all images.
    """

    def __init__(self, normalized: Normalized, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.normalized, self.architecture, self.heads = normalized, module.architecture, module.heads
        self.tasks, self.answered = module.tasks, tuple(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> {task: (B, outputs ...)}."""
        every = torch.arange(images.shape[0], device=images.device)
        rows = {task.name: every if task.name in self.answered else every[:0] for task in self.tasks}
        features = self.architecture(self.normalized(images), TaskRows(rows, images.shape[0])).per_task
        size = images.shape[-2:]
        return {
            task.name: task.activation(self.heads[task.name](features[task.name], size))
            for task in self.tasks
            if task.name in self.answered
        }


def graphs_of(deployable: Deployable, tasks: Sequence[Task]) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
    """The graphs that serve some tasks: name -> the graph, and the tasks that it answers.

    One for each task; of a router that reads the images, one for all, unless their images are normalised differently.
    """
    module = deployable.module
    found: dict[str, tuple[nn.Module, tuple[str, ...]]] = {}
    names = tuple(task.name for task in tasks)
    alike = len({(p.mean, p.std) for p in (deployable.preprocessing[name] for name in names)}) == 1
    reads_images = isinstance(module.architecture, MoLA) and module.architecture.network_of(names[0]) is None
    if reads_images and len(names) > 1 and alike:
        graph = ModelGraph(Normalized(deployable.preprocessing[names[0]]), module, names)
        return {"model": (graph.eval(), names)}
    for task in tasks:
        normalized, net = Normalized(deployable.preprocessing[task.name]), module.architecture.network_of(task.name)
        one: nn.Module = ModelGraph(normalized, module, [task.name])
        if net is not None:
            one = TaskGraph(normalized, net, module.heads[task.name], task)
        found[task.name] = (one.eval(), (task.name,))
    return found


def trace(graph: nn.Module, example: Tensor, what: str) -> torch.export.ExportedProgram:
    """The graph for any number of images of the example's size.

    Args:
        graph: to trace.
        example: (B, C, H, W), B at least 2.
        what: said when it fails.

    Raises:
        ConfigError: when torch cannot trace it.
    """
    batch = torch.export.Dim(BATCH, min=1, max=65536)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(graph, (example,), dynamic_shapes={INPUT: {0: batch}}, strict=False)
    except FAILURES as error:
        raise ConfigError(
            f"torch.export cannot trace {what} ({type(error).__name__}: {first_line(error)}); architectures whose "
            "backbone is a plain network for each task (mola_grad, hps, single_task) and MoLA-Router can be exported"
        ) from error


def write_onnx(program: torch.export.ExportedProgram, names: Sequence[str], path: Path) -> None:
    """Write a graph for ONNX runtimes, of operator set 20; input ``images``, an output for each task.

    Raises:
        ConfigError: for a graph with an operator that the exporter lacks, or without the extra ``export``.
    """
    need("onnxscript", "format=onnx")
    onnx = need("onnx", "format=onnx")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(names),
                verbose=False,
            )
    except FAILURES as error:
        raise ConfigError(
            f"torch.onnx cannot translate the graph of {', '.join(names)} ({type(error).__name__}: "
            f"{first_line(error)}); use format=torch_export"
        ) from error
    assert made is not None
    model = made.model_proto
    _name_batch(model.graph)
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def _name_batch(graph: Any) -> None:
    """Call the number of images ``batch`` in an ONNX graph, instead of the tracer's ``s0``."""
    traced = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == traced:
                dim.dim_param = BATCH
