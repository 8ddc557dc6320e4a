"""Balancers that combine the losses themselves: one backward pass."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mola_lightning.balancers.base import ALONE, Balancer, Step
from mola_lightning.balancers.draws import Draws
from mola_lightning.balancers.torchjd import make
from mola_lightning.balancers.with_gradient import attach
from mola_lightning.core.errors import require


class EqualWeights(Balancer):
    """The sum of the present tasks' mean losses (linear scalarisation, LS); MoLA's own choice.

    Each task's loss is its mean over its rows of the global batch, whatever the architecture; the released code
    weights by n_t / B in some architectures and not in others.
    """

    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter], *, step: Step = ALONE) -> Tensor:
        """sum_t L_t."""
        return losses.sum()


class LossBalancer(Balancer):
    """A function S of the present tasks' losses, which may have parameters of its own.

    S is evaluated at the losses of the global batch: on several processes a loss is only this process's share, of which
    no logarithm may be taken. The network then minimises sum_t (dS/dL_t) L_t, which has the same gradient. All
    parameters get the weighted gradient, heads and experts too.
    """

    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter], *, step: Step = ALONE) -> Tensor:
        """S(L), with the gradient of S for the network and for the balancer's own parameters."""
        chosen = present.nonzero().flatten()
        if not len(chosen):
            return losses.sum()
        values = losses.detach().float()
        values = values.clone() if step.mean is None else step.mean(values.clone())
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        with torch.enable_grad(), torch.autocast(losses.device.type, enabled=False):
            point = values.requires_grad_()
            scalar = self.scalarize(point, chosen)
            weights, *gradients = torch.autograd.grad(scalar, [point, *own])
        network = (weights.to(losses.dtype) * losses).sum()
        return attach(scalar.detach(), list(zip(own, gradients, strict=True))) + (network - network.detach())

    @abstractmethod
    def scalarize(self, values: Tensor, chosen: Tensor) -> Tensor:
        """S.

        Args:
            values: (T,) losses of the global batch, a leaf of the graph; 0 for absent tasks.
            chosen: (n,) indices of the present tasks, at least one.
        """


class SI(LossBalancer):
    """Scale-invariant loss: sum_t log L_t, indifferent to the unit of a loss (Navon et al., ICML 2022).

    The released code of MoLA takes log(1 + L_t), which does depend on the unit.

    Args:
        num_tasks: not needed.
        eps: losses below it count as it, and stop to pull.
    """

    def __init__(self, num_tasks: int | None = None, eps: float = 1e-8) -> None:
        super().__init__(num_tasks)
        require(eps > 0, f"eps must be > 0, got {eps!r}")
        self.eps = eps

    def scalarize(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The sum of logarithms."""
        return values[chosen].clamp_min(self.eps).log().sum()


class Scalarized(LossBalancer):
    """Any scalarizer of TorchJD whose parameters and buffers, if any, have one entry a task.

    Args:
        scalarizer: called with the losses (n,) of the present tasks.
        num_tasks: not needed.
    """

    def __init__(self, scalarizer: nn.Module, num_tasks: int | None = None) -> None:
        super().__init__(num_tasks)
        self.scalarizer = scalarizer

    def scalarize(self, values: Tensor, chosen: Tensor) -> Tensor:
        """As if the batch's tasks were all there are: with the entries of the present tasks only."""
        state = {**dict(self.scalarizer.named_parameters()), **dict(self.scalarizer.named_buffers())}
        return functional_call(self.scalarizer, {name: t[chosen] for name, t in state.items()}, (values[chosen],))


class RLW(Scalarized):
    """Random loss weighting: softmax of normal draws, anew each step, sum 1 (Lin et al., TMLR 2022, arXiv 2111.10603).

    Args:
        num_tasks: not needed.
        seed: of the draws.
    """

    def __init__(self, num_tasks: int | None = None, seed: int = 0) -> None:
        super().__init__(make("scalarization.Random"), num_tasks)
        self.draws = Draws(seed)

    def scalarize(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The randomly weighted sum."""
        with self.draws.next(values.device):
            return super().scalarize(values, chosen)


class UW(Scalarized):
    """Uncertainty weighting: sum_t exp(-s_t) L_t / 2 + s_t / 2 with learned s_t (Kendall et al., CVPR 2018).

    The s_t are trained by the run's optimiser. The released code of MoLA has exp(-s_t) L_t without the half, the
    paper's form for classification; it differs by a shift of s_t alone.

    Args:
        num_tasks: T.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__(make("scalarization.UW", num_tasks), num_tasks)


class IMTLL(Scalarized):
    """IMTL-L: sum_t exp(s_t) L_t - s_t with learned s_t: losses of one scale (Liu et al., ICLR 2021).

    The s_t are trained by the run's optimiser.

    Args:
        num_tasks: T.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__(make("scalarization.IMTLL", num_tasks), num_tasks)


class STCH(Scalarized):
    """Smooth Tchebycheff: mu log sum_t exp(L_t / (n mu)), a smooth maximum (Lin et al., ICML 2024, arXiv 2402.19078).

    Args:
        num_tasks: not needed.
        mu: how smooth; as mu goes to 0, only the largest loss counts. In the unit of the losses.
    """

    def __init__(self, num_tasks: int | None = None, mu: float = 0.1) -> None:
        super().__init__(make("scalarization.STCH", mu), num_tasks)
