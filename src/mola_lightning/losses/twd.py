"""Task-wise decorrelation: images of one task should be routed alike, images of different tasks apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.core.errors import positive_int, require
from mola_lightning.core.processes import gather_rows


class TaskwiseDecorrelation(nn.Module):
    """The TwD loss on a router's logits (Zhou et al., ICML 2024, arXiv 2406.09679).

    The raw logits, before softmax, are projected to ``projection_dim`` dimensions by a linear layer that belongs to the
    loss and is trained with it; the projections get a supervised contrastive loss in which the task id is the class.

    Args:
        num_experts: E, width of the logits.
        projection_dim: width of the space in which images are compared.
        temperature: divides the cosine similarities.
        gather: with several processes, pair the images of the global batch; else those of each process's part, and the
            loss is the mean over processes.

    Raises:
        ConfigError: for a value that cannot work.
    """

    def __init__(
        self, num_experts: int, projection_dim: int = 32, temperature: float = 1.0, gather: bool = False
    ) -> None:
        super().__init__()
        positive_int("num_experts", num_experts)
        positive_int("projection_dim", projection_dim)
        require(temperature > 0, f"temperature must be > 0, got {temperature!r}")
        self.temperature = float(temperature)
        self.gather = gather
        self.projection = nn.Linear(num_experts, projection_dim)

    def forward(self, logits: Tensor, task_ids: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            logits: (B, E) raw scores of the router.
            task_ids: (B,) integer.

        Returns:
            A scalar; 0 when no two rows share a task.
        """
        z = self.projection(logits)
        if self.gather:
            z, task_ids = gather_rows(z), gather_rows(task_ids)
        return self.pairwise(z, task_ids, self.temperature)

    @staticmethod
    def pairwise(z: Tensor, task_ids: Tensor, temperature: float = 1.0) -> Tensor:
        """The bare loss on embeddings.

        With f_i = z_i / max(|z_i|, 1e-12), S_ji = exp(f_j . f_i / temperature) for j != i, and P the ordered pairs
        (j, i) of different rows with the same task,

            TwD = 1 / |P| * sum over (j, i) in P of -log(S_ji / sum_j' S_j'i).

        It is a mean over pairs and not over anchors, so a task with n rows weighs n (n - 1). Rows without a partner
        still count among the negatives of the others. Without any pair (all tasks differ, or B = 1), where the released
        code fails, the loss is 0 with zero gradients, so that such a batch can be trained on.

        Args:
            z: (B, D) embeddings.
            task_ids: (B,) integer.
            temperature: divides the cosine similarities.

        Returns:
            A scalar, in float32 or better whatever the autocast type.
        """
        # Half precision would round similarities to 3 digits before the exponential.
        with torch.autocast(z.device.type, enabled=False):
            f = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1, eps=1e-12)
            similarity = f @ f.T / temperature  # (B, B), [j, i]
            itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
            # A finite floor and not -inf: with B = 1 a column is empty, and logsumexp of -inf alone has NaN gradients.
            others = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)
            negative_log = others.logsumexp(dim=0, keepdim=True) - similarity
            positive = (task_ids[:, None] == task_ids[None, :]) & ~itself
            return negative_log.masked_fill(~positive, 0.0).sum() / positive.sum().clamp(min=1)
