"""What a balancer is: the losses of the tasks in, one scalar whose gradient is the balanced one out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mola_lightning.core import Regime, TaskRows
from mola_lightning.core.errors import positive_int


@dataclass(frozen=True)
class Step:
    """What a balancer may want of the training step besides losses; the defaults are those of one process in float32.

    Attributes:
        terms: the T scalars that ``losses`` was stacked from. The backward of one of them visits its own task's graph;
            that of an entry of the stack visits all T, with zeros. Empty: the entries are taken.
        own: the trainable parameters that the losses reach beside the shared ones: heads, experts of one task. Gradient
            balancers leave their gradients as the plain sum of losses gives them.
        here: which tasks have rows on this process; empty: those present. Others' gradients are zero here.
        scale: the gradient scaler's factor in float16; gradients of unscaled losses would underflow.
        mean: mean over processes, the same tensor on each; None where there is one.
        features: the features (n_t, D, ...) that each task's head read, in task order; None where the backbone ran
            (row, task) queries, so that no two tasks read the same.
        rows: which rows of the batch carry which task.
    """

    terms: Sequence[Tensor] = ()
    own: Sequence[nn.Parameter] = ()
    here: Sequence[bool] = ()
    scale: float = 1.0
    mean: Callable[[Tensor], Tensor] | None = None
    features: Sequence[Tensor] | None = None
    rows: TaskRows | None = None


ALONE = Step()


class Balancer(nn.Module, ABC):
    """Base of the loss and gradient balancers.

    A new balancer overrides :meth:`forward`, and what it needs of the hooks. Its trainable parameters are given to the
    run's optimiser; what else it keeps between steps belongs in buffers or in the extra state, so that a resumed run
    goes on exactly.

    Args:
        num_tasks: T; only balancers that keep something for each task need it.

    Attributes:
        wants_losses_after_step: whether the losses are computed a second time, after the optimiser's step, for
            :meth:`after_step`.
    """

    wants_losses_after_step: ClassVar[bool] = False

    def __init__(self, num_tasks: int | None = None) -> None:
        super().__init__()
        if num_tasks is not None:
            positive_int("num_tasks", num_tasks)

    @abstractmethod
    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter], *, step: Step = ALONE) -> Tensor:
        """The scalar to minimise.

        Args:
            losses: (T,) always all tasks; an absent task's loss is 0. Averaged over processes they are the means over
                the global batch.
            present: (T,) bool, whether a task has rows anywhere in the global batch.
            shared: the parameters that several tasks pull on; none where nothing is shared.
            step: what else is known of the training step.
        """

    def check_regime(self, regime: Regime) -> None:
        """Raise :class:`ConfigError` where the method is not defined for ``regime``. Called before training."""

    def start_epoch(self, epoch: int) -> None:
        """Called when the training epoch ``epoch`` (from 0) starts; after a resume perhaps again with the same one."""

    def after_step(self, losses: Tensor, present: Tensor) -> None:
        """Called after the optimiser's step where ``wants_losses_after_step``.

        Args:
            losses: (T,) detached, of the step's last batch with the new parameters; means over the global batch.
            present: (T,) bool.
        """
