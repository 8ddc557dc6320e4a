"""What every router is: images, and which rows belong to which task, in; a routing decision out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mola_lightning.core import Routing, TaskRows
from mola_lightning.core.errors import positive_int


class Router(nn.Module, ABC):
    """Base of the routers.

    Every router is built with the keywords ``num_experts`` and ``in_channels``, needed or not, so that an architecture
    can build any of them without knowing which one it has.

    Args:
        num_experts: E.

    Attributes:
        label: names the method in tables, as mola_<label>.
        needs_task_ids: whether routing reads ``rows.task_ids`` (target-aware routing).
        learned_logits: whether ``Routing.logits`` is set, so that losses on the router's scores can act.
    """

    label: str
    needs_task_ids: bool = False
    learned_logits: bool = False

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        positive_int("num_experts", num_experts)
        self.num_experts = num_experts

    @abstractmethod
    def forward(self, images: Tensor, rows: TaskRows | None = None) -> Routing:
        """Decide how each image mixes the experts.

        Args:
            images: (B, C, H, W), as the backbone gets them.
            rows: which rows belong to which task; routers with ``needs_task_ids`` cannot do without, the others
                ignore it.

        Returns:
            The routing of the B rows.
        """
