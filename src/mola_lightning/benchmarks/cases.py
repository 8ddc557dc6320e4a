"""What is measured: a backbone, a batch, and the experts in it."""

from dataclasses import dataclass, replace

import torch

from mola_lightning.core import Batch, ConfigError, Task, TaskRows
from mola_lightning.core.errors import positive_int

CLASSES = 10
BLOCK_CONVS = r"^layer\d\..*conv\d$"
LATE_BLOCK_CONVS = r"^layer[234]\..*conv\d$"
BLOCK_LINEARS = r"^blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc\d)$"
PLACES = {BLOCK_CONVS: "all stages", LATE_BLOCK_CONVS: "stages 2-4", BLOCK_LINEARS: "all blocks' linear layers"}


@dataclass(frozen=True)
class Case:
    """One line-up of methods over the same network and batch.

    Args:
        name: the letter it is asked for by.
        backbone: a timm name.
        size: H = W in pixels.
        rows: B.
        experts: E; as many tasks, their rows in random order in the batch.
        rank: r.
        target: pattern of the layers with experts.
        methods: names in ``METHODS``.
        rounds: how often each method is timed.
        single_input: whether each image has a target for every task, instead of one task.
        by_default: whether it is measured when no case is asked for.
        present: of how many tasks the batch has rows; None: of all.
    """

    name: str
    backbone: str
    size: int
    rows: int
    experts: int
    rank: int
    target: str
    methods: tuple[str, ...]
    rounds: int
    single_input: bool = False
    by_default: bool = True
    present: int | None = None

    def __post_init__(self) -> None:
        if self.present is None:
            return
        positive_int("present", self.present)
        if self.single_input:
            raise ConfigError(f"case {self.name}: each image has a target of every task; leave present (--present) out")
        if self.present > self.experts:
            raise ConfigError(
                f"present (--present) must lie in 1..{self.experts} in case {self.name}, got {self.present}"
            )

    @property
    def title(self) -> str:
        """The settings in a line."""
        network = f"{self.backbone}, {self.size} px, batch {self.rows}"
        inputs = ", single-input" if self.single_input else ""
        present = "" if self.present is None else f", rows of {self.present}"
        return f"({self.name}) {network}, E={self.experts}{present}, r={self.rank}, {PLACES[self.target]}{inputs}"

    def tasks(self) -> list[Task]:
        """One classification task for each expert."""
        return [Task(f"task{t}", CLASSES) for t in range(self.experts)]

    def batch(self) -> Batch:
        """Noise, the same each time, with rows of all tasks in random order."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.rows, 3, self.size, self.size, generator=generator)
        order = torch.randperm(self.rows, generator=generator)
        names = [task.name for task in self.tasks()]
        if self.single_input:
            rows = TaskRows.all_rows(self.rows, names)
        else:
            rows = TaskRows.from_task_ids(order % (self.present or self.experts), names)
        labels = {name: torch.randint(CLASSES, (n,), generator=generator) for name, n in rows.counts.items()}
        return Batch(images, labels, rows)


OURS = ("plain", "grad", "soft", "router")

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("a", "resnet50", 64, 16, 4, 4, LATE_BLOCK_CONVS, (*OURS, "loop"), rounds=11),
        Case("b", "resnet50", 224, 16, 4, 4, LATE_BLOCK_CONVS, OURS, rounds=3),
        Case("c", "resnet18", 32, 32, 9, 4, BLOCK_CONVS, OURS, rounds=15),
        Case("d", "resnet18", 32, 16, 4, 4, BLOCK_CONVS, (*OURS, "loop", "kernels", "stacked"), rounds=9),
        Case("e", "vit_tiny_patch16_224", 224, 16, 4, 4, BLOCK_LINEARS, OURS, rounds=7),
        Case("f", "resnet18", 64, 16, 3, 4, LATE_BLOCK_CONVS, OURS[:3], rounds=9, single_input=True),
        Case("g", "resnet50", 224, 256, 4, 4, LATE_BLOCK_CONVS, OURS, rounds=15, by_default=False),  # for a GPU
    )
}

SCALES = {
    "experts": (1, 2, 4, 8, 16, 32),
    "rank": (1, 4, 16, 64),
    "rows": (1, 4, 16, 64),
}


def scaled(case: Case, what: str) -> list[Case]:
    """The case with other numbers of ``experts`` (and tasks), of another ``rank``, or of more ``rows`` in a batch."""
    return [replace(case, **{what: value}) for value in SCALES[what]]  # type: ignore[arg-type]
