"""What the processes of one training tell each other in a forward pass. With a single process each is the identity."""

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather_rows(local: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks.

    For a value that every process computes from all rows alike: the local rows get the gradient times the number of
    processes, so that the mean of the processes' gradients, which is what they train on, is that of the one value.

    Args:
        local: (n, ...), of any n on each process.

    Returns:
        (sum of n, ...), differentiable with respect to the local rows.
    """
    world = world_size()
    if world == 1:
        return local
    mine = torch.tensor([len(local)], device=local.device)
    counts = [torch.empty_like(mine) for _ in range(world)]
    distributed.all_gather(counts, mine)
    sizes = [int(count) for count in counts]
    padded = local.detach().new_zeros((max(sizes), *local.shape[1:]))
    padded[: len(local)] = local.detach()
    found = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(found, padded)
    parts = [part[:size] for part, size in zip(found, sizes, strict=True)]
    if local.requires_grad:
        # The difference is 0: the value is local's, the gradient world times as large.
        parts[distributed.get_rank()] = local.detach() + world * (local - local.detach())
    return torch.cat(parts)


def of_first(drawn: Tensor) -> Tensor:
    """The first process's tensor on all of them, for what they must draw alike; no gradient."""
    drawn = drawn.detach()
    if world_size() > 1:
        distributed.broadcast(drawn, src=0)
    return drawn
