"""Parameters by name: groups of the optimiser, and counts of the report."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mola_lightning.core import ConfigError, Regime, TaskRows

if TYPE_CHECKING:
    from mola_lightning.training.module import MultiTaskModule


def group_parameters(module: "MultiTaskModule", patterns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trainable parameters in optimiser groups, each parameter in exactly one.

    Args:
        module: whose parameters.
        patterns: regular expression searched in names -> options; the first match wins.

    Returns:
        The parameters that match nothing, then a group for each pattern.

    Raises:
        ConfigError: for a pattern that matches no trainable parameter, or whose parameters earlier patterns took.
    """
    rest: list[Any] = []
    groups: dict[str, list[Any]] = {pattern: [] for pattern in patterns}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.get(next((p for p in patterns if re.search(p, name)), ""), rest).append(parameter)
    for pattern, members in groups.items():
        if not members:
            names = [name for name, _ in module.named_parameters()]
            raise ConfigError(
                f"parameter_groups: {pattern!r} is the first match of no trainable parameter; names look like "
                f"{', '.join(names[:3])} ... {names[-1]}"
            )
    named = [{"params": members, **patterns[pattern]} for pattern, members in groups.items()]
    return [{"params": rest}, *named] if rest else named


def count_parameters(module: "MultiTaskModule") -> dict[str, int]:
    """Numbers of parameters: backbone, adapters, router, heads, other (gates, attention, auxiliary losses, balancer),
    total, trainable.
    """
    counts = dict.fromkeys(("backbone", "adapters", "router", "heads", "other"), 0)
    for name, parameter in module.named_parameters():
        part, _, rest = name.partition(".")
        component = module.architecture.component_of(rest) if part == "architecture" else part
        counts[component if component in counts else "other"] += parameter.numel()
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return counts | {"total": sum(counts.values()), "trainable": trainable}


@torch.no_grad()
def count_multiply_adds(
    module: "MultiTaskModule", image_shape: Sequence[int], regime: Regime = Regime.DOMAINS, images_per_task: int = 8
) -> int:
    """Multiply-adds per image of a forward pass in eval mode, heads included.

    Counted on a mixed batch of blank images: what a scheme computes for all of them, though only some tasks need it,
    counts too. With a single image for each task, adapted layers would run by other plans than they do in training.

    Args:
        module: whose forward pass; left in the mode that it was in.
        image_shape: (C, H, W).
        regime: whether an image asks for one task, or for all of them.
        images_per_task: size of the batch.
    """
    device = next(module.parameters()).device
    names = [task.name for task in module.tasks]
    if regime is Regime.SINGLE_INPUT:
        rows = TaskRows.all_rows(images_per_task, names).to(device)
    else:
        rows = TaskRows.from_task_ids(torch.arange(len(names)).repeat(images_per_task), names).to(device)
    was_training = module.training
    module.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            module(torch.zeros(rows.batch_size, *image_shape, device=device), rows)
    finally:
        module.train(was_training)
    return counter.get_total_flops() // (2 * rows.batch_size)
