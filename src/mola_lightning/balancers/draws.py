"""Random draws of a balancer: functions of (seed, step), so that all processes and a resumed run draw the same."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mola_lightning.core import seed_of


class Draws(nn.Module):
    """Counts a balancer's draws, and seeds each with the count. The count is part of the state dict.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.count = seed, 0

    @contextmanager
    def next(self, device: torch.device) -> Iterator[None]:
        """Draws from the global generators are the next ones of this object; the generators stay undisturbed."""
        self.count += 1
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of("balancer", self.seed, self.count))
            yield

    def get_extra_state(self) -> dict[str, int]:
        """The count."""
        return {"count": self.count}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on from a count."""
        self.count = state["count"]
