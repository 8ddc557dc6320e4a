"""Loss balancers that follow how fast the losses fall: DWA over epochs, FAMO over steps."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mola_lightning.balancers.scalarization import LossBalancer, Scalarized
from mola_lightning.balancers.torchjd import make


class DWA(LossBalancer):
    """Dynamic weight average: weights n softmax(r_t / temperature), sum n (Liu et al., CVPR 2019, arXiv 1803.10704).

    r_t is the task's mean loss of the last epoch over that of the one before; weights are equal in the first two
    epochs. A task's mean counts the batches that it was present in. The released code of MoLA compares windows of 25
    steps instead of epochs and divides by T; the paper is followed.

    Args:
        num_tasks: T.
        temperature: large values make the weights equal.
    """

    def __init__(self, num_tasks: int, temperature: float = 2.0) -> None:
        super().__init__(num_tasks)
        self.scalarizer = make("scalarization.DWA", temperature)
        self.register_buffer("sums", torch.zeros(num_tasks))
        self.register_buffer("counts", torch.zeros(num_tasks))
        self.register_buffer("average", torch.full((num_tasks,), torch.nan))  # of the last epoch with the task in it
        self.register_buffer("rates", torch.ones(num_tasks))
        self.register_buffer("epoch", torch.tensor(-1))

    def start_epoch(self, epoch: int) -> None:
        """Close the previous epoch, unless this one had already begun."""
        if int(self.epoch) == epoch:
            return
        self.epoch.fill_(epoch)
        seen = self.counts > 0
        closed = self.sums / self.counts
        known = seen & self.average.isfinite() & (self.average != 0)
        self.rates.copy_(torch.where(known, closed / self.average, self.rates))
        self.average.copy_(torch.where(seen, closed, self.average))
        self.sums.zero_()
        self.counts.zero_()

    def scalarize(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The weighted sum; TorchJD's object makes the weights, its memory of epochs is ours."""
        with torch.no_grad():
            self.sums[chosen] += values[chosen]
            self.counts[chosen] += 1
        rates = self.rates[chosen]
        self.scalarizer._previous_averages = [torch.ones_like(rates), rates]
        scalar = self.scalarizer(values[chosen])
        self.scalarizer.reset()
        return scalar


class FAMO(Scalarized):
    """FAMO: fast adaptive optimisation, all losses fall at the same rate (Liu et al., NeurIPS 2023, arXiv 2306.03792).

    Minimises sum_t w_t log L_t with weights of sum 1 for the network. What w follows is the losses' change over the
    optimiser's step, so each step ends with a second forward pass of its (last) batch, without gradients; the
    statistics of normalisation layers see the batch once. w is trained by an Adam of its own.

    Args:
        num_tasks: T.
        lr: of w's Adam.
        weight_decay: of w's Adam.
    """

    wants_losses_after_step: ClassVar[bool] = True

    def __init__(self, num_tasks: int, lr: float = 0.025, weight_decay: float = 1e-3) -> None:
        super().__init__(make("scalarization.FAMO", num_tasks, lr=lr, weight_decay=weight_decay), num_tasks)
        self._logits.requires_grad_(False)  # neither the run's optimiser nor distributed training may touch them
        self.scalarizer._optimizer = torch.optim.Adam([self._logits], lr=lr, weight_decay=weight_decay)
        self._before: Tensor | None = None

    @property
    def _logits(self) -> nn.Parameter:
        return self.scalarizer._w

    def scalarize(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The sum over present tasks of c w_t log L_t."""
        self._before = values.detach().clone()
        scalar = super().scalarize(values, chosen)
        self.scalarizer._prev_losses = None
        return scalar

    @torch.no_grad()
    def after_step(self, losses: Tensor, present: Tensor) -> None:
        """Move w by how much each loss fell. An absent task counts as having fallen like the others' average."""
        if self._before is None or not present.any():
            return
        one = torch.ones_like(self._before)
        before, after = torch.where(present, self._before, one), torch.where(present, losses.float(), one)
        fall = (before / after).clamp(min=1e-30).log()
        weights = self._logits.softmax(0) * present
        average = (weights * fall.nan_to_num()).sum() / weights.sum()
        self._before, self.scalarizer._prev_losses = None, before
        for state in self.scalarizer._optimizer.state.values():  # loaded before the module was moved
            state.update({n: v.to(self._logits.device) for n, v in state.items() if n != "step"})
        self._logits.requires_grad_(True)
        self.scalarizer.update(torch.where(present, after, (-average).exp()))
        self._logits.requires_grad_(False)
        self.scalarizer._prev_losses = None

    def get_extra_state(self) -> dict[str, Any]:
        """The state of w's Adam, which no state dict would hold."""
        return self.scalarizer._optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of w's Adam."""
        self.scalarizer._optimizer.load_state_dict(state)
