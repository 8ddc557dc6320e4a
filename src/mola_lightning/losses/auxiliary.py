"""Auxiliary losses: terms added to the balanced task losses, computed from a model's whole output."""

from abc import ABC, abstractmethod
from math import isfinite
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.core import ConfigError, ModelOutput, Regime
from mola_lightning.core.errors import positive_int, require
from mola_lightning.losses.twd import TaskwiseDecorrelation


class AuxiliaryLoss(nn.Module, ABC):
    """Base of the auxiliary losses.

    Every auxiliary loss is built with the keywords ``num_experts`` and ``num_tasks``, needed or not, and may own
    parameters, which are trained with the model's.

    Args:
        weight: factor of the loss in the total, >= 0; applied by the caller, so that the value can be logged bare.

    Attributes:
        regimes: where it is defined; by default where each image has one task, whose id it compares with.
        needs_logits: whether it acts on the logits of a router.

    Raises:
        ConfigError: for a negative or non-finite weight.
    """

    regimes: ClassVar[frozenset[Regime]] = frozenset({Regime.DOMAINS, Regime.MULTI_INPUT})
    needs_logits: ClassVar[bool] = True

    def __init__(self, weight: float) -> None:
        super().__init__()
        require(
            weight >= 0 and isfinite(weight), f"weight of an auxiliary loss must be >= 0 and finite, got {weight!r}"
        )
        self.weight = float(weight)

    @abstractmethod
    def forward(self, output: ModelOutput) -> Tensor:
        """The unweighted, differentiable scalar loss of one batch."""


class TwDLoss(AuxiliaryLoss):
    """Task-wise decorrelation of the router's logits: see :class:`TaskwiseDecorrelation`.

    Args:
        num_experts: E, width of the router's logits.
        num_tasks: unused; every auxiliary loss takes it.
        weight: factor in the total; the paper's is 0.1.
        projection_dim: width of the space in which images are compared.
        temperature: divides the cosine similarities.
        gather: with several processes, compare the images of the global batch and not only those of each process.
    """

    def __init__(
        self,
        num_experts: int,
        num_tasks: int | None = None,
        weight: float = 0.1,
        projection_dim: int = 32,
        temperature: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__(weight)
        self.decorrelation = TaskwiseDecorrelation(num_experts, projection_dim, temperature, gather)

    def forward(self, output: ModelOutput) -> Tensor:
        """TwD of the batch.

        Raises:
            ConfigError: when the model has no router with logits, or rows do not have exactly one task each.
        """
        return self.decorrelation(*_logits_and_task_ids(output, "TwD"))


class TaskCrossEntropy(AuxiliaryLoss):
    """Cross-entropy of the task id, predicted from the router's logits by a linear layer: the ablation of TwD.

    Args:
        num_experts: E, width of the router's logits.
        num_tasks: T, number of task ids.
        weight: factor in the total.
    """

    def __init__(self, num_experts: int, num_tasks: int, weight: float = 0.1) -> None:
        super().__init__(weight)
        positive_int("num_experts", num_experts)
        positive_int("num_tasks", num_tasks)
        self.projection = nn.Linear(num_experts, num_tasks)

    def forward(self, output: ModelOutput) -> Tensor:
        """Mean cross-entropy over the rows of the batch.

        Raises:
            ConfigError: when the model has no router with logits, or rows do not have exactly one task each.
        """
        logits, task_ids = _logits_and_task_ids(output, "TaskCrossEntropy")
        return F.cross_entropy(self.projection(logits), task_ids, reduction="sum") / max(len(task_ids), 1)


def _logits_and_task_ids(output: ModelOutput, name: str) -> tuple[Tensor, Tensor]:
    """Router logits (B, E) and task ids (B,), or an error that says what the model lacks."""
    if output.routing is None or output.routing.logits is None:
        raise ConfigError(
            f"{name} needs a router with logits (router=conv|hard|top_k), this model has none; "
            "remove the loss with auxiliary=none"
        )
    if not output.rows.disjoint:
        raise ConfigError(
            f"{name} needs exactly one task for each image, but here images carry targets of several tasks or of none; "
            "remove the loss with auxiliary=none"
        )
    return output.routing.logits, output.rows.task_ids
