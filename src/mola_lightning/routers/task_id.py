"""Target-aware routing: the task id of an image is the id of its expert (MoLA-Grad)."""

from torch import Tensor

from mola_lightning.core import ConfigError, Routing, TaskRows
from mola_lightning.routers.base import Router


class TaskIdRouter(Router):
    """One expert per task: expert t runs on the rows of task t, in training and at inference alike.

    This makes MoLA-Grad (Zhou et al., ICML 2024, arXiv 2406.09679): gradients of different tasks never meet in the
    same low-rank expert. It has no parameters and never waits for a device.

    Args:
        num_experts: E, at least the number of tasks; experts beyond it stay unused.
        in_channels: unused; every router takes it.
    """

    label = "grad"
    needs_task_ids = True

    def __init__(self, num_experts: int, in_channels: int = 3) -> None:
        super().__init__(num_experts)

    def forward(self, images: Tensor, rows: TaskRows | None = None) -> Routing:
        """Route each row to the expert of its task.

        Raises:
            ConfigError: without ``rows``, or when a task of this batch has no expert.
            DataError: when a row belongs to several tasks, or to none.
        """
        if rows is None:
            raise ConfigError(
                "TaskIdRouter routes by task id, so it needs to know each image's task, also at inference; "
                "pass rows, or use a router that reads the image (router=conv)"
            )
        # On the host, from counts known there: looking at the ids themselves would wait for the device.
        if len(rows) > self.num_experts:
            homeless = [name for name in rows.names[self.num_experts :] if rows.counts[name]]
            if homeless:
                raise ConfigError(
                    f"TaskIdRouter needs one expert per task: {len(rows)} tasks but num_experts={self.num_experts}, "
                    f"so {', '.join(homeless)} would have no expert; set num_experts to {len(rows)}"
                )
        counts = [rows.counts[name] for name in rows.names[: self.num_experts]]
        unused = [0] * (self.num_experts - len(counts))
        return Routing(expert_ids=rows.task_ids, expert_counts=(*counts, *unused))
