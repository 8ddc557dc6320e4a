"""A model whose routing someone else decides: a given expert, or a given mixture, on every image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mola_lightning.core import ConfigError, Routing, TaskRows
from mola_lightning.routers import Router


class FixedRouter(Router):
    """The same mixing weights for each image, whatever its task.

    Args:
        weights: (E,). All zero: the backbone without any expert. One-hot: one expert runs alone.
    """

    label = "fixed"

    def __init__(self, weights: Tensor) -> None:
        super().__init__(len(weights))
        self.weights = weights.detach()
        alone = weights.nonzero().flatten().tolist()
        self.expert = alone[0] if len(alone) == 1 and float(weights[alone[0]]) == 1 else None

    def forward(self, images: Tensor, rows: TaskRows | None = None) -> Routing:
        """The routing of each row; neither ``images`` nor ``rows`` is looked at."""
        if self.expert is not None:
            return Routing(expert_ids=torch.full((len(images),), self.expert, device=images.device))
        return Routing(mixing=self.weights.to(images).expand(len(images), -1))


def routes(architecture: nn.Module) -> bool:
    """Whether an architecture has a router over experts, so that its routing can be decided by someone else."""
    return isinstance(getattr(architecture, "router", None), Router)


@contextmanager
def fixed_mixing(architecture: nn.Module, weights: Tensor) -> Iterator[None]:
    """Let ``architecture`` mix its experts by ``weights`` (E,) inside a ``with`` block; afterwards by its own router.

    Raises:
        ConfigError: when it has no router, or another number of experts.
    """
    if not routes(architecture):
        raise ConfigError(f"{type(architecture).__name__} has no router whose decision could be replaced")
    own = architecture.router
    if len(weights) != own.num_experts:
        raise ConfigError(f"mixing weights must be (E,) = ({own.num_experts},), got {tuple(weights.shape)}")
    architecture.router = FixedRouter(weights)
    try:
        yield
    finally:
        architecture.router = own
