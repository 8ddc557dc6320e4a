"""Mixture of low-rank adapters: one backbone with experts inside, mixed per row by a router."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone, AdaptedLayer, CheckpointBoundary, is_adapter_parameter
from mola_lightning.architectures.base import Architecture, BackboneLike, Features, build_backbone
from mola_lightning.backbones.stages import FAMILIES, example_image, stages_of
from mola_lightning.core import ConfigError, Regime, Routing, Task, TaskRows
from mola_lightning.core.errors import one_of, positive_int
from mola_lightning.routers import Router, UniformRouter

# called as adapter(net, num_experts=E)
AdapterFactory = Callable[..., AdaptedBackbone]
# called as router(num_experts=E, in_channels=C)
RouterFactory = Callable[..., Router]


class MoLA(Architecture):
    """MoLA (Zhou et al., ICML 2024): y = base(x) + (alpha / r) sum_e mixing[:, e] B_e A_e x in every adapted layer.

    The router decides which MoLA it is: TaskIdRouter makes MoLA-Grad, ConvRouter makes MoLA-Router.

    Where one image has several targets (single-input), a router by task id sees (row, task) queries. ``single_input``
    says how they run: ``loop``, one pass per task; ``tile``, all queries in one pass. They differ only by batch
    normalisation, whose statistics are those of a pass. A router that reads the image needs one pass in any case.

    Before the first stage with an adapted layer the passes of a loop are the same wherever every present task has all
    rows (in evaluation, whatever rows they have): there a network that can be cut into stages runs once, its norms
    count the batch once, and its dropout is drawn once.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features``, or a factory.
        router: ``router(num_experts=E, in_channels=C)``.
        adapter: ``adapter(net, num_experts=E)``: an AdaptedBackbone; all its defaults when None.
        num_experts: E; the number of tasks when None.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
        single_input: ``loop`` or ``tile``.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        router: RouterFactory,
        adapter: AdapterFactory | None = None,
        num_experts: int | None = None,
        image_shape: Sequence[int] | None = None,
        single_input: str = "loop",
    ) -> None:
        super().__init__(tasks)
        self.num_experts = len(self.tasks) if num_experts is None else num_experts
        positive_int("num_experts", self.num_experts)
        one_of("single_input", single_input, ("loop", "tile"))
        self.single_input = single_input
        net = build_backbone(backbone, image_shape)
        self.num_features = net.num_features
        self.backbone = (adapter or AdaptedBackbone)(net, num_experts=self.num_experts)
        self.router = router(num_experts=self.num_experts, in_channels=image_shape[0] if image_shape is not None else 3)
        if self.router.needs_task_ids and self.num_experts < len(self.tasks):
            raise ConfigError(
                f"a router by task id needs an expert for each of the {len(self.tasks)} tasks, got "
                f"num_experts={self.num_experts}; set num_experts=null (one per task), or another router"
            )
        self.learned_logits = self.router.learned_logits
        self.method = self.method_of(router=type(self.router))
        if image_shape is not None:
            self.backbone.check_reached(example_image(self.backbone, image_shape))

    @classmethod
    def method_of(cls, **parts: Any) -> str:
        """``mola_grad``, ``mola_router`` ...: the label of the ``router``."""
        return f"mola_{parts['router'].label}"

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """Route, run the backbone once (or once a task, see the class), and give each task its rows."""
        if not self.router.needs_task_ids or rows.disjoint:
            routing = self.router(images, rows)
            features = self.backbone(images, routing)
            return Features({name: features[rows[name]] for name in rows}, routing)
        index, task_ids = rows.queries
        queries = TaskRows.from_task_ids(task_ids, rows.names)
        routing = self.router(images[index], queries)
        if self.single_input == "tile":
            features = self.backbone(images[index], routing)
            return Features({name: features[queries[name]] for name in rows}, routing, queries)
        return Features(self._loop(images, rows, queries, routing), routing, queries)

    def _loop(self, images: Tensor, rows: TaskRows, queries: TaskRows, routing: Routing) -> dict[str, Tensor]:
        assert routing.expert_ids is not None  # what a router by task id gives
        found, net, inputs = {}, self.backbone.net, images
        whole = all(count in (0, len(images)) for count in rows.counts.values())
        if rows.present and (whole or not self.training) and (cut := cut_at_adapters(self.backbone)):
            common, net = cut
            inputs = common(images)
        for task, name in enumerate(rows.names):
            if not (count := rows.counts[name]):
                continue
            counts = tuple(count if expert == task else 0 for expert in range(self.num_experts))
            own = Routing(expert_ids=routing.expert_ids[queries[name]], expert_counts=counts)
            found[name] = self.backbone.run(net, inputs[rows[name]], own)
        return self.complete(found, rows, images)

    def network_of(self, task: str) -> nn.Module | None:
        """The backbone with the task's expert folded in, or with all of them where every image mixes them alike."""
        if self.router.needs_task_ids:
            return self.backbone.merge(expert=[each.name for each in self.tasks].index(task))
        if isinstance(self.router, UniformRouter):
            mixing = self.router(torch.zeros(1, 1, 1, 1)).mixing
            assert mixing is not None
            return self.backbone.merge(mixing=mixing[0])
        return None

    def runs_whole(self, regime: Regime | None) -> bool:
        """Unless images may have several targets, and a pass for each."""
        one_each = regime in (Regime.DOMAINS, Regime.MULTI_INPUT)
        return one_each or not self.router.needs_task_ids or self.single_input == "tile"

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone; with a learned router also experts and router. Under routing by task id an expert is its
        task's own.
        """
        owned = self.router.needs_task_ids
        named = self.named_parameters()
        return [p for name, p in named if p.requires_grad and not (owned and is_adapter_parameter(name))]

    def component_of(self, parameter_name: str) -> str:
        """Adapters, router, or backbone."""
        if parameter_name.startswith("router."):
            return "router"
        return "adapters" if is_adapter_parameter(parameter_name) else "backbone"


def cut_at_adapters(backbone: AdaptedBackbone) -> tuple[nn.Module, nn.Module] | None:
    """The stages before the first adapted layer, and the others; None where there are none before, or no stages.

    Made anew for each batch, as modules of a network may be replaced.
    """
    net = backbone.net
    # Checkpointed blocks need a mixing, norms across processes as many runs on each; a subclass may run its parts
    # otherwise.
    unfit = any(isinstance(module, (CheckpointBoundary, nn.SyncBatchNorm)) for module in net.modules())
    if unfit or type(net) not in FAMILIES or torch.compiler.is_compiling():
        return None
    stages = stages_of(net)
    adapted = [any(isinstance(module, AdaptedLayer) for module in stage.modules()) for stage in stages]
    first = adapted.index(True) if True in adapted else 0
    return (nn.Sequential(*stages[:first]), nn.Sequential(*stages[first:])) if first else None
