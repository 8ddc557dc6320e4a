"""Which plan each adapted layer runs, seen from outside while the network runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.plans import candidates, choose


@dataclass
class PlanLine:
    """The plan of one layer: its path, the plan's class and family, and multiply-adds beyond the base layer by plan."""

    path: str
    chosen: str
    family: str
    costs: dict[str, float]


@contextmanager
def observed(adapted: Mapping[str, AdaptedLayer], lines: list[PlanLine]) -> Iterator[None]:
    """Append a line to ``lines`` for each adapted layer that runs inside."""

    def observe(path: str, layer: AdaptedLayer, x: Tensor) -> None:
        mixing = layer.scope.current().expand(x.shape[0])
        x = layer.prepare(x)
        options = {type(plan).__name__: plan for plan in candidates(layer, mixing)}
        costs = {name: plan.cost(layer, mixing).total(layer.positions(x)) for name, plan in options.items()}
        plan = choose(layer, x, mixing)
        lines.append(PlanLine(path, type(plan).__name__, plan.family, costs))

    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, path=path: observe(path, layer, args[0]))
        for path, layer in adapted.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
