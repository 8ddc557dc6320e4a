"""Balancers that act on the tasks' gradients."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mola_lightning.balancers.base import ALONE, Balancer, Step
from mola_lightning.balancers.with_gradient import backward_per_task


class GradientBalancer(Balancer):
    """Takes the gradient of each present task with respect to the shared parameters and makes one of them.

    T backward passes for T present tasks, none more. Parameters of one task (its head, its expert) get the gradient of
    the plain sum of losses: nothing conflicts there. Where no parameter is shared (single-task learning) the balancer
    is the plain sum. The scalar's value is the sum of losses in any case.
    """

    def forward(self, losses: Tensor, present: Tensor, shared: Sequence[nn.Parameter], *, step: Step = ALONE) -> Tensor:
        """sum_t L_t, with the combined gradient."""
        flags = present.tolist()
        if not shared or not any(flags):
            return losses.sum()
        gradients = backward_per_task(losses, flags, shared, step)
        chosen = torch.tensor([t for t, flag in enumerate(flags) if flag], device=gradients.jacobian.device)
        # Under autocast the products below would run in bfloat16, which the solvers cannot bear.
        with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
            combined = self.combine(gradients.jacobian, chosen, step)
        return gradients.deliver(losses.detach().sum(), combined)

    @abstractmethod
    def combine(self, jacobian: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """The gradient (P,) of the shared parameters.

        Args:
            jacobian: (T, P); rows of absent tasks are zero. The same on all processes.
            chosen: (n,) indices of the present tasks, at least one. A zero row is no absent task to most methods: it
                makes MGDA and CAGrad stop training, GradVac explode; so they must see the present tasks only.
            step: the training step.
        """


def gramian_of(jacobian: Tensor, chosen: Tensor) -> Tensor:
    """(n, n) inner products of the chosen rows of (T, P), in full precision."""
    if torch.get_float32_matmul_precision() == "highest":
        return (jacobian @ jacobian.T)[chosen][:, chosen]  # jacobian[chosen] would copy its P columns
    # The user allowed TF32 or bfloat16 in products; solvers divide by small eigenvalues that these lose.
    rows = [jacobian[t] for t in chosen.tolist()]
    products = [[torch.dot(rows[max(i, j)], rows[min(i, j)]) for j in range(len(rows))] for i in range(len(rows))]
    return torch.stack([torch.stack(line) for line in products])
