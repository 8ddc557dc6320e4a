"""A backbone with experts: the network, its adapted layers, and the mixing that runs through them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.checkpointing import CheckpointBoundary, wrap_checkpoints
from mola_lightning.adapters.explain import PlanLine, observed
from mola_lightning.adapters.inject import inject
from mola_lightning.adapters.kinds import is_adapter_parameter
from mola_lightning.adapters.merge import merged_copy
from mola_lightning.adapters.scope import Mixing, MixingScope
from mola_lightning.core import ConfigError, Routing

log = logging.getLogger(__name__)


class AdaptedBackbone(nn.Module):
    """Any network with a mixture of low-rank adapters inside (MoLA, Zhou et al., ICML 2024).

    ``backbone(images, routing)`` runs each row b with the weights W + sum_e mixing[b, e] Delta_e in each adapted layer.
    Everything trains by default: backbone, norms and adapters.

    Args:
        net: the network, changed in place; pretrained weights stay, their state-dict keys too.
        num_experts: E.
        rank: r, where no ``rank_pattern`` matches.
        alpha: the experts' output is scaled by alpha / rank.
        kind: ``reshaped`` (the paper's), ``factorised`` (PEFT's) or ``full`` (full-rank experts).
        target_modules: regular expressions searched in layer paths; None adapts every layer that can be.
        exclude_modules: regular expressions of layers to leave alone.
        rank_pattern: regular expression -> rank; the first that matches wins.
        plan: ``auto`` picks the cheapest exact plan per layer; ``low_rank``, ``merged`` or ``dense`` sets a family.
        checkpoint_modules: regular expressions of blocks to run under activation checkpointing.
        freeze_backbone: train the adapters only; the network's own parameters and norm statistics stand still.

    Attributes:
        report: which layers were adapted and which were skipped, and why.

    Raises:
        ConfigError: for bad settings, a pattern without a match, or a layer that cannot be adapted.
    """

    def __init__(
        self,
        net: nn.Module,
        num_experts: int,
        rank: int = 4,
        alpha: float = 16,
        kind: str = "reshaped",
        target_modules: Sequence[str] | None = None,
        exclude_modules: Sequence[str] = (),
        rank_pattern: Mapping[str, int] | None = None,
        plan: str = "auto",
        checkpoint_modules: Sequence[str] = (),
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.scope = MixingScope()
        self.report = inject(
            net,
            num_experts=num_experts,
            rank=rank,
            alpha=alpha,
            kind=kind,
            target_modules=target_modules,
            exclude_modules=exclude_modules,
            rank_pattern=rank_pattern,
            plan=plan,
            scope=self.scope,
        )
        if self.report.skipped:
            log.info("%s", self.report.skipped_line())
        self.num_experts, self.freeze_backbone = num_experts, freeze_backbone
        self.num_features = getattr(net, "num_features", None)
        if freeze_backbone:
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(is_adapter_parameter(name))
            net.eval()  # here too: Lightning trains a module in the mode in which it is given
        wrap_checkpoints(net, checkpoint_modules, self.scope)
        self.net = net
        self._compiled: Callable[..., Tensor] | None = None

    @property
    def adapted(self) -> dict[str, AdaptedLayer]:
        """Path in the network -> adapted layer."""
        modules = dict(self.net.named_modules())
        boundaries = [path for path, module in modules.items() if isinstance(module, CheckpointBoundary)]
        found = {path: layer for path, layer in modules.items() if isinstance(layer, AdaptedLayer)}
        for boundary in boundaries:
            inner = f"{boundary}.inner"
            found = {
                p.replace(inner, boundary, 1) if f"{p}.".startswith(f"{inner}.") else p: m for p, m in found.items()
            }
        return found

    def train(self, mode: bool = True) -> "AdaptedBackbone":
        """As usual, but a frozen backbone keeps its norm statistics (and its dropout off)."""
        super().train(mode)
        if self.freeze_backbone:
            self.net.eval()
        return self

    def forward(self, images: Tensor, routing: Routing | Tensor) -> Tensor:
        """The network's output under a routing.

        Args:
            images: (B, C, H, W).
            routing: a Routing; or mixing weights (B, E), floating; or expert ids (B,), integer.

        Raises:
            ConfigError: for a routing of another shape, or ids outside 0..E-1.
        """
        return self.run(self.net, images, routing)

    def run(self, part: nn.Module, inputs: Tensor, routing: Routing | Tensor) -> Tensor:
        """The output of a part of the network under a routing.

        Args:
            part: the network, or some of its modules.
            inputs: (B, ...), what the part reads.
            routing: as :meth:`forward` takes it.

        Raises:
            ConfigError: as :meth:`forward`.
        """
        if getattr(self.net, "grad_checkpointing", False):
            raise ConfigError(
                "the network's own activation checkpointing recomputes layers without their mixing weights; turn it "
                "off and give AdaptedBackbone(checkpoint_modules=[r'^layer\\d$']) the blocks to checkpoint"
            )
        routing = self._as_routing(routing, inputs.shape[0])
        if torch.compiler.is_compiling():  # a graph must not depend on the counts
            return self._bound(part, inputs, routing.mixing, routing.expert_ids)
        call = self._compiled or self._bound
        ids, counts = routing.expert_ids, routing.expert_counts
        if ids is None or counts is None:
            return call(part, inputs, routing.mixing, ids)
        order = torch.argsort(ids, stable=True)  # once for all layers; afterwards the outputs are put back in order
        row_counts = torch.tensor(counts)
        outputs = call(part, inputs[order], None, ids[order], None if self._compiled else counts, row_counts)
        back = torch.argsort(order)
        return pytree.tree_map_only(Tensor, lambda output: output[back], outputs)

    def _bound(
        self,
        part: nn.Module,
        inputs: Tensor,
        weights: Tensor | None,
        ids: Tensor | None,
        group_sizes: tuple[int, ...] | None = None,
        row_counts: Tensor | None = None,
    ) -> Tensor:
        with self.scope.bind(Mixing(self.num_experts, weights, ids, group_sizes, row_counts)):
            return part(inputs)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the forward and backward passes, as ``torch.compile`` with these arguments; one graph for soft and
        one for hard mixing, which serve any number of rows per expert.
        """
        self._compiled = torch.compile(self._bound, *args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_compiled": None}  # compiled code is neither copied nor pickled

    def _as_routing(self, routing: Routing | Tensor, rows: int) -> Routing:
        if isinstance(routing, Tensor):
            if routing.dtype == torch.bool:
                raise ConfigError(
                    "a routing must be mixing weights (B, E), floating, or expert ids (B,), integer; got bool"
                )
            routing = Routing(mixing=routing) if routing.is_floating_point() else Routing(expert_ids=routing.long())
        if torch.compiler.is_compiling():
            return routing
        given = routing.mixing if routing.expert_ids is None else routing.expert_ids
        assert given is not None
        wanted = (rows,) if routing.hard else (rows, self.num_experts)
        if tuple(given.shape) != wanted:
            what = "expert ids must be (B,)" if routing.hard else "mixing weights must be (B, E)"
            raise ConfigError(f"{what} = {wanted}, got {tuple(given.shape)}")
        if routing.hard and routing.expert_counts is None and given.device.type == "cpu":
            outside = given[(given < 0) | (given >= self.num_experts)]
            if len(outside):
                raise ConfigError(f"expert ids must lie in 0..{self.num_experts - 1}, got {int(outside[0])}")
            counts = torch.bincount(given, minlength=self.num_experts).tolist()
            routing = Routing(routing.mixing, routing.logits, given, tuple(counts))
        return routing

    def merge(self, expert: int | None = None, mixing: Tensor | None = None) -> nn.Module:
        """A plain copy of the network with experts folded into its weights; no adapter is left.

        Args:
            expert: the one expert to fold in.
            mixing: or (E,) weights of a mixture.
        """
        if (expert is None) == (mixing is None):
            raise ConfigError("merge takes either expert=<index> or mixing=<(E,) weights>")
        if mixing is None:
            assert expert is not None
            if not 0 <= expert < self.num_experts:
                raise ConfigError(f"expert must lie in 0..{self.num_experts - 1}, got {expert}")
            mixing = torch.eye(self.num_experts)[expert]
        if tuple(mixing.shape) != (self.num_experts,):
            raise ConfigError(f"merge takes mixing weights (E,) = ({self.num_experts},), got {tuple(mixing.shape)}")
        device = next(self.net.parameters()).device
        return merged_copy(self.net, mixing.to(device))

    @torch.no_grad()
    def explain_plans(self, images: Tensor, routing: Routing | Tensor) -> list[PlanLine]:
        """Which plan each adapted layer runs for such a batch, and what every possible plan would cost.

        Layers that the forward pass never calls are missing from the list: their experts would do nothing.
        """
        lines: list[PlanLine] = []
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with observed(self.adapted, lines):
                self(images, routing)
        finally:
            for module, mode in modes.items():  # one by one: a norm kept in eval mode stays there
                module.training = mode
        return lines

    def check_reached(self, images: Tensor) -> None:
        """Run a forward pass in eval mode and raise unless it calls every adapted layer.

        Raises:
            ConfigError: naming the layers whose weights the network reads without calling them.
        """
        reached = {line.path for line in self.explain_plans(images, images.new_zeros(len(images), self.num_experts))}
        missing = [path for path in self.adapted if path not in reached]
        if missing:
            raise ConfigError(
                f"the network never calls these adapted layers, so their experts would do nothing: "
                f"{', '.join(missing)}. Leave them out with exclude_modules."
            )
