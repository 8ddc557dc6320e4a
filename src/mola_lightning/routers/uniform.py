"""No decision: every expert runs on every image."""

from torch import Tensor

from mola_lightning.core import Routing, TaskRows
from mola_lightning.core.errors import one_of
from mola_lightning.routers.base import Router


class UniformRouter(Router):
    """All experts with the same constant weight; no parameters. The ablation "many adapters, no routing".

    Args:
        num_experts: E.
        in_channels: unused; every router takes it.
        mode: ``"sum"`` adds all experts with weight 1 (the ungated LoRA-mix); ``"mean"`` weighs them 1 / E, which keeps
            the weights' sum at 1 as softmax does.

    Raises:
        ConfigError: for another mode.
    """

    label = "uniform"

    def __init__(self, num_experts: int, in_channels: int = 3, mode: str = "sum") -> None:
        super().__init__(num_experts)
        one_of("mode", mode, ("sum", "mean"))
        self.mode = mode

    def forward(self, images: Tensor, rows: TaskRows | None = None) -> Routing:
        """The same weights for each image; neither ``images`` nor ``rows`` is looked at."""
        weight = 1.0 if self.mode == "sum" else 1.0 / self.num_experts
        return Routing(mixing=images.new_full((images.shape[0], self.num_experts), weight))
