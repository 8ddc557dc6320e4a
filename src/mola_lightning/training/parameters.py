"""Parameters by name: groups of the optimiser, and counts of the report."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mola_lightning.core import ConfigError

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
    """Numbers of parameters: backbone, adapters, router, heads, other (auxiliary losses, balancer), total,
    trainable.
    """
    counts = dict.fromkeys(("backbone", "adapters", "router", "heads", "other"), 0)
    for name, parameter in module.named_parameters():
        part, _, rest = name.partition(".")
        component = module.architecture.component_of(rest) if part == "architecture" else part
        counts[component if component in counts else "other"] += parameter.numel()
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return counts | {"total": sum(counts.values()), "trainable": trainable}
