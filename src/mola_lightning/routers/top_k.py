"""Sparse routing: the k best experts share the weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mola_lightning.core import Routing
from mola_lightning.core.errors import positive_int, require
from mola_lightning.routers.conv import ConvRouter


class TopKRouter(ConvRouter):
    """Mixing weights = softmax over the k largest logits of each image; all others are exactly 0.

    The gating of the sparsely-gated mixture of experts (Shazeer et al., ICLR 2017, arXiv 1701.06538) without its noise,
    on the network of :class:`ConvRouter`. With k = E it is :class:`ConvRouter`. With k = 1 the weight is constantly 1,
    so that the task losses give the router no gradient and only an auxiliary loss trains it: :class:`HardRouter` is the
    one-expert router that learns.

    Args:
        num_experts: E, number of logits.
        in_channels: channels of the images.
        k: experts per image, 1 <= k <= E.
        widths: channels of each stage of the network.
        blocks: residual blocks per stage.
        temperature: divides the logits before softmax.
        input_size: side in pixels of the square that images are resized to before routing; None: full resolution.

    Raises:
        ConfigError: for k < 1 or k > num_experts.
    """

    label = "top_k_router"

    def __init__(
        self,
        num_experts: int,
        in_channels: int = 3,
        k: int = 2,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        temperature: float = 1.0,
        input_size: int | None = None,
    ) -> None:
        super().__init__(num_experts, in_channels, widths, blocks, temperature, input_size)
        positive_int("k", k)
        require(k <= num_experts, f"k must be at most num_experts={num_experts}, got k={k}; lower k or add experts")
        self.k = k

    def decide(self, logits: Tensor) -> Routing:
        """Weights on the k largest of (B, E) logits."""
        values, chosen = logits.topk(self.k, dim=1)
        weights = (values / self.temperature).softmax(dim=1)
        # Under autocast softmax answers in float32 whatever the logits are: zeros must be of the weights' type.
        mixing = torch.zeros_like(logits, dtype=weights.dtype).scatter(1, chosen, weights)
        return Routing(mixing=mixing, logits=logits)
