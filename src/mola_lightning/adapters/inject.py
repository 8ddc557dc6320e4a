"""Replace layers of any network by their adapted forms, by name."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from timm.layers import Conv2dSame
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.conv import AdaptedConv2d, AdaptedConv2dSame
from mola_lightning.adapters.linear import AdaptedLinear
from mola_lightning.adapters.scope import MixingScope
from mola_lightning.core import ConfigError

ADAPTED_TYPES: dict[type[nn.Module], type[AdaptedLayer]] = {
    nn.Conv2d: AdaptedConv2d,
    Conv2dSame: AdaptedConv2dSame,
    nn.Linear: AdaptedLinear,
}


@dataclass
class InjectionReport:
    """What ``inject`` did.

    Attributes:
        adapted: path -> rank of each replaced layer.
        skipped: path -> reason, for layers that matched and were left as they are.
    """

    adapted: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def skipped_line(self) -> str:
        """How many layers were skipped, and why, in one line."""
        reasons = Counter(self.skipped.values())
        said = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        return f"{len(self.adapted)} layers adapted, {len(self.skipped)} skipped: {said}"

    def __str__(self) -> str:
        """One line a layer."""
        lines = [f"{len(self.adapted)} layers adapted"]
        lines += [f"  {path}: rank {rank}" for path, rank in self.adapted.items()]
        if self.skipped:
            lines += [f"{len(self.skipped)} layers skipped"]
            lines += [f"  {path}: {reason}" for path, reason in self.skipped.items()]
        return "\n".join(lines)


def inject(
    net: nn.Module,
    *,
    num_experts: int,
    rank: int = 4,
    alpha: float = 16,
    kind: str = "reshaped",
    target_modules: Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    rank_pattern: Mapping[str, int] | None = None,
    plan: str = "auto",
    scope: MixingScope | None = None,
) -> InjectionReport:
    """Replace, in place, the layers of ``net`` whose dotted path matches, by adapted layers of the same type.

    Weights and biases keep their state-dict keys. Patterns are regular expressions searched in the path.

    Args:
        net: any network; Conv2d, timm's Conv2dSame and Linear layers can be adapted.
        num_experts: E.
        rank: r, where no ``rank_pattern`` matches.
        alpha: the experts' output is scaled by alpha / rank.
        kind: ``reshaped`` (the paper's), ``factorised`` (PEFT's) or ``full``.
        target_modules: patterns of the layers to adapt; None for all that can be.
        exclude_modules: patterns of layers to leave alone, stronger than ``target_modules``.
        rank_pattern: pattern -> rank; the first that matches wins.
        plan: ``auto``, ``low_rank``, ``merged`` or ``dense``.
        scope: the scope that gives the layers their mixing; a new one by default.

    Returns:
        What was replaced and what was skipped, and why.

    Raises:
        ConfigError: when nothing matches, when a pattern matches nothing, or when a matched layer cannot be adapted.
    """
    scope = scope or MixingScope()
    rank_pattern = dict(rank_pattern or {})
    report = InjectionReport()
    layers = {path: m for path, m in net.named_modules(remove_duplicate=False) if isinstance(m, (nn.Conv2d, nn.Linear))}
    _check_patterns([*(target_modules or []), *exclude_modules, *rank_pattern], layers)
    replaced: dict[int, AdaptedLayer] = {}
    for path, layer in layers.items():
        wanted = target_modules is None or any(re.search(pattern, path) for pattern in target_modules)
        if not wanted or any(re.search(pattern, path) for pattern in exclude_modules):
            continue
        reason = _skip_reason(layer, kind)
        if reason:
            report.skipped[path] = reason
            continue
        if not path:
            raise ConfigError(
                f"the network itself is a {type(layer).__name__}, which nothing holds, so nothing can take its place; "
                "wrap it: nn.Sequential(net)"
            )
        layer_rank = next((r for pattern, r in rank_pattern.items() if re.search(pattern, path)), rank)
        if id(layer) not in replaced:  # one layer under two names stays one layer
            adapted = _adapted_type(path, layer)
            replaced[id(layer)] = adapted(
                layer, num_experts=num_experts, rank=layer_rank, alpha=alpha, kind=kind, scope=scope, plan=plan
            )
        parent, _, leaf = path.rpartition(".")
        setattr(net.get_submodule(parent), leaf, replaced[id(layer)])
        report.adapted[path] = layer_rank
    if not report.adapted:
        raise ConfigError(f"no layer was adapted: {_nothing(target_modules, exclude_modules, report, layers)}")
    return report


def _check_patterns(patterns: Sequence[str], layers: Mapping[str, nn.Module]) -> None:
    for pattern in patterns:
        try:
            hit = any(re.search(pattern, path) for path in layers)
        except re.error as error:
            raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from None
        if not hit:
            raise ConfigError(f"the pattern {pattern!r} matches no Conv2d or Linear layer; there are: {_some(layers)}")


def _skip_reason(layer: nn.Module, kind: str) -> str:
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.weight.shape[1] == 1
    if depthwise and kind != "full":
        return "depthwise: low-rank factors would be larger than the kernel (kind='full' adapts it)"
    return ""


def _adapted_type(path: str, layer: nn.Module) -> type[AdaptedLayer]:
    if isinstance(layer, AdaptedLayer):
        raise ConfigError(f"{path} is adapted already; inject a network once")
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        raise ConfigError(
            f"{path} belongs to nn.MultiheadAttention, which reads its weight without calling it: an adapter there "
            f"would do nothing. Leave it out with exclude_modules=[r'{re.escape(path)}$'], or use a timm attention."
        )
    if type(layer) not in ADAPTED_TYPES:
        names = ", ".join(t.__name__ for t in ADAPTED_TYPES)
        raise ConfigError(
            f"{path} is a {type(layer).__name__}, which changes how its weight is used; layers of exactly these types "
            f"can be adapted: {names}. Leave it out with exclude_modules."
        )
    return ADAPTED_TYPES[type(layer)]


def _nothing(
    target: Sequence[str] | None, exclude: Sequence[str], report: InjectionReport, layers: Mapping[str, nn.Module]
) -> str:
    if report.skipped:
        return f"all that matched were skipped. {report}"
    if not layers:
        return "the network has no Conv2d or Linear layer"
    return f"target_modules={target} without exclude_modules={list(exclude)} leaves none of: {_some(layers)}"


def _some(layers: Mapping[str, nn.Module]) -> str:
    names = list(layers)
    return ", ".join(names[:12]) + (f" ... ({len(names)} in all)" if len(names) > 12 else "")
