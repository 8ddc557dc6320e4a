"""How a backbone was made, as plain values: enough for timm alone to make it again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import timm
from torch import nn

from mola_lightning.core import ConfigError

CONV_SETTINGS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
FORBIDDEN = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


@dataclass(frozen=True)
class Recipe:
    """A call of ``timm.create_model``, and the layers that are replaced afterwards.

    Attributes:
        model: name of the model in timm.
        kwargs: arguments of ``timm.create_model`` but ``num_classes``; plain values.
        edits: path of a layer -> arguments of the ``nn.Conv2d`` that takes its place, or None for an ``nn.Identity``.
    """

    model: str
    kwargs: dict[str, Any]
    edits: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def build(self, num_classes: int = 0) -> nn.Module:
        """The network with fresh weights; with a classifier of ``num_classes``, or none.

        Raises:
            ConfigError: for a name that is no model of timm, or arguments that read files: recipes come from files that
                others may have written.
        """
        reads = FORBIDDEN & set(self.kwargs)
        if reads or not timm.is_model(self.model):
            what = f"the arguments {', '.join(sorted(reads))}" if reads else f"the name {self.model!r}"
            raise ConfigError(f"a description of a backbone has {what}, which none that was exported has; export again")
        net = timm.create_model(self.model, pretrained=False, num_classes=num_classes, **self.kwargs)
        for path, conv in self.edits.items():
            parent, _, leaf = path.rpartition(".")
            setattr(net.get_submodule(parent), leaf, nn.Identity() if conv is None else nn.Conv2d(**conv))
        return net

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        return asdict(self)


def recipe_of(model: str, kwargs: Mapping[str, Any], edits: Mapping[str, nn.Module | None]) -> Recipe | None:
    """The recipe of a network; None where an argument is no plain value, such as a class.

    Args:
        model: name of the model in timm.
        kwargs: what it was created with.
        edits: path -> the convolution that took the place of a layer, or None where nothing is computed any more.
    """
    given = {key: value for key, value in kwargs.items() if key != "num_classes"}
    try:
        given = json.loads(json.dumps(given))
    except TypeError:
        return None
    return Recipe(model, given, {path: None if conv is None else _settings(conv) for path, conv in edits.items()})


def _settings(conv: Any) -> dict[str, Any]:
    found = {name: getattr(conv, name) for name in CONV_SETTINGS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()} | {
        "bias": conv.bias is not None
    }
