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
        image_shape: (C, H, W) of the images that the model was trained on; :meth:`from_run` sets it.
    """

    method: str | None = None
    normalizers: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({})
    image_shape: tuple[int, int, int] | None = None
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
        loaded.module.normalizers, loaded.module.image_shape = loaded.data.normalizers(), loaded.data.image_shape
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
            ConfigError: for an unknown task, in training mode, or for images of another type, shape or range.
        """
        one_of("task", task, self.names)
        module: Any = self
        if module.training:
            raise ConfigError("the model is in training mode, where norms and dropout act on the batch; call .eval()")
        self._check_images(images, task)
        if task in self.normalizers:
            images = self.normalizers[task](images.cpu())
        images = images.to(module.device)
        every = torch.arange(len(images), device=images.device)
        rows = TaskRows({name: every if name == task else every[:0] for name in self.names}, len(images))
        return module(images, rows).predictions[task]

    def _check_images(self, images: Tensor, task: str) -> None:
        """Raise :class:`ConfigError` for what :meth:`predict` would answer with nonsense."""
        shape = ("C", "H", "W") if self.image_shape is None else self.image_shape
        wanted = f"images must be a tensor (B, {', '.join(map(str, shape))})"
        if not isinstance(images, Tensor):
            raise ConfigError(f"{wanted}, got {type(images).__name__}; torch.from_numpy makes one of an array")
        if images.ndim != 4 or (self.image_shape is not None and tuple(images.shape[1:]) != tuple(self.image_shape)):
            raise ConfigError(f"{wanted}, got {tuple(images.shape)}; bring images to the size of the training")
        if task in self.normalizers and images.is_floating_point() and images.numel():
            least, most = (float(value) for value in images.aminmax())
            if least < 0 or most > 1:
                raise ConfigError(f"images must be floats in [0, 1], or uint8; found {least:g} to {most:g}")
