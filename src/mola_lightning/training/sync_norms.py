"""Batch norms that see the rows of all processes (``trainer.sync_batchnorm=true``)."""

from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mola_lightning.core import ConfigError


class SyncNorms(TorchSyncBatchNorm):
    """Lightning's plugin, right for timm's norms too, which hold their activation: torch's conversion drops it.

    Such a norm waits in each step for all processes, so it cannot be in a part that rests on a process which lacks a
    task.
    """

    def __init__(self) -> None:
        self._originals: dict[str, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the norms of a LightningModule in place.

        Raises:
            ConfigError: when a scheme does not run every row through every norm.
        """
        architecture, trainer = getattr(model, "architecture", None), getattr(model, "_trainer", None)
        regime = getattr(getattr(trainer, "datamodule", None), "regime", None)
        if architecture is not None and not architecture.runs_whole(regime):
            raise ConfigError(
                f"trainer.sync_batchnorm=true needs a scheme that runs every row through every norm (hps, mola), and "
                f"in {architecture.method} a task's own part rests where a process lacks the task: it would wait for "
                "ever. Leave it false, or take a backbone without batch norms (backbone=convnext_atto)."
            )
        self._originals = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the original norms back, with the parameters and statistics of now."""
        for path, original in self._originals.items():
            parent, _, leaf = path.rpartition(".")
            current = model.get_submodule(path)
            for name, parameter in current.named_parameters(recurse=False):
                setattr(original, name, parameter)
            for name, buffer in current.named_buffers(recurse=False):
                setattr(original, name, buffer)
            original.train(current.training)
            setattr(model.get_submodule(parent), leaf, original)
        self._originals = {}
        return model
