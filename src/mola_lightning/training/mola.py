"""MoLA-Grad and MoLA-Router by name: what most users want, without assembling the parts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.architectures import BackboneFactory, MoLA
from mola_lightning.core import Task
from mola_lightning.losses import TwDLoss
from mola_lightning.routers import ConvRouter, Router, TaskIdRouter
from mola_lightning.training.module import MultiTaskModule


class MoLAGrad(MultiTaskModule):
    """MoLA-Grad, target-aware: the task id picks the expert (Zhou et al., ICML 2024, arXiv 2406.09679).

    Each task's conflicting knowledge goes into its own low-rank expert; task ids are needed at inference too.

    Args:
        tasks: all tasks, in task order; one expert each.
        backbone: a timm name, a module with ``num_features``, or a factory.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
        rank: r of the experts.
        alpha: experts are scaled by alpha / rank. The paper's 16 suits large pretrained backbones; on small networks
            trained from scratch a scale of 1 to 2 is better.
        adapter: further settings of :class:`~mola_lightning.adapters.AdaptedBackbone`, such as ``target_modules``.
        single_input: ``loop`` or ``tile``, see :class:`~mola_lightning.architectures.MoLA`.
        **settings: of :class:`MultiTaskModule`: ``optimizer``, ``scheduler``, ``balancer`` ...
    """

    method = "mola_grad"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: str | nn.Module | BackboneFactory = "resnet18",
        image_shape: Sequence[int] | None = None,
        rank: int = 4,
        alpha: float = 16,
        adapter: Mapping[str, Any] | None = None,
        single_input: str = "loop",
        **settings: Any,
    ) -> None:
        architecture = MoLA(
            tasks,
            backbone,
            router=TaskIdRouter,
            adapter=partial(AdaptedBackbone, rank=rank, alpha=alpha, **(adapter or {})),
            image_shape=image_shape,
            single_input=single_input,
        )
        super().__init__(tasks, architecture, **settings)


class MoLARouter(MultiTaskModule):
    """MoLA-Router, target-agnostic: a small network mixes the experts per image (Zhou et al., ICML 2024, arXiv
    2406.09679).

    The task-wise decorrelation (TwD) loss makes samples of one task use the same mixture and of different tasks
    different ones. The backbone needs no task id; a head is still chosen by it.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features``, or a factory.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
        num_experts: E; the number of tasks when None.
        rank: r of the experts.
        alpha: experts are scaled by alpha / rank; see :class:`MoLAGrad`.
        adapter: further settings of :class:`~mola_lightning.adapters.AdaptedBackbone`.
        router: ``router(num_experts=E, in_channels=C)``; the paper's ResNet-20 by default.
        twd_weight: weight of the TwD loss; 0 leaves it out.
        **settings: of :class:`MultiTaskModule`; losses in ``auxiliary`` come beside TwD.
    """

    method = "mola_router"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: str | nn.Module | BackboneFactory = "resnet18",
        image_shape: Sequence[int] | None = None,
        num_experts: int | None = None,
        rank: int = 4,
        alpha: float = 16,
        adapter: Mapping[str, Any] | None = None,
        router: Callable[..., Router] = ConvRouter,
        twd_weight: float = 0.1,
        **settings: Any,
    ) -> None:
        architecture = MoLA(
            tasks,
            backbone,
            router=router,
            adapter=partial(AdaptedBackbone, rank=rank, alpha=alpha, **(adapter or {})),
            num_experts=num_experts,
            image_shape=image_shape,
        )
        twd = {"twd": partial(TwDLoss, weight=twd_weight)} if twd_weight else {}
        auxiliary = {**twd, **(settings.pop("auxiliary", None) or {})}
        super().__init__(tasks, architecture, auxiliary=auxiliary, **settings)
