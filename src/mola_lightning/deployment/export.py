"""Export a model: files, a manifest, and a check of each file against the model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mola_lightning.core import Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.core.files import atomic_write
from mola_lightning.deployment.artefact import (
    README,
    abandon_artefact,
    begin_artefact,
    finish_artefact,
    listed_files,
    read_artefact,
    write_bytes,
)
from mola_lightning.deployment.cards import artefact_card
from mola_lightning.deployment.compose import compose
from mola_lightning.deployment.deployable import Deployable
from mola_lightning.deployment.experts import BASE, digest, write_experts
from mola_lightning.deployment.graphs import OPSET, graphs_of, trace, write_onnx
from mola_lightning.deployment.graphs import SUFFIX as GRAPH_SUFFIX
from mola_lightning.deployment.load import load_file
from mola_lightning.deployment.model_folder import save_model, weights_of
from mola_lightning.deployment.plain import SUFFIX as PLAIN_SUFFIX
from mola_lightning.deployment.plain import loading_lines, plain_network, write_plain
from mola_lightning.deployment.program import program_content
from mola_lightning.training.summary import versions

# Entries by task, files, and what else the manifest says.
Written = tuple[dict[str, dict[str, Any]], list[str], dict[str, Any]]
# In what two exports must agree for their tasks to be of one manifest.
SAME = ("format", "method", "license", "run", "composed_of", "weights", "input")
FORMATS = (*PLAIN_SUFFIX, *GRAPH_SUFFIX, "adapters", "model")


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: where.
        manifest: its content.
        kept: tasks of an earlier export that stay.
        removed: files of an earlier export that are there no more.
    """

    folder: Path
    manifest: dict[str, Any]
    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


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
        folder: where to; what an earlier export wrote there is replaced, but for other tasks of the same model, run,
            checkpoint and format, which stay when one task is exported.
        format: one of the table.
        task: of one task only.

    Raises:
        ConfigError: for a model that has no such form, with the reason; or one whose file answers otherwise than it.
    """
    folder = Path(folder)
    one_of("format", format, FORMATS)
    tasks = deployable.tasks(task)
    earlier = listed_files(folder)
    try:
        manifest = _written(deployable, folder, format, task)
    except BaseException:
        abandon_artefact(folder)
        raise
    names = {task.name for task in tasks}
    return Exported(
        folder,
        manifest,
        tuple(name for name in manifest["tasks"] if name not in names),
        tuple(sorted(earlier - set(manifest["files"]))),
    )


def _written(deployable: Deployable, folder: Path, format: str, task: str | None) -> dict[str, Any]:
    """Write files and manifest; the manifest."""
    if format == "model":
        require(task is None, "format=model writes the whole model; leave task out, or choose another format")
        return save_model(deployable, folder)
    tasks, said = deployable.tasks(task), _said(deployable, format)
    kept = _kept(folder, said, tasks)
    write = {
        **dict.fromkeys(PLAIN_SUFFIX, _export_plain),
        **dict.fromkeys(GRAPH_SUFFIX, _export_graphs),
        "adapters": _export_experts,
    }[format]
    return _finish(deployable, folder, said, kept, *write(deployable, folder, format, tasks, _files(kept)))


def _export_plain(
    deployable: Deployable, folder: Path, format: str, tasks: Sequence[Task], keep: Collection[str]
) -> Written:
    networks = {task.name: plain_network(deployable, task) for task in tasks}  # all refusals before anything is written
    begin_artefact(folder, keep)
    entries = {}
    for task in tasks:
        name, network = task.name + PLAIN_SUFFIX[format], networks[task.name]
        facts = {"task": task.name, "image_shape": list(deployable.image_shape), **deployable.task_facts(task)}
        write_plain(network, facts, format, folder / name)
        lines = loading_lines(network, format, name)
        entries[task.name] = {"file": name, **network.description, "load": lines.splitlines()}
        entries[task.name]["max_difference"] = _check(deployable, folder, format, entries, [task.name], 1e-5)
    return entries, _files(entries), {}


def _export_graphs(
    deployable: Deployable, folder: Path, format: str, tasks: Sequence[Task], keep: Collection[str]
) -> Written:
    graphs = {
        name: (trace(graph, deployable.example(2), f"{deployable.module.architecture.method}, {name}"), names)
        for name, (graph, names) in graphs_of(deployable, tasks).items()
    }
    contents = {}
    if format == "torch_export":
        contents = {graph: program_content(program, graph) for graph, (program, _) in graphs.items()}
    begin_artefact(folder, keep)
    entries: dict[str, dict[str, Any]] = {}
    for graph, (program, names) in graphs.items():
        file = graph + GRAPH_SUFFIX[format]
        if format == "onnx":
            write_onnx(program, names, folder / file)
        else:
            write_bytes(folder / file, contents[graph])
        found = {name: {"file": file} for name in names}
        difference = _check(deployable, folder, format, found, names, 1e-4)
        entries |= {name: {**entry, "max_difference": difference} for name, entry in found.items()}
    return entries, _files(entries), {"opset": OPSET} if format == "onnx" else {}


def _export_experts(
    deployable: Deployable, folder: Path, format: str, tasks: Sequence[Task], keep: Collection[str]
) -> Written:
    files, adapters = write_experts(deployable, folder, tasks, keep)
    experts = {task.name: f"{task.name}.safetensors" for task in tasks}
    again = compose(folder / BASE, [folder / file for file in experts.values()])
    difference = deployable.check_answers(again.answers, list(experts), folder)
    entries = {name: {"file": file, "max_difference": difference} for name, file in experts.items()}
    return entries, files, {format: adapters}


def _check(
    deployable: Deployable, folder: Path, format: str, entries: dict[str, Any], names: Sequence[str], tolerance: float
) -> float:
    """How far a network's file is from the model, by :meth:`Deployable.check_answers`."""
    inputs = {name: {"preprocessing": deployable.preprocessing[name].plain(), **entries[name]} for name in names}
    answers = load_file(folder, {"format": format, "tasks": inputs}, names[0])
    path = folder / entries[names[0]]["file"]
    return deployable.check_answers(answers, names, path, tolerance)


