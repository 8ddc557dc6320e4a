"""What comes out: a routing decision, and the output of a model."""

from dataclasses import dataclass, field

from torch import Tensor

from mola_lightning.core.batch import TaskRows
from mola_lightning.core.errors import ConfigError


@dataclass
class Routing:
    """How each row mixes the experts.

    Attributes:
        mixing: (B, E) mixing weights; None when ``expert_ids`` alone says it (one expert per row, no gradient to
            weights).
        logits: (B, E) raw scores of a learned router, before softmax; None for routers without parameters.
        expert_ids: (B,) int64 when each row runs exactly one expert and no gradient is wanted for the weights; layers
            then run one expert per row without asking the device whether the weights are one-hot.
        expert_counts: with ``expert_ids``, rows per expert as Python ints where the host knows them without asking the
            device; lets the backbone group rows by expert at no cost.
    """

    mixing: Tensor | None = None
    logits: Tensor | None = None
    expert_ids: Tensor | None = None
    expert_counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mixing is None and self.expert_ids is None:
            raise ConfigError("a Routing needs mixing weights (B, E) or expert ids (B,), got neither")

    @property
    def hard(self) -> bool:
        """Whether each row runs exactly one expert."""
        return self.expert_ids is not None


@dataclass
class ModelOutput:
    """The output of a forward pass.

    Attributes:
        predictions: task name -> (n_t, ...) outputs of the task's head, aligned with ``rows[name]``.
        rows: which rows of the batch each entry answers.
        routing: the routing of the rows that ran through the backbone, for architectures that route; else None.
        routed: which task each routed row served, where (row, task) queries ran instead of the batch's rows; else None.
        penalties: name -> scalar that the architecture adds to the training loss, its weight included.
    """

    predictions: dict[str, Tensor]
    rows: TaskRows
    routing: Routing | None = None
    routed: TaskRows | None = None
    penalties: dict[str, Tensor] = field(default_factory=dict)
