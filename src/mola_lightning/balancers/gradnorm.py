"""GradNorm: loss weights that equalise how fast tasks train, by the norms of their gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mola_lightning.balancers.base import ALONE, Step
from mola_lightning.balancers.gradient import GradientBalancer
from mola_lightning.core.errors import require


@dataclass(frozen=True)
class _WeightedStep(Step):
    """A step whose terms are weighted.

    Attributes:
        losses: (T,) detached, before the weights, of the global batch.
    """

    losses: Tensor = field(default_factory=lambda: torch.empty(0))


class GradNorm(GradientBalancer):
    """GradNorm (Chen et al., ICML 2018, arXiv 1711.02257): sum_t w_t L_t, with w so that norms follow training rates.

    w descends on sum_t |G_t - mean(G) r_t^alpha|, where G_t is the norm of the gradient of w_t L_t and r_t the task's
    L_t / L_t(0) over the mean of these; the target is taken as a constant, and the w keep their sum T. Where we differ:
    norms are over all shared parameters, not over a last layer, which not every architecture has; and w descends in its
    logarithm, relative to mean(G), so that it stays positive and ``lr`` has no unit. All parameters get the weighted
    gradient, heads and experts too. T backward passes, none more.

    Args:
        num_tasks: T.
        alpha: how strongly slow tasks are pushed; 0 makes all norms equal.
        lr: of the w.
    """

    def __init__(self, num_tasks: int, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(num_tasks)
        require(lr >= 0, f"lr must be >= 0, got {lr!r}")
        self.alpha, self.lr = alpha, lr
        self.register_buffer("weights", torch.ones(num_tasks))
        self.register_buffer("initial", torch.full((num_tasks,), torch.nan))  # each task's first loss

    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter], *, step: Step = ALONE) -> Tensor:
        """sum_t w_t L_t; w moves afterwards."""
        weights = self.weights.clone()
        terms = [weight * term for weight, term in zip(weights.unbind(), step.terms or losses.unbind(), strict=True)]
        values = losses.detach().float()
        values = values if step.mean is None else step.mean(values.clone())
        weighted = _WeightedStep(terms, step.own, step.here, step.scale, step.mean, losses=values)
        return super().forward(torch.stack(terms), present, shared, step=weighted)

    def combine(self, jacobian: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """The sum of the weighted gradients."""
        norms = jacobian.norm(dim=1)[chosen].to(self.weights.dtype)
        assert isinstance(step, _WeightedStep)
        if norms.isfinite().all():
            self._move(norms, step.losses[chosen], chosen)
        return jacobian.sum(0)

    def _move(self, norms: Tensor, losses: Tensor, chosen: Tensor) -> None:
        initial = self.initial[chosen]
        self.initial[chosen] = initial = torch.where(initial.isnan(), losses, initial)
        rates = losses / initial.clamp(min=1e-12)
        rates = rates / rates.mean().clamp(min=1e-12)
        mean = norms.mean().clamp(min=1e-30)
        gradient = torch.sign(norms - mean * rates**self.alpha) * norms / mean
        before = self.weights[chosen]
        after = before * (-self.lr * gradient).exp()
        self.weights[chosen] = after * (before.sum() / after.sum())
