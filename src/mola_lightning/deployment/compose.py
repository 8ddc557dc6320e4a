"""A MoLA-Grad model from experts that were trained apart, on one backbone that stood still."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.errors import require
from mola_lightning.deployment.deployable import Deployable
from mola_lightning.deployment.experts import digest, read_tensors
from mola_lightning.deployment.model_folder import load_weights
from mola_lightning.deployment.specification import build
from mola_lightning.routers import TaskIdRouter

HEAD = "head."
ALTERED = "its tensors are not those of its checksum; copy it again, or export it again"


@dataclass
class ExpertFile:
    """An expert as it was read.

    Attributes:
        path: its file.
        said: its description.
        tensors: ``<layer>.lora_A`` ..., ``head.weight``, ``head.bias``.
    """

    path: Path
    said: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def task(self) -> str:
        """The task that it serves."""
        return self.said["task"]["name"]

    @property
    def layers(self) -> dict[str, Tensor]:
        """Its tensors but for the head's."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(HEAD)}


def compose(base: Path | str, experts: Sequence[Path | str]) -> Deployable:
    """Put experts of ``mola-export format=adapters`` into their backbone: a MoLA-Grad model, a task for each expert.

    Args:
        base: ``base.safetensors`` of the backbone.
        experts: files of tasks; their order becomes the order of the tasks.

    Raises:
        ConfigError: naming the expert that does not fit, and why: another backbone, other settings, a task twice.
        RunFolderError: when a file is missing, damaged or altered.
    """
    require(bool(experts), "which experts? Give one file or more: experts=[a.safetensors,b.safetensors]")
    base = Path(base)
    about, state = read_tensors(base)
    _check_kind(base, about, "base")
    if digest(state) != about["base"]["digest"]:
        raise RunFolderError(f"{base} was changed since it was exported: {ALTERED}")
    read = [ExpertFile(Path(path), *read_tensors(Path(path))) for path in experts]
    for expert in read:
        _check_kind(expert.path, expert.said, "expert")
        if digest(expert.tensors) != expert.said["digest"]:
            raise RunFolderError(f"{expert.path} was changed since it was exported: {ALTERED}")
        _check_fit(expert, read[0], base, about)
    names = [expert.task for expert in read]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"each task needs one expert, and these are given twice: {', '.join(twice)}; leave one out")
    recipe = {name: value for name, value in about["base"].items() if name != "digest"}
    deployable = build(
        {
            "image_shape": read[0].said["image_shape"],
            "backbone": recipe,
            "tasks": [expert.said["task"] for expert in read],
            "num_experts": len(read),
            "adapters": read[0].said["adapters"],
            "router": {"label": TaskIdRouter.label, "arguments": {}},
        }
    )
    deployable.facts |= {"composed_of": {"base": about["base"]["digest"], "experts": [e.path.name for e in read]}}
    load_weights(deployable.module, _assembled(state, read), f"{base} and its experts")
    return deployable


def _assembled(state: Mapping[str, Tensor], read: Sequence[ExpertFile]) -> dict[str, Tensor]:
    """The state of the composed module: experts stacked, each task's head."""
    found = {f"architecture.backbone.net.{name}": tensor for name, tensor in state.items()}
    for name in read[0].layers:
        stacked = torch.stack([expert.layers[name] for expert in read])
        found[f"architecture.backbone.net.{name}"] = stacked
    for expert in read:
        heads = {name.removeprefix(HEAD): tensor for name, tensor in expert.tensors.items() if name.startswith(HEAD)}
        found |= {f"heads.{expert.task}.{name}": tensor for name, tensor in heads.items()}
    return found


def _check_kind(path: Path, said: Mapping[str, Any], kind: str) -> None:
    parts = {"base": {"base"}, "expert": {"digest", "task", "image_shape", "base", "adapters"}}[kind]
    if said.get("kind") != kind or not parts <= set(said):
        raise ConfigError(
            f"{path} is no {kind} of mola-export format=adapters ({said.get('kind', 'something else')}), or "
            "one of an older version; base= takes base.safetensors, and experts= the files of tasks"
        )


def _check_fit(expert: ExpertFile, first: ExpertFile, base: Path, about: Mapping[str, Any]) -> None:
    """Refuse an expert that was trained on another backbone, or that does not stack with the first."""
    ours, its = about["base"]["digest"], expert.said["base"]["digest"]
    if its != ours:
        raise ConfigError(
            f"{expert.path} was trained on another backbone (checksum {its[:12]}) than {base} ({ours[:12]}). Experts "
            "fit together where the backbone stood still: adapter.freeze_backbone=true, from the same weights"
        )
    for name in ("adapters", "image_shape"):
        if expert.said[name] != first.said[name]:
            raise ConfigError(
                f"{expert.path} does not fit {first.path}: {name} {_difference(expert.said[name], first.said[name])}; "
                "train them with the same settings"
            )
    shapes = [{name: tuple(tensor.shape) for name, tensor in each.layers.items()} for each in (expert, first)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"{expert.path} does not fit {first.path}: shapes of experts {_difference(*shapes)}; export them again"
        )


def _difference(found: Any, wanted: Any) -> str:
    """The first place where two descriptions differ."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        key = next(key for key in [*found, *wanted] if found.get(key) != wanted.get(key))
        return f"{key}: {_difference(found.get(key), wanted.get(key))}"
    return f"{found} and {wanted}"
