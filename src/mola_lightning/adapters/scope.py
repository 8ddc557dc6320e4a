"""How mixing weights reach the adapted layers of one backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mola_lightning.core import ConfigError


@dataclass
class Mixing:
    """What an adapted layer reads: how each row of its input mixes the experts.

    Attributes:
        num_experts: E.
        weights: (B, E); None when ``expert_ids`` says it.
        expert_ids: (B,) int64, one expert per row; None for soft mixing.
        group_sizes: rows per expert as Python ints; only when rows are sorted by expert.
        row_counts: the same as (E,) int64 on the host; alone in a compiled graph, which is the same for any numbers.
    """

    num_experts: int
    weights: Tensor | None = None
    expert_ids: Tensor | None = None
    group_sizes: tuple[int, ...] | None = None
    row_counts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.row_counts is None and self.group_sizes is not None:
            self.row_counts = torch.tensor(self.group_sizes)

    @property
    def hard(self) -> bool:
        """Whether each row runs exactly one expert."""
        return self.expert_ids is not None

    @property
    def rows(self) -> int:
        """B."""
        given = self.weights if self.expert_ids is None else self.expert_ids
        assert given is not None
        return given.shape[0]

    @property
    def present(self) -> list[int]:
        """With rows in groups: the experts that have rows; all of them where the sizes are not looked at."""
        if self.group_sizes is None:
            return list(range(self.num_experts))
        return [expert for expert, size in enumerate(self.group_sizes) if size]

    @property
    def picked(self) -> list[int] | None:
        """``present``, to pick experts by; None for all of them, and for none."""
        return self.present if 0 < len(self.present) < self.num_experts else None

    def of_rows(self, every: Tensor) -> Tensor:
        """(E, ...) -> (B, ...): each row's own entry. With groups of one size its backward is a sum, not a scatter."""
        sizes = self.group_sizes
        if sizes and min(sizes) == max(sizes):
            return every[:, None].expand(-1, sizes[0], *every.shape[1:]).flatten(0, 1)
        assert self.expert_ids is not None
        return every.index_select(0, self.expert_ids)

    def dense_weights(self, like: Tensor) -> Tensor:
        """(B, E) weights in the dtype of ``like``, one-hot when mixing is hard."""
        if self.expert_ids is not None:
            return F.one_hot(self.expert_ids, self.num_experts).to(like.dtype)
        assert self.weights is not None
        return self.weights.to(like.dtype)

    def picked_weights(self, like: Tensor) -> Tensor:
        """(B, E'), the columns of :meth:`dense_weights` that belong to ``picked``."""
        weights = self.dense_weights(like)
        return weights if self.picked is None else weights[:, self.picked]

    def expand(self, rows: int) -> "Mixing":
        """The same mixing for inputs that hold each row several times in a row: windows folded in the batch."""
        if rows == self.rows:  # first, and without arithmetic: tracing knows that symbolic sizes are equal
            return self
        times, rest = (rows // self.rows, rows % self.rows) if self.rows else (0, rows)
        if rest or times == 0:
            raise ConfigError(
                f"an adapted layer got {rows} rows where the routing has {self.rows}: the layer's input must hold the "
                "rows of the batch, or a whole multiple of them. Exclude this layer with exclude_modules."
            )
        return Mixing(
            self.num_experts,
            None if self.weights is None else self.weights.repeat_interleave(times, 0),
            None if self.expert_ids is None else self.expert_ids.repeat_interleave(times, 0),
            None if self.group_sizes is None else tuple(size * times for size in self.group_sizes),
            None if self.row_counts is None else self.row_counts * times,
        )


class MixingScope:
    """Holds the mixing of the forward pass that runs now; one plain object per backbone, shared with its layers.

    Deliberately neither a module, a buffer, a global, a context variable nor a hook: it has no state outside ``bind``,
    so nothing is stale, copies share a scope of their own, and export and compile trace straight through it.
    """

    def __init__(self) -> None:
        self._mixing: Mixing | None = None

    @contextmanager
    def bind(self, mixing: Mixing) -> Iterator[None]:
        """Make ``mixing`` the current one inside a ``with`` block."""
        before, self._mixing = self._mixing, mixing
        try:
            yield
        finally:
            self._mixing = before

    def current(self) -> Mixing:
        """The mixing of the running forward pass.

        Raises:
            RuntimeError: outside ``bind``: a layer was called by itself, or a checkpointed block is recomputed outside
                it.
        """
        if self._mixing is None:
            raise RuntimeError(
                "an adapted layer ran outside the forward pass of its AdaptedBackbone, so it has no mixing weights. "
                "Call backbone(images, routing) instead of its inner network; for activation checkpointing give "
                "AdaptedBackbone(checkpoint_modules=[...]) instead of the network's own checkpointing."
            )
        return self._mixing
