"""One expert per image, learned through a straight-through estimator."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import Routing
from mola_lightning.routers.conv import ConvRouter


class HardRouter(ConvRouter):
    """The expert with the largest logit runs alone; the gradient reaches the logits unchanged (straight-through).

    Forward: one_hot(argmax(logits)). Backward: d mixing / d logits := identity, without a softmax in between. The
    network, its parameter names and its cost are those of :class:`ConvRouter`, so weights can be exchanged.

    Outside training (evaluation mode, or gradients disabled) no gradient is wanted and the routing holds expert ids
    only, so that layers run one expert per row.

    Args:
        num_experts: E, number of logits.
        in_channels: channels of the images.
        widths: channels of each stage of the network.
        blocks: residual blocks per stage.
        input_size: side in pixels of the square that images are resized to before routing; None: full resolution.
    """

    label = "hard_router"

    def __init__(
        self,
        num_experts: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        input_size: int | None = None,
    ) -> None:
        super().__init__(num_experts, in_channels, widths, blocks, input_size=input_size)

    def decide(self, logits: Tensor) -> Routing:
        """The largest logit of (B, E) takes it all; of equal ones, the first."""
        winners = logits.argmax(dim=1)
        if not self.training or not torch.is_grad_enabled():
            return Routing(expert_ids=winners, logits=logits)
        one_hot = F.one_hot(winners, self.num_experts).to(logits.dtype)
        # The bracket is exactly 0, so the value stays exactly one-hot while the gradient is that of the logits.
        return Routing(mixing=one_hot + (logits - logits.detach()), logits=logits)
