"""Balancers that combine the losses themselves."""

from collections.abc import Sequence

from torch import Tensor, nn

from mola_lightning.balancers.base import Balancer


class EqualWeights(Balancer):
    """The sum of the present tasks' mean losses (linear scalarisation, LS); MoLA's own choice.

    Each task's loss is its mean over its rows of the global batch, whatever the architecture; the released code
    weights by n_t / B in some architectures and not in others.
    """

    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter]) -> Tensor:
        """sum_t L_t."""
        return losses.sum()
