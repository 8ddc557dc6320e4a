"""Export a model: files, a manifest, and a check of each file against the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mola_lightning.core import Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.core.files import atomic_write
from mola_lightning.deployment.artefact import begin_artefact, finish_artefact
from mola_lightning.deployment.cards import artefact_card
from mola_lightning.deployment.compose import compose
from mola_lightning.deployment.deployable import Deployable
from mola_lightning.deployment.experts import BASE, write_experts
from mola_lightning.deployment.graphs import OPSET, graphs_of, trace, write_onnx, write_program
from mola_lightning.deployment.graphs import SUFFIX as GRAPH_SUFFIX
from mola_lightning.deployment.load import load_file
from mola_lightning.deployment.model_folder import save_model
from mola_lightning.deployment.plain import SUFFIX as PLAIN_SUFFIX
from mola_lightning.deployment.plain import loading_lines, plain_network, write_plain
from mola_lightning.training.summary import versions

FORMATS = (*PLAIN_SUFFIX, *GRAPH_SUFFIX, "adapters", "model")


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: where.
        manifest: its content.
    """

    folder: Path
    manifest: dict[str, Any]


def export(deployable: Deployable, folder: Path | str, format: str = "torch", task: str | None = None) -> Exported:
    """Write a model for use without this package (or, as ``adapters`` and ``model``, with it).

    | format | files | for |
    |---|---|---|
    | ``torch``, ``safetensors`` | one a task: a timm model, the task's expert folded in | plain timm and torch |
    | ``torch_export``, ``onnx`` | one a task, or one for all with its router; normalisation inside | torch, ONNX |
    | ``adapters`` | the backbone once, and expert and head of each task | ``mola-compose`` |
    | ``model`` | the whole model | :func:`load_model`, the Hugging Face Hub |

    Everything is read back and compared with the model, on images that it has not seen.

    Args:
        deployable: the model.
        folder: where to; what an earlier export wrote there is replaced.
        format: one of the table.
        task: of one task only.

    Raises:
        ConfigError: for a model that has no such form, with the reason; or one whose file answers otherwise than it.
    """
    folder = Path(folder)
    one_of("format", format, FORMATS)
    tasks = deployable.tasks(task)
    if format == "model":
        require(task is None, "format=model writes the whole model; leave task out, or choose another format")
        return Exported(folder, save_model(deployable, folder))
    if format in PLAIN_SUFFIX:
        return _export_plain(deployable, folder, format, tasks)
    if format in GRAPH_SUFFIX:
        return _export_graphs(deployable, folder, format, tasks)
    files, adapters = write_experts(deployable, folder, tasks)
    entries: dict[str, dict[str, Any]] = {t.name: {"file": f"{t.name}.safetensors"} for t in tasks}
    again = compose(folder / BASE, [folder / entry["file"] for entry in entries.values()])
    difference = deployable.check_answers(again.answers, list(entries), folder)
    entries = {name: {**entry, "max_difference": difference} for name, entry in entries.items()}
    return _finish(deployable, folder, "adapters", tasks, entries, files, {"adapters": adapters})


def _export_plain(deployable: Deployable, folder: Path, format: str, tasks: Sequence[Task]) -> Exported:
    networks = {task.name: plain_network(deployable, task) for task in tasks}  # all refusals before anything is written
    begin_artefact(folder)
    entries = {}
    for task in tasks:
        name, network = task.name + PLAIN_SUFFIX[format], networks[task.name]
        facts = {"task": task.name, "image_shape": list(deployable.image_shape), **deployable.task_facts(task)}
        write_plain(network, facts, format, folder / name)
        lines = loading_lines(network, format, name)
        entries[task.name] = {"file": name, **network.description, "load": lines.splitlines()}
        entries[task.name]["max_difference"] = _check(deployable, folder, format, entries, [task.name], 1e-5)
    return _finish(deployable, folder, format, tasks, entries, [entry["file"] for entry in entries.values()], {})


def _export_graphs(deployable: Deployable, folder: Path, format: str, tasks: Sequence[Task]) -> Exported:
    graphs = {
        name: (trace(graph, deployable.example(2), f"{deployable.module.architecture.method}, {name}"), names)
        for name, (graph, names) in graphs_of(deployable, tasks).items()
    }
    begin_artefact(folder)
    entries: dict[str, dict[str, Any]] = {}
    files = []
    for graph, (program, names) in graphs.items():
        files.append(graph + GRAPH_SUFFIX[format])
        if format == "onnx":
            write_onnx(program, names, folder / files[-1])
        else:
            write_program(program, folder / files[-1])
        found = {name: {"file": files[-1]} for name in names}
        difference = _check(deployable, folder, format, found, names, 1e-4)
        entries |= {name: {**entry, "max_difference": difference} for name, entry in found.items()}
    return _finish(deployable, folder, format, tasks, entries, files, {"opset": OPSET} if format == "onnx" else {})


def _check(
    deployable: Deployable, folder: Path, format: str, entries: dict[str, Any], names: Sequence[str], tolerance: float
) -> float:
    """How far a network's file is from the model, by :meth:`Deployable.check_answers`."""
    inputs = {name: {"preprocessing": deployable.preprocessing[name].plain(), **entries[name]} for name in names}
    answers = load_file(folder, {"format": format, "tasks": inputs}, names[0])
    path = folder / entries[names[0]]["file"]
    return deployable.check_answers(answers, names, path, tolerance)


def _finish(
    deployable: Deployable,
    folder: Path,
    format: str,
    tasks: Sequence[Task],
    entries: dict[str, Any],
    files: Sequence[str],
    more: dict[str, Any],
) -> Exported:
    facts = {name: value for name, value in deployable.facts.items() if name != "metrics"}
    channels, height, width = deployable.image_shape
    manifest = {
        "format": format,
        "method": deployable.module.architecture.method,
        "license": None,
        **facts,
        "input": {
            "shape": ["batch", channels, height, width],
            "type": "float32 in [0, 1]",
            "normalized_inside": format in GRAPH_SUFFIX,
        },
        "tasks": {task.name: {**deployable.task_facts(task), **entries[task.name]} for task in tasks},
        "versions": versions(),
        **more,
    }
    with atomic_write(folder / "README.md") as file:
        file.write(artefact_card(manifest))
    return Exported(folder, finish_artefact(folder, manifest, [*files, "README.md"]))
