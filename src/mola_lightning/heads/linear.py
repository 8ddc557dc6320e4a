"""The classification head: one linear layer over pooled features."""

from collections.abc import Sequence

from torch import Tensor, nn

from mola_lightning.core import ConfigError, Task


class LinearHead(nn.Linear):
    """(n, D) pooled features -> (n, ``task.num_outputs``) logits; n may be 0.

    Args:
        in_features: D, width of the features.
        task: whose outputs these are.
    """

    def __init__(self, in_features: int, task: Task) -> None:
        super().__init__(in_features, task.num_outputs)

    def forward(self, features: Tensor, image_size: Sequence[int] | None = None) -> Tensor:
        """Logits of pooled features; ``image_size``, which every head is told, does not matter.

        Raises:
            ConfigError: for features that are not (n, D), such as the map of a backbone without pooling.
        """
        if features.ndim != 2:
            raise ConfigError(
                f"LinearHead takes pooled features (n, {self.in_features}), got shape {tuple(features.shape)}; "
                "use a backbone with pooled=true, or a dense head (head=light, psp)"
            )
        return super().forward(features)
