"""The plans of each kind of layer in a network, timed one layer at a time: what their cost model is fitted to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mola_lightning.adapters import AdaptedBackbone, AdaptedLayer, Mixing
from mola_lightning.adapters.plans import candidates, choose
from mola_lightning.backbones import create_backbone
from mola_lightning.benchmarks.cases import Case
from mola_lightning.benchmarks.measure import CLOCKS, Speed, check_clock
from mola_lightning.core.errors import positive_int
from mola_lightning.training.fast import lay_out_channels_last

Clock = Callable[[], float]


@dataclass
class LayerTiming:
    """The plans of the layers of one shape under one mixing.

    Attributes:
        layer: path of the first of them.
        count: how many there are.
        weight: shape of their weight.
        input: shape of their input.
        hard: whether each row runs one expert (rows grouped by expert), or a mixture.
        base_seconds: forward and backward of the plain layer; the least of all rounds, which is what other load on the
            machine changes least.
        extra_seconds: plan -> what it takes beyond the plain layer, from the least of all rounds.
        costs: plan -> the cost model's multiply-adds beyond the plain layer.
        chosen: the plan that the cost model chooses.
    """

    layer: str
    count: int
    weight: tuple[int, ...]
    input: tuple[int, ...]
    hard: bool
    base_seconds: float
    extra_seconds: dict[str, float]
    costs: dict[str, float]
    chosen: str

    @property
    def fastest(self) -> str:
        """The plan that took least."""
        return min(self.extra_seconds, key=self.extra_seconds.__getitem__)


def time_layers(
    case: Case,
    *,
    rounds: int,
    device: torch.device | str = "cpu",
    clock: str = "wall",
    speed: Speed = Speed(),  # noqa: B008 - frozen
) -> list[LayerTiming]:
    """Forward and backward of every plan for every shape of layer of a case, in turn with the plain layer.

    Args:
        case: gives network, batch and experts; its methods are not looked at.
        rounds: how often each plan is timed, 1 or more.
        device: where it runs.
        clock: ``wall``, or ``cpu`` for processor time on one thread.
        speed: precision and layout; layers by themselves are not compiled.

    Raises:
        ConfigError: for no rounds, or an unknown clock.
    """
    positive_int("rounds", rounds)
    check_clock(clock, torch.device(device))
    backbone = AdaptedBackbone(
        create_backbone(case.backbone), case.experts, case.rank, target_modules=[case.target]
    ).to(device)
    if speed.channels_last:
        lay_out_channels_last(backbone)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(case.rows, generator=generator).remainder(case.experts).sort().values
    sizes = tuple(torch.bincount(ids, minlength=case.experts).tolist())
    weights = torch.rand(case.rows, case.experts, generator=generator).softmax(1).to(device).requires_grad_()
    mixings = (
        Mixing(case.experts, expert_ids=ids.to(device), group_sizes=sizes),
        Mixing(case.experts, weights=weights),
    )
    timings = []
    for (path, layer, shape), count in _shapes(backbone, case).items():
        x = torch.randn(shape, generator=generator).to(device, torch.bfloat16 if speed.bf16 else torch.float32)
        if speed.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        with speed.autocast(torch.device(device)):
            timings += [_time_layer(path, layer, x, mixing, count, rounds, CLOCKS[clock]) for mixing in mixings]
    return timings


def _shapes(backbone: AdaptedBackbone, case: Case) -> dict[tuple[str, AdaptedLayer, tuple[int, ...]], int]:
    """The first layer of each shape, with the shape of its input -> how many layers share both."""
    found: dict[str, tuple[int, ...]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, path=path: found.update({path: tuple(args[0].shape[1:])}))
        for path, layer in backbone.adapted.items()
    ]
    device = next(backbone.parameters()).device
    with torch.no_grad():
        image = torch.zeros(1, 3, case.size, case.size, device=device)
        backbone.eval()(image, image.new_zeros(1, case.experts))
    for hook in hooks:
        hook.remove()
    groups: dict[tuple, list[str]] = {}
    for path, shape in found.items():
        layer = backbone.adapted[path]
        groups.setdefault((tuple(layer.weight.shape), getattr(layer, "stride", None), shape), []).append(path)
    return {
        (paths[0], backbone.adapted[paths[0]], (case.rows, *shape)): len(paths)
        for (_, _, shape), paths in groups.items()
    }


def _time_layer(
    path: str, layer: AdaptedLayer, x: Tensor, mixing: Mixing, count: int, rounds: int, clock: Clock
) -> LayerTiming:
    options = {type(plan).__name__: plan for plan in candidates(layer, mixing)}
    runs: dict[str, Callable[[], Tensor]] = {"": lambda: layer.run(x, layer.weight, layer.bias)}
    for name, plan in options.items():
        runs[name] = lambda plan=plan: plan.run(layer, x, mixing)  # type: ignore[misc]
    leaves = [x, *layer.parameters(), *([] if mixing.hard else [mixing.weights])]
    for run in runs.values():
        _seconds(run, leaves, clock)  # to warm up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(_seconds(run, leaves, clock))
    base = seconds.pop("")
    return LayerTiming(
        layer=path,
        count=count,
        weight=tuple(layer.weight.shape),
        input=tuple(x.shape),
        hard=mixing.hard,
        base_seconds=min(base),
        extra_seconds={name: min(found) - min(base) for name, found in seconds.items()},
        costs={name: plan.cost(layer, mixing).total(layer.positions(x)) for name, plan in options.items()},
        chosen=type(choose(layer, x, mixing)).__name__,
    )


def _seconds(run: Callable[[], Tensor], leaves: Sequence[Tensor], clock: Clock) -> float:
    """Time of forward and backward."""
    _wait(leaves[0])
    start = clock()
    y = run()
    y.backward(y.detach())
    _wait(leaves[0])
    elapsed = clock() - start
    for leaf in leaves:
        leaf.grad = None
    return elapsed


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
