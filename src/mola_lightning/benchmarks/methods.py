"""What is compared: the same backbone and heads, plain and with experts run in different ways."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mola_lightning.adapters import PLAN_NAMES, AdaptedBackbone, reference_forward
from mola_lightning.architectures import HPS, MoLA
from mola_lightning.backbones import create_backbone
from mola_lightning.benchmarks.cases import Case
from mola_lightning.benchmarks.naive import dense_forward, kernel_forward, run_layers_by
from mola_lightning.core import Routing, TaskRows
from mola_lightning.core.errors import one_of
from mola_lightning.routers import ConvRouter, Router
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

ROUTER_SIZE = 64  # pixels; images that are larger are resized for the router
# A rate that leaves the weights where they are: cost does not depend on it, and noise cannot make the loss diverge.
# One kernel for all parameters, as in conf/optimizer.
OPTIMIZER = partial(torch.optim.AdamW, lr=1e-6, fused=True)


class FixedMixing(Router):
    """A learned mixture for each row of one batch, whatever it shows: soft mixing without the cost of a router network.

    Args:
        num_experts: E.
        in_channels: unused; every router takes it.
        rows: B of the one batch.
    """

    label = "fixed"

    def __init__(self, num_experts: int, in_channels: int = 3, *, rows: int) -> None:
        super().__init__(num_experts)
        self.logits = nn.Parameter(torch.randn(rows, num_experts))

    def forward(self, images: Tensor, rows: TaskRows | None = None) -> Routing:
        """The mixing weights of the batch; gradients reach them as they reach a router's."""
        return Routing(mixing=self.logits.softmax(1))


@dataclass(frozen=True)
class Method:
    """One way to train.

    Args:
        label: for tables.
        build: (case, plan) -> module.
        plans: the families of plans that can be asked for.
        by_plans: whether adapted layers run by plans.
        slow: whether it takes so much longer than the others that a few rounds must do.
    """

    label: str
    build: Callable[[Case, str], MultiTaskModule]
    plans: tuple[str, ...] = PLAN_NAMES
    by_plans: bool = True
    slow: bool = False


def build_module(name: str, case: Case, plan: str = "auto") -> MultiTaskModule:
    """The module of one method for one case; equal weights in equal backbones.

    Args:
        name: a key of ``METHODS``.
        case: network, batch and experts.
        plan: family of plans in adapted layers, see :class:`AdaptedBackbone`.

    Raises:
        ConfigError: for an unknown method.
    """
    one_of("method", name, METHODS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return METHODS[name].build(case, plan).train()


def _backbone(case: Case) -> nn.Module:
    return create_backbone(case.backbone)


def _adapter(case: Case, plan: str) -> dict[str, Any]:
    return {"target_modules": [case.target], "plan": plan}


def _plain(case: Case, plan: str) -> MultiTaskModule:
    return MultiTaskModule(case.tasks(), HPS(case.tasks(), _backbone(case)), optimizer=OPTIMIZER)


def _grad(case: Case, plan: str) -> MultiTaskModule:
    return MoLAGrad(case.tasks(), _backbone(case), rank=case.rank, adapter=_adapter(case, plan), optimizer=OPTIMIZER)


def _router(case: Case, plan: str) -> MultiTaskModule:
    size = ROUTER_SIZE if case.size > ROUTER_SIZE else None
    return MoLARouter(
        case.tasks(),
        _backbone(case),
        rank=case.rank,
        adapter=_adapter(case, plan),
        router=partial(ConvRouter, input_size=size),
        optimizer=OPTIMIZER,
    )


def _soft(case: Case, plan: str) -> MultiTaskModule:
    architecture = MoLA(
        case.tasks(),
        _backbone(case),
        router=partial(FixedMixing, rows=case.rows),
        adapter=partial(AdaptedBackbone, rank=case.rank, **_adapter(case, plan)),
    )
    return MultiTaskModule(case.tasks(), architecture, optimizer=OPTIMIZER)


def _by(
    build: Callable[[Case, str], MultiTaskModule], forward: Callable[..., Tensor]
) -> Callable[..., MultiTaskModule]:
    def built(case: Case, plan: str) -> MultiTaskModule:
        module = build(case, "auto")
        run_layers_by(module.architecture.backbone, forward)
        return module

    return built


METHODS: dict[str, Method] = {
    "plain": Method("plain backbone", _plain, by_plans=False),
    "grad": Method("MoLA-Grad", _grad),
    "soft": Method("soft mixing alone", _soft),
    "router": Method("MoLA-Router, TwD", _router),
    "loop": Method("MoLA-Grad, loop over samples", _by(_grad, reference_forward), ("auto",), by_plans=False, slow=True),
    "kernels": Method(
        "MoLA-Grad, a kernel per sample",
        _by(_grad, kernel_forward),
        ("auto",),
        by_plans=False,
        slow=True,
    ),
    "stacked": Method("soft mixing, E + 1 convolutions", _by(_soft, dense_forward), ("auto",), by_plans=False),
}
