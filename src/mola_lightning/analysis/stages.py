"""Which stage of the backbone a parameter belongs to, and what each stage gives."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.adapters import AdaptedBackbone, is_adapter_parameter
from mola_lightning.architectures import Architecture
from mola_lightning.backbones.stages import can_be_cut, stages_of

GRID = 4  # feature maps are averaged to at most GRID x GRID positions
ALL, EXPERTS = "all shared", "experts"


def stage_names(count: int) -> list[str]:
    """``stem``, ``stage 1``, ..., ``output`` (pooling and last norm) for that many stages."""
    middle = [f"stage {i}" for i in range(1, count - 1)]
    return ["stem", *middle, "output"] if count > 1 else ["output"]


def parameter_stages(architecture: Architecture) -> dict[int, str]:
    """``id`` of each parameter -> the stage of the backbone that it lies in, experts included.

    What lies in no backbone that can be cut goes by its component (``router``) or the first part of its name
    (``gates``). Several backbones (single-task learning) share the stages' names.
    """
    found: dict[int, str] = {}
    for parent, name in _places(architecture):
        stages = stages_of(getattr(parent, name))
        for stage, module in zip(stage_names(len(stages)), stages, strict=True):
            found |= {id(parameter): stage for parameter in module.parameters()}
    for name, parameter in architecture.named_parameters():
        component = architecture.component_of(name)
        found.setdefault(id(parameter), name.partition(".")[0] if component == "backbone" else component)
    return found


def parameter_groups(architecture: Architecture) -> dict[str, list[tuple[int, int]]]:
    """Group -> slices of the flat gradient of ``shared_parameters()``, as (start, end).

    Groups are ``all shared``; each stage, without its experts; ``experts``, where tasks share them; ``router`` and
    other parts.
    """
    stages = parameter_stages(architecture)
    experts = {id(p) for name, p in architecture.named_parameters() if is_adapter_parameter(name)}
    groups: dict[str, list[tuple[int, int]]] = {name: [] for name in (ALL, *stages.values(), EXPERTS)}
    start = 0
    for parameter in architecture.shared_parameters():
        piece = (start, start + parameter.numel())
        groups[ALL].append(piece)
        groups[EXPERTS if id(parameter) in experts else stages[id(parameter)]].append(piece)
        start = piece[1]
    return {name: pieces for name, pieces in groups.items() if pieces}


@contextmanager
def recorded_stages(architecture: Architecture) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, each forward pass appends what every stage gives: stage -> list of (n, D) features, on the host.

    Maps (n, C, h, w) are averaged to at most 4 x 4 positions and flattened, tokens (n, N, D) averaged. Empty for
    architectures whose backbone was taken apart, or cannot be cut.
    """
    found: dict[str, list[Tensor]] = {}
    replaced = []
    try:
        for parent, name in _places(architecture):
            net = getattr(parent, name)
            replaced.append((parent, name, net))
            setattr(parent, name, _Recorder(stages_of(net), found))
        yield found
    finally:
        for parent, name, net in replaced:
            setattr(parent, name, net)


def pooled(features: Tensor) -> Tensor:
    """(n, D) float32 on the host, of maps, tokens or vectors."""
    if features.ndim == 4:
        size = (min(GRID, features.shape[2]), min(GRID, features.shape[3]))
        features = F.adaptive_avg_pool2d(features.float(), size)
    elif features.ndim == 3:
        features = features.mean(dim=1)
    return features.detach().flatten(1).float().cpu()


class _Recorder(nn.Module):
    """Runs the stages in a row, as the network does, and keeps what each gives."""

    def __init__(self, stages: Sequence[nn.Module], found: dict[str, list[Tensor]]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.found = found

    def forward(self, images: Tensor) -> Tensor:
        for name, stage in zip(stage_names(len(self.stages)), self.stages, strict=True):
            images = stage(images)
            self.found.setdefault(name, []).append(pooled(images))
        return images


def _places(architecture: Architecture) -> list[tuple[nn.Module, str]]:
    """(parent, attribute) of each whole backbone that can be cut."""
    places: list[tuple[nn.Module, str]] = []
    children = dict(architecture.named_children())
    if "backbone" in children:
        places.append((architecture, "backbone"))
    if "backbones" in children:
        places += [(children["backbones"], name) for name, _ in children["backbones"].named_children()]
    adapted = [
        (getattr(p, name), "net") if isinstance(getattr(p, name), AdaptedBackbone) else (p, name) for p, name in places
    ]
    return [(parent, name) for parent, name in adapted if can_be_cut(getattr(parent, name))]
