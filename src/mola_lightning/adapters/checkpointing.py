"""Activation checkpointing that knows of mixing weights.

Checkpointed blocks are recomputed during the backward pass, outside the forward that bound the mixing: a layer that
read it from anywhere but an explicit argument would find nothing, or the weights of another batch and silently wrong
gradients. (It stands among the adapters, not the backbones, since it needs the scope and layers of one level do not
import each other.)
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from mola_lightning.adapters.scope import Mixing, MixingScope
from mola_lightning.core import ConfigError


class CheckpointBoundary(nn.Module):
    """Runs a block under activation checkpointing, handing it its mixing explicitly.

    State-dict keys are those of the block: wrapping changes no checkpoint file.

    Args:
        inner: the block.
        scope: the scope of the backbone that the block belongs to.
    """

    def __init__(self, inner: nn.Module, scope: MixingScope) -> None:
        super().__init__()
        self.inner, self.scope = inner, scope
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def forward(self, *args: Tensor) -> Tensor:
        """The block's output."""
        if not torch.is_grad_enabled():
            return self.inner(*args)
        if torch.compiler.is_compiling():  # the compiler lifts the bound tensors into the region by itself
            return checkpoint(self.inner, *args, use_reentrant=False)
        mixing = self.scope.current()
        # the tensors are arguments of the region, so that it keeps them alive and differentiates through them
        return checkpoint(
            self._rebind,
            mixing,
            mixing.weights,
            mixing.expert_ids,
            *args,
            use_reentrant=False,
            context_fn=self._contexts,
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _StatisticsStand(self.inner)

    def _rebind(self, mixing: Mixing, weights: Tensor | None, expert_ids: Tensor | None, *args: Tensor) -> Tensor:
        with self.scope.bind(Mixing(mixing.num_experts, weights, expert_ids, mixing.group_sizes, mixing.row_counts)):
            return self.inner(*args)


class _StatisticsStand(AbstractContextManager[None]):
    """Running statistics are updated in copies, which are then dropped: recomputing a batch is not another batch.

    It can be entered again: with several backward passes through one graph, a block is recomputed in each.
    """

    def __init__(self, net: nn.Module) -> None:
        self.norms = [module for module in net.modules() if isinstance(module, _NormBase)]
        self.kept: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self.kept = [(norm, name, buffer) for norm in self.norms for name, buffer in norm.named_buffers(recurse=False)]
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer.clone())

    def __exit__(self, *error: object) -> None:
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer)
        self.kept = []


def _drop_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, object]) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}inner.")]:
        state[prefix + key[len(prefix) + len("inner.") :]] = state.pop(key)


def _add_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}inner.{key[len(prefix) :]}"] = state.pop(key)


def wrap_checkpoints(net: nn.Module, patterns: Sequence[str], scope: MixingScope) -> list[str]:
    """Wrap in place every module of ``net`` whose dotted path matches; nested matches are wrapped at the outermost
    only.

    Returns:
        The paths that were wrapped.

    Raises:
        ConfigError: for a pattern that matches no module.
    """
    paths = [path for path, _ in net.named_modules() if path]
    wrapped: list[str] = []
    for pattern in patterns:
        try:
            found = [path for path in paths if re.search(pattern, path)]
        except re.error as error:
            raise ConfigError(f"checkpoint_modules pattern {pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise ConfigError(
                f"checkpoint_modules pattern {pattern!r} matches no module; there are {', '.join(paths[:12])} ..."
            )
        wrapped += found
    outermost = [path for path in paths if path in wrapped and not any(path.startswith(f"{w}.") for w in wrapped)]
    for path in outermost:
        parent, _, leaf = path.rpartition(".")
        setattr(net.get_submodule(parent), leaf, CheckpointBoundary(net.get_submodule(path), scope))
    return outermost
