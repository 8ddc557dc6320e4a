"""Loaders: one that can be resumed in the middle of an epoch, and the rows of a rank at evaluation."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Sampler

from mola_lightning.core import Sample
from mola_lightning.data.samplers import EpochSampler


class ResumableLoader(DataLoader[Sample]):
    """A training loader whose position is part of the checkpoint.

    Lightning saves ``state_dict()`` of every training loader that has it, and restores it before ``iter()`` is called.
    The epoch belongs to the state: with workers, batches are fetched ahead before ``set_epoch`` is called.
    """

    batch_sampler: EpochSampler

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the batch it started at. :class:`ResumableCheckpoint` fills in the batch that comes next:
        with workers, more batches were fetched than trained, and the loader cannot tell.
        """
        return {"epoch": self.batch_sampler.epoch, "batch": self.batch_sampler.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next ``iter()`` begin at batch ``state["batch"]`` of epoch ``state["epoch"]``."""
        self.batch_sampler.epoch, self.batch_sampler.start = int(state["epoch"]), int(state["batch"])


class RankShare(Sampler[int]):
    """Rows rank, rank + world_size, ...: each row once over all ranks, none twice to even out their shares.

    Args:
        num_rows: rows of the split.
        rank: 0..world_size-1.
        world_size: number of ranks.
    """

    def __init__(self, num_rows: int, rank: int = 0, world_size: int = 1) -> None:
        self._rows = range(rank, num_rows, world_size)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)
