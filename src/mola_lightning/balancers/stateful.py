"""Gramian balancers with a memory, kept for all T tasks; the present ones see their part of it."""

import warnings

import torch
from torch import Tensor

from mola_lightning.balancers.draws import Draws
from mola_lightning.balancers.gramian import GramianBalancer
from mola_lightning.balancers.torchjd import make
from mola_lightning.core.errors import positive_int


class GradVac(GramianBalancer):
    """Gradient vaccine: cosines below their running mean are raised to it; then the sum (Wang et al., ICLR 2021).

    Args:
        num_tasks: T.
        beta: weight of the newest cosine in its running mean.
        seed: of the order in which the others are gone through.
    """

    def __init__(self, num_tasks: int, beta: float = 0.5, seed: int = 0) -> None:
        super().__init__(make("aggregation.GradVacWeighting", beta=beta), num_tasks)
        self.draws = Draws(seed)
        self.register_buffer("cosines", torch.zeros(num_tasks, num_tasks))

    def weigh(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """(n,) weights; the running means of absent tasks stand."""
        weighting, block = self.weighting, (chosen[:, None], chosen)
        # TorchJD works on the CPU, and would forget everything when the number of tasks changes.
        weighting._phi_t = self.cosines[block].to(device="cpu", dtype=gramian.dtype)
        weighting._state_key = (len(chosen), gramian.dtype)
        with self.draws.next(gramian.device):
            weights = weighting(gramian)
        self.cosines[block] = weighting._phi_t.to(self.cosines)
        weighting.reset()
        return weights


class SDMGrad(GramianBalancer):
    """SDMGrad: MGDA drawn towards the mean gradient; weights of sum 1 (Xiao et al., NeurIPS 2023, arXiv 2305.18409).

    The paper estimates the Gramian from two further independent batches, for an unbiased estimate; here the step's
    batch gives it, at a third of the cost: the objective's deterministic form.

    Args:
        num_tasks: T.
        lambda_: how strongly the direction is drawn towards the mean gradient.
        lr: of the projected gradient descent on the weights.
        momentum: of the same.
        n_iter: steps of the same.
    """

    def __init__(
        self, num_tasks: int, lambda_: float = 0.3, lr: float = 10.0, momentum: float = 0.5, n_iter: int = 20
    ) -> None:
        weighting = make("aggregation.SDMGradWeighting", lambda_=lambda_, lr=lr, momentum=momentum, n_iter=n_iter)
        super().__init__(weighting, num_tasks)
        self.register_buffer("simplex", torch.full((num_tasks,), 1 / num_tasks))

    def weigh(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """(n,) weights; the present tasks share what they had together."""
        weighting, before = self.weighting, self.simplex[chosen].to(gramian.dtype)
        mass = before.sum()
        weighting._w = before / mass if mass > 0 else torch.full_like(before, 1 / len(before))
        weighting._state_key = (len(chosen), gramian.dtype, gramian.device)
        weights = weighting(gramian)
        self.simplex[chosen] = (weighting._w * mass).to(self.simplex)
        weighting.reset()
        return weights


class NashMTL(GramianBalancer):
    """Nash-MTL: the bargaining solution G w = 1 / w for the normalised Gramian G (Navon et al., ICML 2022).

    Each solution starts from the last one. The released code of MoLA fixes the number of tasks to three.

    Args:
        num_tasks: T.
        max_norm: the combined gradient is cut to this norm; 0 leaves it.
        optim_niter: of the outer iteration.
        update_every: solve every so many steps, and keep the weights between.

    Raises:
        ConfigError: without cvxpy and ecos.
    """

    scale_free = False

    def __init__(self, num_tasks: int, max_norm: float = 1.0, optim_niter: int = 20, update_every: int = 1) -> None:
        positive_int("update_every", update_every)
        self._settings = {"max_norm": max_norm, "update_weights_every": 1, "optim_niter": optim_niter}
        aggregator = make("aggregation.NashMTL", num_tasks, needs=("cvxpy", "ecos"), **self._settings)
        super().__init__(aggregator.weighting, num_tasks)
        self.max_norm, self.update_every = max_norm, update_every
        self._by_size = {num_tasks: self.weighting}  # a solver's problem has a fixed number of tasks
        self.register_buffer("solution", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(0))

    def weigh(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        """(n,) weights; the solution of absent tasks stands."""
        due = int(self.steps) % self.update_every == 0
        self.steps += 1
        if due:
            return self._solve(gramian, chosen)
        weights = self.solution[chosen].to(gramian.dtype)
        norm = (weights @ gramian @ weights).clamp(min=0).sqrt()
        return weights * (self.max_norm / norm) if 0 < self.max_norm < norm else weights

    def _solve(self, gramian: Tensor, chosen: Tensor) -> Tensor:
        size = len(chosen)
        if size not in self._by_size:
            self._by_size[size] = make("aggregation.NashMTL", size, needs=("cvxpy", "ecos"), **self._settings).weighting
        weighting = self._by_size[size]
        weighting.prvs_alpha = self.solution[chosen].cpu().numpy()
        # The weights depend on the gradients through their Gramian alone: any root of it stands for them.
        values, vectors = torch.linalg.eigh(gramian)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of cvxpy: its speed, and inner steps that are inexact
            weights = weighting(vectors * values.clamp(min=0).sqrt())
        self.solution[chosen] = torch.as_tensor(weighting.prvs_alpha).to(self.solution)
        return weights
