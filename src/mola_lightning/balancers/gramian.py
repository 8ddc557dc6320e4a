"""Balancers whose task weights depend on the gradients' inner products alone."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mola_lightning.balancers.base import Step
from mola_lightning.balancers.draws import Draws
from mola_lightning.balancers.gradient import GradientBalancer, gramian_of
from mola_lightning.balancers.torchjd import make


class GramianBalancer(GradientBalancer):
    """Any Gramian weighting of TorchJD that keeps no state.

    Args:
        weighting: called with the (n, n) Gramian of the present tasks; gives n weights.
        num_tasks: not needed by the class itself.

    Attributes:
        scale_free: whether the weights do not change when all gradients are multiplied by a number. The Gramian is
            then brought to a mean diagonal of 1: the solvers' tolerances are absolute, and without it CAGrad stops
            training once the norms of the gradients fall below 0.01.
    """

    scale_free: ClassVar[bool] = True

    def __init__(self, weighting: nn.Module, num_tasks: int | None = None) -> None:
        super().__init__(num_tasks)
        self.weighting = weighting

    def combine(self, jacobian: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """The weighted sum of gradients."""
        weights = self.task_weights(gramian_of(jacobian, chosen), chosen, len(jacobian))
        if step.mean is not None:
            weights = step.mean(weights)  # equal already but for what processors of different kinds round
        return weights @ jacobian

    def task_weights(self, gramian: Tensor, chosen: Tensor, num_tasks: int) -> Tensor:
        """(T,) weights, 0 for absent tasks, from the (n, n) Gramian of the present ones."""
        weights = gramian.new_zeros(num_tasks)
        weights[chosen] = self.weights(gramian, chosen)
        return weights

    def weights(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """(n,) weights of the present tasks for their Gramian, whatever its scale; ones where it is not finite.

        Args:
            gramian: (n, n).
            chosen: (n,) indices of the present tasks.
        """
        if not gramian.isfinite().all():
            # Overflow in float16: the scaler skips the step, and what the balancer remembers must not suffer.
            return torch.ones_like(chosen, dtype=gramian.dtype)
        scale = gramian.diagonal().mean()
        if self.scale_free and scale > 0:
            gramian = gramian / scale
        return self.weigh(gramian, chosen)

    def weigh(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """(n,) weights for a finite Gramian."""
        return self.weighting(gramian)


class MGDA(GramianBalancer):
    """Multiple-gradient descent: the shortest convex combination of the gradients (Sener & Koltun, NeurIPS 2018).

    Weights of sum 1, by Frank-Wolfe.

    Args:
        num_tasks: not needed.
        epsilon: stop at a step of Frank-Wolfe below this.
        max_iters: of Frank-Wolfe.
    """

    def __init__(self, num_tasks: int | None = None, epsilon: float = 1e-3, max_iters: int = 100) -> None:
        super().__init__(make("aggregation.MGDAWeighting", epsilon=epsilon, max_iters=max_iters), num_tasks)


class IMTLG(GramianBalancer):
    """IMTL-G: a direction with the same projection on all gradients; weights of sum 1 (Liu et al., ICLR 2021).

    Args:
        num_tasks: not needed.
    """

    def __init__(self, num_tasks: int | None = None) -> None:
        super().__init__(make("aggregation.IMTLGWeighting"), num_tasks)


class AlignedMTL(GramianBalancer):
    """Aligned-MTL: gradients made orthogonal and of equal length, then averaged (Senushkin et al., CVPR 2023).

    Args:
        num_tasks: not needed.
        scale_mode: the common squared length: ``min``, ``median`` or ``rmse`` (mean) of the Gramian's eigenvalues.
    """

    def __init__(self, num_tasks: int | None = None, scale_mode: str = "min") -> None:
        super().__init__(make("aggregation.AlignedMTLWeighting", scale_mode=scale_mode), num_tasks)


class UPGrad(GramianBalancer):
    """UPGrad: each gradient projected to where it harms no task, then averaged (Quinton & Rey, arXiv 2406.16232).

    Args:
        num_tasks: not needed.

    Raises:
        ConfigError: without qpsolvers and quadprog.
    """

    def __init__(self, num_tasks: int | None = None) -> None:
        super().__init__(make("aggregation.UPGradWeighting", needs=("qpsolvers", "quadprog")), num_tasks)


class CAGrad(GramianBalancer):
    """CAGrad: near the mean gradient, the direction that helps the worst task most (Liu et al., NeurIPS 2021).

    Args:
        num_tasks: not needed.
        c: radius of the search over the norm of the mean gradient; 0 gives the mean.

    Raises:
        ConfigError: without cvxpy and clarabel.
    """

    def __init__(self, num_tasks: int | None = None, c: float = 0.5) -> None:
        super().__init__(make("aggregation.CAGradWeighting", c=c, needs=("cvxpy", "clarabel")), num_tasks)


class PCGrad(GramianBalancer):
    """Gradient surgery: what of a gradient goes against another is taken out; then the sum (Yu et al., NeurIPS 2020).

    Args:
        num_tasks: not needed.
        seed: of the order in which the others are gone through.
    """

    def __init__(self, num_tasks: int | None = None, seed: int = 0) -> None:
        super().__init__(make("aggregation.PCGradWeighting"), num_tasks)
        self.draws = Draws(seed)

    def weigh(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """(n,) weights."""
        with self.draws.next(gramian.device):
            return self.weighting(gramian)


class FairGrad(GramianBalancer):
    """FairGrad: alpha-fair shares of progress, G w = w^(-1/alpha) (Ban & Ji, ICML 2024, arXiv 2402.15638).

    Args:
        num_tasks: not needed.
        alpha: 1 is proportional fairness, larger ones go towards max-min fairness.
    """

    def __init__(self, num_tasks: int | None = None, alpha: float = 1.0) -> None:
        super().__init__(make("aggregation.FairGradWeighting", alpha=alpha, needs=("scipy",)), num_tasks)
        self.alpha = alpha

    def weights(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """Solved at unit scale, for which the solver's tolerances are made, and brought back by the equation itself."""
        scale = gramian.diagonal().mean()
        unit = super().weights(gramian, chosen)
        exact = bool(scale.isfinite() & (scale > 0)) and self.alpha != 0
        return unit * scale ** (-self.alpha / (self.alpha + 1)) if exact else unit