def _said(deployable: Deployable, format: str) -> dict[str, Any]:
    """What a manifest says of all tasks alike."""
    channels, height, width = deployable.image_shape
    return {
        "format": format,
        "method": deployable.module.architecture.method,
        "license": None,
        **{name: value for name, value in deployable.facts.items() if name != "metrics"},
        "weights": digest(weights_of(deployable.module)),
        "input": {
            "shape": ["batch", channels, height, width],
            "type": "float32 in [0, 1]",
            "normalized_inside": format in GRAPH_SUFFIX,
        },
    }


def _kept(folder: Path, said: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """The entries of other tasks by an earlier export of the same; none where it was of anything else."""
    try:
        earlier = read_artefact(folder)
    except OSError:
        return {}
    if any(earlier.get(name) != said.get(name) for name in SAME):
        return {}
    written = {task.name for task in tasks}
    return {name: entry for name, entry in earlier["tasks"].items() if name not in written}


def _files(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(entry["file"] for entry in entries.values()))


def _finish(
    deployable: Deployable,
    folder: Path,
    said: Mapping[str, Any],
    kept: Mapping[str, dict[str, Any]],
    entries: Mapping[str, dict[str, Any]],
    files: Sequence[str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Write README and manifest; the manifest."""
    # A graph of several tasks may have had the name of the file that was written now.
    tasks = {name: entry for name, entry in kept.items() if entry["file"] not in files}
    tasks |= {
        task.name: {**deployable.task_facts(task), **entries[task.name]}
        for task in deployable.module.tasks
        if task.name in entries
    }
    manifest = {
        **said,
        "tasks": {name: tasks[name] for name in deployable.module.names if name in tasks},
        "versions": versions(),
        **more,
    }
    with atomic_write(folder / README) as file:
        file.write(artefact_card(manifest))
    return finish_artefact(folder, manifest, list(dict.fromkeys([*files, *_files(tasks), README])))
