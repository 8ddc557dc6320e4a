"""A model as plain values, and the model again from them: what a file may say, and no code that is run."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.architectures import HPS, MoLA
from mola_lightning.backbones import Recipe
from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.data import make_task
from mola_lightning.deployment.deployable import Deployable, Preprocessing
from mola_lightning.deployment.experts import adapter_settings, check_head, described_backbone
from mola_lightning.routers import ConvRouter, HardRouter, Router, TaskIdRouter, TopKRouter, UniformRouter
from mola_lightning.training import MultiTaskModule

ROUTERS: dict[str, type[Router]] = {
    router.label: router for router in (TaskIdRouter, UniformRouter, ConvRouter, HardRouter, TopKRouter)
}


def specify(deployable: Deployable) -> dict[str, Any]:
    """The model as values for JSON.

    Raises:
        ConfigError: for what values cannot say: an architecture other than MoLA and hard sharing, a router of the
            user's own, a head that is no linear layer or has an activation after it, or a backbone that timm does not
            make.
    """
    module = deployable.module
    architecture: Any = module.architecture
    if type(architecture) not in (MoLA, HPS):
        raise ConfigError(
            f"format=model knows MoLA and hard parameter sharing, and this is {architecture.method}; choose "
            "another format"
        )
    for task in module.tasks:
        check_head(module.heads[task.name], task)
    mixed = isinstance(architecture, MoLA)
    return {
        "method": architecture.method,
        "image_shape": list(deployable.image_shape),
        "backbone": described_backbone(architecture.backbone).plain(),
        "tasks": [{"name": task.name, **deployable.task_facts(task)} for task in module.tasks],
        "num_experts": architecture.num_experts,
        "adapters": adapter_settings(architecture.backbone) if mixed else None,
        "router": _router_settings(architecture.router) if mixed else None,
    }


def build(spec: Mapping[str, Any]) -> Deployable:
    """The model that :func:`specify` described, with fresh weights.

    Raises:
        RunFolderError: when something is missing or unknown.
    """
    try:
        tasks = [make_task(each["name"], each["kind"], each["num_outputs"], each["classes"]) for each in spec["tasks"]]
        channels, height, width = spec["image_shape"]
        recipe = Recipe(**spec["backbone"])
        architecture = (
            MoLA(
                tasks,
                partial(_backbone, recipe),
                router=router_factory(spec["router"]),
                adapter=partial(adapt, spec["adapters"]),
                num_experts=spec["num_experts"],
                image_shape=(channels, height, width),
            )
            if spec["adapters"]
            else HPS(tasks, partial(_backbone, recipe), (channels, height, width))
        )
        preprocessing = {each["name"]: Preprocessing.of(each["preprocessing"]) for each in spec["tasks"]}
        metrics = {each["name"]: each["metrics"] for each in spec["tasks"]}
        module = MultiTaskModule(tasks, architecture)
        return Deployable(module, (channels, height, width), preprocessing, {"metrics": metrics})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"the description of the model is damaged, or none of ours ({error}); export again"
        ) from error


def adapt(settings: Mapping[str, Any], net: nn.Module, num_experts: int) -> AdaptedBackbone:
    """Put experts into the layers that :func:`adapter_settings` listed."""
    ranks = {f"^{re.escape(path)}$": rank for path, rank in settings["ranks"].items()}
    return AdaptedBackbone(
        net,
        num_experts,
        alpha=settings["alpha"],
        kind=settings["kind"],
        target_modules=list(ranks),
        rank_pattern=ranks,
    )


def router_factory(settings: Mapping[str, Any]) -> Any:
    """``router(num_experts=E, in_channels=C)`` from what :func:`specify` said."""
    return partial(ROUTERS[settings["label"]], **settings["arguments"])


def _backbone(recipe: Recipe, in_channels: int = 3, image_size: Sequence[int] | None = None) -> nn.Module:
    """A backbone factory: what it is told of the images, the recipe says itself."""
    net: Any = recipe.build()
    net.num_features = getattr(net, "head_hidden_size", net.num_features)
    net.recipe = recipe
    return net


def _router_settings(router: Router) -> dict[str, Any]:
    if type(router) is not ROUTERS.get(router.label):
        raise ConfigError(
            f"format=model knows the routers {', '.join(ROUTERS)}, and this is a {type(router).__name__}; export graphs"
        )
    arguments: dict[str, Any] = {name: getattr(router, name) for name in ("mode", "k") if hasattr(router, name)}
    if isinstance(router, ConvRouter):
        stages: list[Any] = [router.get_submodule(name) for name in router.stages]
        arguments |= {"widths": [stage[0].conv1.out_channels for stage in stages], "blocks": len(stages[0])}
        arguments["input_size"] = router.input_size
        if not isinstance(router, HardRouter):
            arguments["temperature"] = router.temperature
    return {"label": router.label, "arguments": arguments}
