"""What every sharing scheme is: images, and which rows belong to which task, in; features of each task's rows out."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeAlias

from torch import Tensor, nn

from mola_lightning.backbones import create_backbone
from mola_lightning.core import ConfigError, Regime, Routing, Task, TaskRows, check_tasks

# called as backbone(in_channels=C, image_size=(H, W) or None)
BackboneFactory = Callable[..., nn.Module]
# what users give as one: a timm name, a module (copied where several are needed), or a factory
BackboneLike: TypeAlias = str | nn.Module | BackboneFactory


@dataclass
class Features:
    """What an architecture gives.

    Attributes:
        per_task: task name -> features (n_t, D, ...) of ``rows[name]``; an entry for every task, of 0 rows if absent.
        routing: the routing of the rows that ran through the backbone, for architectures that route.
        routed: which task each routed row served, where the backbone ran (row, task) queries instead of the batch's
            rows.
        penalties: name -> scalar to add to the training loss, its weight included; the names are the class's
            ``penalty_names``.
    """

    per_task: dict[str, Tensor]
    routing: Routing | None = None
    routed: TaskRows | None = None
    penalties: dict[str, Tensor] = field(default_factory=dict)


class Architecture(nn.Module, ABC):
    """Base of the sharing schemes.

    Args:
        tasks: all tasks, in task order.

    Attributes:
        regimes: the regimes that the scheme's definition allows.
        method: its name in tables and of run folders; of an object it is what :meth:`method_of` says.
        num_features: D of the features, which heads read.
        num_experts: E, or 0 without experts.
        learned_logits: whether the routing carries logits that auxiliary losses can act on.
        penalty_names: names of the penalties that it adds to the training loss.
    """

    regimes: ClassVar[frozenset[Regime]] = frozenset(Regime)
    method: str
    num_features: int
    num_experts: int = 0
    learned_logits: bool = False
    penalty_names: tuple[str, ...] = ()

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = check_tasks(tasks)

    @classmethod
    def method_of(cls, **parts: Any) -> str:
        """``method`` of an object with these parts, without building one: folders are named before data are read.

        Args:
            **parts: argument of the constructor -> class of what is given there; schemes take what their name says.
        """
        return cls.method

    @abstractmethod
    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Features of each task's rows.

        Args:
            images: (B, C, H, W).
            rows: which rows carry which task.
        """

    def check_regime(self, regime: Regime) -> None:
        """Raise :class:`ConfigError` when the scheme is not defined for ``regime``."""
        if regime not in self.regimes:
            allowed = ", ".join(sorted(r.value for r in self.regimes))
            raise ConfigError(
                f"{type(self).__name__} is not defined for the {regime.value} regime of this data, only for: "
                f"{allowed}. Choose another architecture=..."
            )

    def runs_whole(self, regime: Regime | None) -> bool:
        """Whether every batch runs through every part, whichever tasks it has; else a task's part rests without it.

        Args:
            regime: of the data; None where it is not known.
        """
        return False

    def network_of(self, task: str) -> nn.Module | None:
        """A network by itself, (B, C, H, W) -> the task's features; None where the scheme has none that is plain.

        Its parameters may be the scheme's own: a caller does not change them.
        """
        return None

    def set_progress(self, epoch: int, epochs: int | None) -> None:
        """Hear that ``epoch`` (from 0) of ``epochs`` begins, or of a training without end; most schemes do not care."""

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters that several tasks' losses pull on; where gradients can conflict."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def component_of(self, parameter_name: str) -> str:
        """``backbone``, ``adapters``, ``router`` or ``other``: what one of ``named_parameters`` is counted as."""
        return "backbone"

    def complete(self, found: Mapping[str, Tensor], rows: TaskRows, images: Tensor) -> dict[str, Tensor]:
        """Features of every task in task order: of 0 rows for those not ``found``, because absent from the batch."""
        like = next(iter(found.values()), images.new_zeros(0, self.num_features)).detach()
        return {name: found.get(name, like[:0]) for name in rows}


def backbone_factory(backbone: BackboneLike) -> BackboneFactory:
    """A factory from whatever users give: a timm name, a module (copied at each call), or a factory."""
    if isinstance(backbone, str):
        return partial(create_backbone, backbone)
    if isinstance(backbone, nn.Module):
        given = backbone  # the copies start from equal weights, as pretrained ones do
        return lambda **_: copy.deepcopy(given)
    if callable(backbone):
        return backbone
    raise ConfigError(f"backbone must be a timm name, a module or a factory, got {backbone!r}")


def build_backbone(backbone: BackboneLike, image_shape: Sequence[int] | None) -> nn.Module:
    """One network with the attribute ``num_features``, for images of ``image_shape`` (C, H, W); any size when None."""
    channels, size = (3, None) if image_shape is None else (image_shape[0], tuple(image_shape[1:]))
    net = backbone_factory(backbone)(in_channels=channels, image_size=size)
    if not isinstance(getattr(net, "num_features", None), int):
        raise ConfigError(
            f"a backbone must have the integer attribute num_features, the width of the features it gives; "
            f"{type(net).__name__} has none. Set it: net.num_features = ..."
        )
    return net
