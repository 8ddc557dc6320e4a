"""Experts apart from their backbone: the backbone once, and a few hundred kilobytes to megabytes for each task."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mola_lightning.adapters import AdaptedBackbone, is_adapter_parameter
from mola_lightning.architectures import MoLA
from mola_lightning.backbones import Recipe
from mola_lightning.core import ConfigError, RunFolderError, Task
from mola_lightning.core.errors import require
from mola_lightning.core.tasks import as_they_are
from mola_lightning.deployment.artefact import begin_artefact, write_bytes
from mola_lightning.deployment.deployable import Deployable, need
from mola_lightning.heads import LinearHead

BASE = "base.safetensors"


def write_experts(
    deployable: Deployable, folder: Path, tasks: Sequence[Task], keep: Collection[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """Write ``base.safetensors`` and a file for each task; their names, and what the manifest says of them.

    Args:
        deployable: the model.
        folder: where to.
        tasks: whose experts.
        keep: files of an earlier export that stay.

    Raises:
        ConfigError: for a model without an expert for each task, a head that is no linear layer, or a backbone that
            timm does not make.
    """
    architecture, heads = deployable.module.architecture, deployable.module.heads
    if not isinstance(architecture, MoLA) or not architecture.router.needs_task_ids:
        raise ConfigError(
            f"format=adapters is for MoLA-Grad, where each task has an expert; in {architecture.method} no expert "
            "serves a task by itself. Use format=model, or a graph"
        )
    backbone = architecture.backbone
    state = base_state(backbone)
    base = {"digest": digest(state), **described_backbone(backbone).plain()}
    for task in tasks:
        check_head(heads[task.name], task)
        require(f"{task.name}.safetensors" != BASE, f"a task called {task.name!r} would take the file of the backbone")
    begin_artefact(folder, keep)
    write_tensors(folder / BASE, state, {"kind": "base", "base": base})
    settings = adapter_settings(backbone)
    for task in tasks:
        expert = architecture.tasks.index(task)
        tensors = {
            f"{path}.{name}": parameter[expert]
            for path, layer in backbone.adapted.items()
            for name, parameter in layer.named_parameters(recurse=False)
            if is_adapter_parameter(name)
        }
        tensors |= {f"head.{name}": parameter for name, parameter in heads[task.name].named_parameters()}
        said = {
            "kind": "expert",
            "digest": digest(tensors),
            "task": {"name": task.name, **deployable.task_facts(task)},
            "image_shape": list(deployable.image_shape),
            "base": {"digest": base["digest"]},
            "adapters": settings,
        }
        write_tensors(folder / f"{task.name}.safetensors", tensors, said)
    return [BASE, *(f"{task.name}.safetensors" for task in tasks)], {"base": base["digest"], **settings}


def base_state(backbone: AdaptedBackbone) -> dict[str, Tensor]:
    """The backbone without experts, in the names of the plain network."""
    return {name: tensor for name, tensor in backbone.net.state_dict().items() if not is_adapter_parameter(name)}


def digest(state: Mapping[str, Tensor]) -> str:
    """A checksum of names, shapes, types and values of tensors: two backbones with the same are the same."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def adapter_settings(backbone: AdaptedBackbone) -> dict[str, Any]:
    """Kind, alpha, and rank of each adapted layer."""
    layers = backbone.adapted
    first = next(iter(layers.values()))
    return {"kind": first.kind_name, "alpha": first.alpha, "ranks": {path: each.rank for path, each in layers.items()}}


def described_backbone(net: Any) -> Recipe:
    """How timm makes the network, adapted or not.

    Raises:
        ConfigError: when it was made otherwise.
    """
    recipe = getattr(net.net if isinstance(net, AdaptedBackbone) else net, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            "the backbone was not made by create_backbone or create_small_resnet with plain values, so its file could "
            "not say how to make it again; export graphs: format=torch_export or format=onnx"
        )
    return recipe


def check_head(head: Any, task: Task) -> None:
    """Refuse a head that a file cannot describe, or an activation of the task's own after it."""
    then = "" if task.activation is as_they_are else " with an activation after it"
    if type(head) is not LinearHead or then:
        raise ConfigError(
            f"the head of task {task.name!r} is a {type(head).__name__}{then}, and files of experts and models know "
            "linear heads alone; export graphs: format=torch_export or format=onnx"
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
    """A safetensors file with a description as JSON in its metadata."""
    save = need("safetensors.torch", "a safetensors file").save
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, metadata={"mola": json.dumps(said, ensure_ascii=False)}))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a safetensors file of ours.

    Raises:
        RunFolderError: when it is missing, damaged, or of somebody else.
    """
    safetensors = need("safetensors", "a safetensors file")
    if not path.is_file():
        raise RunFolderError(f"there is no file {path}; give one that mola-export format=adapters wrote")
    try:
        with safetensors.safe_open(str(path), "pt") as opened:
            said = json.loads((opened.metadata() or {})["mola"])
            return said, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise RunFolderError(
            f"cannot read {path}: it is damaged or truncated, or not one of ours ({error}); export it again"
        ) from error
