"""What a model that is trained is for: a run's model by its folder, and predictions for images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mola_lightning.core import ConfigError, TaskRows
from mola_lightning.core.errors import one_of

if TYPE_CHECKING:
    from mola_lightning.training.module import MultiTaskModule

# By its name, though it lies above: a run is built from its config by Hydra, which only the command line knows. To
# build it without Hydra would take a second copy of Hydra's instantiate; a registered entry point would be the same
# name in another file, which installations older than it lack.
LOAD_RUN = "mola_lightning.cli.loading:load_run"


class Inference:
    """Mixed in before the LightningModule.

    Attributes:
        method: the method that :meth:`from_run` takes; any when None.
        normalizers: by what images of a task are normalised before the model sees them; :meth:`from_run` sets it.
    """

    method: str | None = None
    normalizers: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({})
    names: tuple[str, ...]

    @classmethod
    def from_run(cls, folder: Path | str, checkpoint: str = "best", overrides: Sequence[str] = ()) -> "MultiTaskModule":
        """The trained model of a run, in evaluation mode. The run's data are read again, for their tasks.

        Args:
            folder: the run folder that mola-train printed.
            checkpoint: ``best``, ``last`` or a file.
            overrides: of the run's own config, ``key=value``, such as where the data lie now.

        Raises:
            RunFolderError: when the folder holds no run, or the checkpoint is missing or damaged.
            ConfigError: for a run of another method than this class is.
        """
        loaded: Any = resolve_name(LOAD_RUN)(Path(folder), checkpoint, overrides)
        found = loaded.module.architecture.method
        if cls.method not in (None, found):
            raise ConfigError(
                f"{folder} is a run of {found}, and {cls.__name__} is {cls.method}; use MultiTaskModule.from_run, "
                "which takes any"
            )
        loaded.module.normalizers = loaded.data.normalizers()
        return loaded.module.eval()

    @torch.no_grad()
    def predict(self, images: Tensor, task: str) -> Tensor:
        """Predictions of one task.

        Args:
            images: (B, C, H, W). Of a model from :meth:`from_run` uint8, or floats in [0, 1]: it normalises them as its
                training did. Else as the data module gives them.
            task: its name.

        Returns:
            (B, outputs ...): of a classification logits.

        Raises:
            ConfigError: for an unknown task, or in training mode.
        """
        one_of("task", task, self.names)
        module: Any = self
        if module.training:
            raise ConfigError("the model is in training mode, where norms and dropout act on the batch; call .eval()")
        if task in self.normalizers:
            images = self.normalizers[task](images.cpu())
        images = images.to(module.device)
        every = torch.arange(len(images), device=images.device)
        rows = TaskRows({name: every if name == task else every[:0] for name in self.names}, len(images))
        return module(images, rows).predictions[task]
