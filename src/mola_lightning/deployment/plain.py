"""One task's network as timm makes it, with its classifier: weights that load without this package."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mola_lightning.backbones import Recipe
from mola_lightning.core import ConfigError, Task
from mola_lightning.core.tasks import as_they_are
from mola_lightning.deployment.artefact import write_bytes
from mola_lightning.deployment.deployable import Deployable, need
from mola_lightning.heads import LinearHead

SUFFIX = {"torch": ".pt", "safetensors": ".safetensors"}
INSTEAD = "export it as a graph: format=torch_export or format=onnx"


@dataclass
class PlainNetwork:
    """A timm model with the head of one task as its classifier.

    Attributes:
        net: the model, in evaluation mode.
        recipe: how timm makes it.
        num_classes: the last argument of ``timm.create_model``.
    """

    net: nn.Module
    recipe: Recipe
    num_classes: int

    @property
    def description(self) -> dict[str, Any]:
        """The arguments of ``timm.create_model``, and the layers to replace afterwards."""
        kwargs = {**self.recipe.kwargs, "num_classes": self.num_classes}
        return {"model": self.recipe.model, "kwargs": kwargs, "edits": self.recipe.edits}


def plain_network(deployable: Deployable, task: Task) -> PlainNetwork:
    """The network that serves one task by itself.

    Raises:
        ConfigError: naming what stands in the way: images that choose their experts, an architecture that is more than
            a backbone and a head, a head that is no linear layer, or a backbone that timm does not make.
    """
    module = deployable.module
    net = module.architecture.network_of(task.name)
    if net is None:
        raise ConfigError(
            f"{module.architecture.method} has no plain network for task {task.name!r}: more than a backbone and "
            f"a head answers, such as experts that each image mixes anew; {INSTEAD}"
        )
    head: Any = module.heads[task.name]
    if type(head) is not LinearHead or task.activation is not as_they_are:
        raise ConfigError(
            f"the head of task {task.name!r} is a {type(head).__name__}, and a timm model ends in one linear layer; "
            f"{INSTEAD}"
        )
    recipe = getattr(net, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            f"the backbone, a {type(net).__name__}, was not made by create_backbone or create_small_resnet with plain "
            f"values, so timm cannot make it again by its name; {INSTEAD}"
        )
    plain: Any = recipe.build(head.out_features)
    name = _classifier(plain, head, recipe.model)
    state = {**net.state_dict(), f"{name}.weight": head.weight, f"{name}.bias": head.bias}
    try:
        plain.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"the backbone is not the {recipe.model} that timm makes any more ({str(error).splitlines()[-1].strip()}); "
            f"{INSTEAD}"
        ) from error
    return PlainNetwork(plain.eval(), recipe, head.out_features)


def _classifier(net: Any, head: LinearHead, model: str) -> str:
    """The path of the classifier, after a check that the head can take its place."""
    found = net.get_classifier()
    fits = isinstance(found, nn.Linear) and found.weight.shape == head.weight.shape and found.bias is not None
    if not fits:
        raise ConfigError(
            f"the classifier of timm's {model} is {found}, in whose place a linear layer of {head.in_features} "
            f"features does not fit; {INSTEAD}"
        )
    return next(name for name, module in net.named_modules() if module is found)


def write_plain(network: PlainNetwork, facts: dict[str, Any], format: str, path: Path) -> None:
    """Write a network and what is known of it into one file.

    Args:
        network: what to write.
        facts: plain values, which the file holds too.
        format: ``torch``, a dict that ``torch.load(weights_only=True)`` reads; ``safetensors``, with the description as
            JSON in its metadata.
        path: the file.
    """
    state = {name: tensor.detach().contiguous().clone() for name, tensor in network.net.state_dict().items()}
    said = {**network.description, **facts}
    if format == "torch":
        buffer = io.BytesIO()
        torch.save({**said, "state_dict": state}, buffer)
        write_bytes(path, buffer.getvalue())
    else:
        save = need("safetensors.torch", "format=safetensors").save
        write_bytes(path, save(state, metadata={"mola": json.dumps(said, ensure_ascii=False)}))


def loading_lines(network: PlainNetwork, format: str, file: str) -> str:
    """Python that loads a file with timm and torch alone."""
    if format == "torch":
        lines = ["import timm, torch", "", f'saved = torch.load("{file}", weights_only=True)']
        weights = 'saved["state_dict"]'
    else:
        lines = ["import json, timm, torch", "from safetensors import safe_open", ""]
        lines += [f'with safe_open("{file}", "pt") as opened:']
        lines += ["    weights = {name: opened.get_tensor(name) for name in opened.keys()}"]
        lines += ['    saved = json.loads(opened.metadata()["mola"])']
        weights = "weights"
    lines.append('net = timm.create_model(saved["model"], **saved["kwargs"]).eval()')
    for path, conv in network.recipe.edits.items():
        arguments = "" if conv is None else ", ".join(f"{key}={value!r}" for key, value in conv.items())
        lines.append(f'net.set_submodule("{path}", torch.nn.{"Identity" if conv is None else "Conv2d"}({arguments}))')
    lines.append(f"net.load_state_dict({weights})")
    return "\n".join(lines)
