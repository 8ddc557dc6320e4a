"""Ways to run the same training faster, off by default."""

import lightning.pytorch as pl
from lightning.pytorch import Callback

from mola_lightning.core import ConfigError
from mola_lightning.training.fast import compile_networks, lay_out_channels_last
from mola_lightning.training.module import MultiTaskModule


class FastNetwork(Callback):
    """Compile the networks, or lay their convolutions out for a GPU. Both change results by rounding only.

    Args:
        compile: compile backbone and router before the first step (minutes once, for large networks).
        channels_last: lay convolutions out with channels last; for CUDA devices.

    Raises:
        ConfigError: for ``channels_last`` on another device, or a scheme that cannot be compiled.
    """

    def __init__(self, compile: bool = False, channels_last: bool = False) -> None:
        self.compile, self.channels_last = compile, channels_last

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before training, once the device is known."""
        if stage != "fit":
            return
        assert isinstance(pl_module, MultiTaskModule)
        device = trainer.strategy.root_device.type
        if self.channels_last and device != "cuda":
            # torch 2.15 writes beyond its memory in the backward pass of some convolutions with it on the CPU
            raise ConfigError(
                f"channels_last=true is for CUDA devices, and this run is on {device}; leave it false, or choose "
                "trainer=gpu"
            )
        if self.channels_last:
            lay_out_channels_last(pl_module)
        if self.compile:
            compile_networks(pl_module)
