"""What is measured: a backbone, a batch, and the experts in it."""

from dataclasses import dataclass

import torch

from mola_lightning.core import Batch, Task, TaskRows

CLASSES = 10
BLOCK_CONVS = r"^layer\d\..*conv\d$"
LATE_BLOCK_CONVS = r"^layer[234]\..*conv\d$"


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

    @property
    def title(self) -> str:
        """The settings in a line."""
        stages = "stages 2-4" if self.target == LATE_BLOCK_CONVS else "all stages"
        network = f"{self.backbone}, {self.size} px, batch {self.rows}"
        return f"({self.name}) {network}, E={self.experts}, r={self.rank}, {stages}"

    def tasks(self) -> list[Task]:
        """One classification task for each expert."""
        return [Task(f"task{t}", CLASSES) for t in range(self.experts)]

    def batch(self) -> Batch:
        """Noise, the same each time, with rows of all tasks in random order."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.rows, 3, self.size, self.size, generator=generator)
        order = torch.randperm(self.rows, generator=generator)
        rows = TaskRows.from_task_ids(order % self.experts, [task.name for task in self.tasks()])
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
    )
}
