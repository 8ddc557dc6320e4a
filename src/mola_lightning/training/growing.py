"""A model of more tasks from one of fewer: what was learned is copied, and which parts of it are new is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mola_lightning.adapters import is_adapter_parameter
from mola_lightning.architectures import MoLA
from mola_lightning.core import ConfigError

OWN_TO_A_RUN = ("balancer.", "auxiliary.", "meters.")  # of a training, not of its model: these begin anew
LAST = "architecture.router.fc."  # a row for each expert


class OldRows:
    """The part of a stacked parameter that belongs to the experts of the base.

    Args:
        parameter: (E, ...), a row for each expert.
        old: (E_old, ...), what its first rows must stay.
    """

    def __init__(self, parameter: nn.Parameter, old: Tensor) -> None:
        self.parameter, self.old = parameter, old

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what an optimiser did to them: weight decay and momentum move rows without a gradient, too."""
        self.parameter[: len(self.old)] = self.old.to(self.parameter.device)


def check_growth(module: Any, tasks: Sequence[str]) -> list[str]:
    """The names of the tasks that a module has beyond those of its base.

    Args:
        module: a MultiTaskModule.
        tasks: of the base, in order.

    Raises:
        ConfigError: unless the module is a MoLA with the base's tasks first, in their order, and at least one more.
    """
    names = list(module.names)
    if not isinstance(module.architecture, MoLA):
        raise ConfigError(
            f"a task can be added to MoLA only, whose experts can be frozen apart; this is {module.architecture.method}"
        )
    if names[: len(tasks)] != list(tasks) or len(names) == len(tasks):
        raise ConfigError(
            f"the tasks of the data must be those of the base run, in their order, and then new ones: the base has "
            f"{', '.join(tasks)}, the data have {', '.join(names)}"
            + ("; there is no new one" if names == list(tasks) else "")
        )
    return names[len(tasks) :]


@torch.no_grad()
def grow(module: Any, state: Mapping[str, Tensor], tasks: Sequence[str]) -> list[OldRows]:
    """Copy a base into a module of more tasks, and let only what is new be trained.

    Trained are the new experts, the heads of the new tasks, and under a router that reads the image the new rows of
    its last layer, which start as those of a new layer.

    Args:
        module: a MultiTaskModule, newly built.
        state: the ``state_dict`` of the base.
        tasks: of the base, in order.

    Returns:
        The old rows of parameters of which a part is trained: to be restored after each step.

    Raises:
        ConfigError: when the module cannot have grown from the base: another backbone, rank, or fewer experts.
    """
    new = check_growth(module, tasks)
    by_task_id = module.architecture.router.needs_task_ids
    own, rows = module.state_dict(), []
    parameters = dict(module.named_parameters())
    for name, value in own.items():
        head = name.startswith("heads.") and name.split(".")[1] in new
        if name.startswith(OWN_TO_A_RUN) or head:
            continue
        old = state.get(name)
        stacked = is_adapter_parameter(name) or name.startswith(LAST)
        fits = old is not None and (
            old.shape[1:] == value.shape[1:] and len(old) <= len(value) if stacked else old.shape == value.shape
        )
        if old is None or not fits:
            found = "nothing" if old is None else tuple(old.shape)
            raise ConfigError(
                f"this model does not grow from the base run: {name} is {tuple(value.shape)} here and {found} there. "
                "Take the base run's backbone, adapter and router settings."
            )
        if stacked:
            value[: len(old)] = old
            used = len(tasks) if by_task_id else len(old)  # experts beyond the tasks were never trained
            rows.append(OldRows(parameters[name], old[:used].clone()))
            parameters[name].requires_grad_(used < len(value))
        else:
            value.copy_(old)
            if name in parameters:
                parameters[name].requires_grad_(False)
    return rows


def rest_norms(module: Any, new: Sequence[str]) -> None:
    """Keep what is frozen in evaluation mode, so that running statistics and dropout stay out of a training."""
    module.architecture.backbone.eval()
    for part in module.architecture.router.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    for name, head in module.heads.items():
        if name not in new:
            head.eval()


def without_task(state: Mapping[str, Tensor], tasks: Sequence[str], task: str, by_task_id: bool) -> dict[str, Tensor]:
    """A state without a task: its head, and under routing by task id its expert, are cut out.

    Args:
        state: a ``state_dict``.
        tasks: of the model, in order.
        task: the one to remove.
        by_task_id: whether expert t is of task t. Else experts belong to no task, and all stay.
    """
    if task not in tasks or len(tasks) == 1:
        raise ConfigError(f"cannot remove task {task!r}: the model has the tasks {', '.join(tasks)}, and needs one")
    index, kept = tasks.index(task), {}
    for name, value in state.items():
        if name.startswith(f"heads.{task}.") or name.startswith(OWN_TO_A_RUN):
            continue
        cut = by_task_id and is_adapter_parameter(name)
        kept[name] = torch.cat([value[:index], value[index + 1 :]]) if cut else value
    return kept
