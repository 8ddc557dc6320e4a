"""Learning to branch."""

from collections.abc import Sequence
from math import isfinite, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.architectures.base import BackboneLike, Features
from mola_lightning.architectures.branches import MixedBranches
from mola_lightning.core import ConfigError, Task, TaskRows
from mola_lightning.core.errors import require
from mola_lightning.core.processes import of_first


class LTB(MixedBranches):
    """A tree learned by differentiable branching: each node picks one parent (Guo et al., ICML 2020).

    There is a node for each task at each stage. Before each stage but the first a node draws, by Gumbel-softmax with a
    straight-through gradient, whose output of the stage before it reads; in evaluation it reads the most probable one,
    and only nodes on some task's path run, on the rows of the tasks that use them. During a warm-up nodes read the
    average of all parents. (The released code reads their sum, which multiplies activations by the number of tasks at
    each stage, and lets the head of a task read nothing but the task's own last node.)

    How far the training is comes by :meth:`set_progress`, which the module calls at each epoch; before, the warm-up
    lasts. It is part of the state dict: a checkpoint is evaluated as it was trained.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features`` (copied), or a factory, of a kind that can be cut into
            stages.
        warmup: fraction of the epochs that the warm-up takes; an epoch belongs to it when it begins before its end.
        temperature: of the Gumbel-softmax at the start, later divided by sqrt(epoch + 1); None: epochs / 20.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.
    """

    method = "ltb"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        warmup: float = 0.01,
        temperature: float | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks, backbone, image_shape)
        require(0 <= warmup <= 1, f"warmup must be a fraction of the epochs, 0..1, got {warmup!r}")
        usable = temperature is None or (temperature > 0 and isfinite(temperature))
        require(usable, f"temperature must be > 0 and finite, or null, got {temperature!r}")
        self.warmup, self.temperature = warmup, temperature
        count = len(self.tasks)
        self.logits = nn.ParameterList(nn.Parameter(torch.zeros(count, count)) for _ in range(self.num_places - 1))
        # one row for each task: the last choice is that of the task's own head
        self.last_logits = nn.ParameterList(nn.Parameter(torch.zeros(count)) for _ in range(count))
        self._progress: tuple[int, int] | None = None

    def set_progress(self, epoch: int, epochs: int | None) -> None:
        """Say that ``epoch`` (from 0) of ``epochs`` begins.

        Raises:
            ConfigError: when the training has no number of epochs.
        """
        if epochs is None or epochs < 1:
            raise ConfigError(
                f"LTB follows the progress of the training and needs a number of epochs, got max_epochs={epochs}; "
                "set it (trainer.max_epochs)"
            )
        require(epoch >= 0, f"epoch must be >= 0, got {epoch}")
        self._progress = (epoch, epochs)

    @property
    def warming_up(self) -> bool:
        """Whether nodes read the average."""
        return self._progress is None or self._progress[0] < self.warmup * self._progress[1]

    def get_extra_state(self) -> dict[str, int]:
        """The progress."""
        return {} if self._progress is None else {"epoch": self._progress[0], "epochs": self._progress[1]}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take up the progress of a checkpoint."""
        self._progress = (state["epoch"], state["epochs"]) if state else None

    def weights(self) -> list[Tensor]:
        """Average, or in training one parent drawn for each node, or the most probable parent."""
        logits = self._all_logits()
        if self.warming_up:
            # with the logits in the graph, at zero gradient: no process of a distributed training may miss parameters
            return [1 / len(self.tasks) + 0 * each for each in logits]
        if not self.training:
            return [F.one_hot(each.argmax(1), len(each)).to(each) for each in logits]
        assert self._progress is not None
        epoch, epochs = self._progress
        tau = (epochs / 20 if self.temperature is None else self.temperature) / sqrt(epoch + 1)
        return [_draw(each, tau) for each in logits]

    def _all_logits(self) -> list[Tensor]:
        return [*self.logits, torch.stack(list(self.last_logits))]

    def last_weights(self) -> list[nn.Parameter]:
        """Logits of the heads' choices."""
        return list(self.last_logits)

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """As the base class; in evaluation after the warm-up, the chosen tree only."""
        if self.training or self.warming_up:
            return super().forward(images, rows)
        return Features(self._run_tree(images, rows))

    def paths(self) -> list[list[int]]:
        """For each task the branch of its node at each stage, stem to head, by the most probable parents."""
        parents = [each.argmax(1).tolist() for each in self._all_logits()]
        paths = []
        for task in range(len(self.tasks)):
            path = [task]
            for choice in reversed(parents):
                path.insert(0, choice[path[0]])
            paths.append(path)
        return paths

    def _run_tree(self, images: Tensor, rows: TaskRows) -> dict[str, Tensor]:
        paths = {name: path for name, path in zip(rows, self.paths(), strict=True) if rows.counts[name]}
        # node -> the rows that pass it, ascending, and what it gave for them
        level = {-1: (torch.arange(len(images), device=images.device), images)}
        for stage in range(len(self.branches[0])):
            below, level = level, {}
            for node in sorted({path[stage] for path in paths.values()}):
                users = [name for name, path in paths.items() if path[stage] == node]
                passing, inputs = below[paths[users[0]][stage - 1] if stage else -1]
                wanted = torch.cat([rows[name] for name in users]).unique()
                level[node] = wanted, self.branches[node][stage](inputs[torch.searchsorted(passing, wanted)])
        return self.complete({name: level[path[-1]][1] for name, path in paths.items()}, rows, images)


def _draw(logits: Tensor, tau: float) -> Tensor:
    """Gumbel-softmax, hard with a straight-through gradient; all processes of a training draw the same tree."""
    noise = of_first(-torch.empty_like(logits, memory_format=torch.legacy_contiguous_format).exponential_().log())
    soft = ((logits + noise) / tau).softmax(dim=1)
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft)
    return hard - soft.detach() + soft
