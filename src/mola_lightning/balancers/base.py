"""What a balancer is: the losses of the tasks in, one scalar whose gradient is the balanced one out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Balancer(nn.Module, ABC):
    """Base of the loss and gradient balancers."""

    @abstractmethod
    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter]) -> Tensor:
        """The scalar to minimise.

        Args:
            losses: (T,) always all tasks; an absent task's loss is 0.
            present: (T,) bool, whether a task has rows anywhere in the global batch.
            shared: the parameters that several tasks pull on.
        """
