"""Tells architectures how far the training is."""

from lightning.pytorch import Callback, LightningModule, Trainer

from mola_lightning.core import ConfigError


class Schedule(Callback):
    """Calls ``architecture.set_progress(epoch, epochs)`` at the start of each epoch, where the architecture has it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell it.

        Raises:
            ConfigError: when the training has no number of epochs.
        """
        set_progress = getattr(pl_module.architecture, "set_progress", None)
        if set_progress is None:
            return
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise ConfigError(
                f"{type(pl_module.architecture).__name__} follows the progress of the training and needs a number of "
                f"epochs, got trainer.max_epochs={trainer.max_epochs}; set it"
            )
        set_progress(trainer.current_epoch, trainer.max_epochs)
