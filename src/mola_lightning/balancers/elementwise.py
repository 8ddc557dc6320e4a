"""Balancers that need the gradients themselves, not their inner products alone."""

from typing import Any

import torch
from torch import Tensor

from mola_lightning.balancers.base import Step
from mola_lightning.balancers.draws import Draws
from mola_lightning.balancers.gradient import GradientBalancer
from mola_lightning.balancers.torchjd import make
from mola_lightning.core.errors import require


class GradDrop(GradientBalancer):
    """Gradient sign dropout: in each entry only one sign survives, drawn by its share (Chen et al., NeurIPS 2020).

    Applied to the gradients of the shared parameters. The paper and the released code of MoLA drop at the activations
    that tasks share, which do not exist where each image has one task.

    Args:
        num_tasks: not needed.
        leak: the share of each gradient that passes in any case, in 0..1.
        seed: of the draws.
    """

    def __init__(self, num_tasks: int | None = None, leak: float = 0.0, seed: int = 0) -> None:
        super().__init__(num_tasks)
        require(0 <= leak <= 1, f"leak must lie in 0..1, got {leak!r}")
        self.leak = leak
        self.aggregator = make("aggregation.GradDrop")
        self.draws = Draws(seed)

    def combine(self, jacobian: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """Line 10 to 15 of the paper's algorithm 1."""
        rows = present_rows(jacobian, chosen)
        self.aggregator.leak = rows.new_full((len(rows),), self.leak)
        with self.draws.next(rows.device):
            return self.aggregator(rows)


class ConFIG(GradientBalancer):
    """ConFIG: the direction with the same cosine to all gradients, as long as they reach along it (arXiv 2408.11104).

    Args:
        num_tasks: not needed.
    """

    def __init__(self, num_tasks: int | None = None) -> None:
        super().__init__(num_tasks)
        self.aggregator = make("aggregation.ConFIG")

    def combine(self, jacobian: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """Equation 2 of the paper."""
        rows = present_rows(jacobian, chosen)
        return self.aggregator(rows) if rows.isfinite().all() else rows.sum(0)


class ExcessMTL(GradientBalancer):
    """ExcessMTL: tasks far from their optimum weigh more; weights of sum 1 (He et al., ICML 2024).

    How far is estimated from the gradients' running squares, T numbers for each shared parameter, which are part of the
    checkpoint. Without warm-up, as in the authors' code.

    Args:
        num_tasks: T.
        robust_step_size: of the weights' exponentiated update. At 1 all weight goes to one task within some steps.
    """

    def __init__(self, num_tasks: int, robust_step_size: float = 0.01) -> None:
        super().__init__(num_tasks)
        self.weighting = make("aggregation.ExcessMTLWeighting", robust_step_size=robust_step_size)
        self.register_buffer("simplex", torch.full((num_tasks,), 1 / num_tasks))
        self.register_buffer("baseline", torch.full((num_tasks,), torch.nan))
        self._squares: Tensor | None = None  # (T, P); P is known with the first gradients

    def combine(self, jacobian: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """The weighted sum of the present tasks' gradients; what is known of absent ones stands."""
        rows = present_rows(jacobian, chosen)
        if not rows.isfinite().all():
            return rows.sum(0)
        if self._squares is None:
            self._squares = torch.zeros_like(jacobian)
        self._squares = self._squares.to(jacobian)
        squares = present_rows(self._squares, chosen)
        self.simplex[chosen], weights = self._weigh(rows, squares, chosen)
        if squares is not self._squares:
            self._squares[chosen] = squares
        return weights @ rows

    def _weigh(self, rows: Tensor, squares: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The present tasks' new part of the simplex, and their weights of sum 1. Adds to ``squares``."""
        inner, before = self.weighting, self.simplex[chosen]
        baseline = self.baseline[chosen]
        new = baseline.isnan()
        if new.any() and not new.all():  # seen for the first time: its excess now is its baseline
            excess = rows**2 / (squares + rows**2 + 1e-7).sqrt()
            baseline = torch.where(new, excess.sum(1), baseline)
        inner._sq_grad_sum, inner._weights = squares, before / before.sum()
        inner._initial_w = None if new.all() else baseline
        inner._state_key, inner._n_steps = (*rows.shape, rows.dtype, rows.device), 0
        weights = inner(rows)
        self.baseline[chosen] = inner._initial_w
        inner.reset()
        return weights * before.sum(), weights

    def get_extra_state(self) -> dict[str, Any]:
        """The running squares."""
        return {"squares": self._squares}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from running squares."""
        self._squares = state["squares"]


def present_rows(jacobian: Tensor, chosen: Tensor) -> Tensor:
    """The chosen rows of (T, P); the tensor itself where all are."""
    return jacobian if len(chosen) == len(jacobian) else jacobian[chosen]
