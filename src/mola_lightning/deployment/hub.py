"""Models on the Hugging Face Hub, through its own mixin. Needs the extra ``export``."""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from mola_lightning.deployment.artefact import README
from mola_lightning.deployment.deployable import Deployable, need
from mola_lightning.deployment.model_folder import load_model, save_model

hub = need("huggingface_hub", "mola_lightning.deployment.hub")


class HubModel(nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[name-defined]
    """A trained model with ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    Loading reads weights as safetensors and runs no code of a downloaded folder. It builds the parts that the
    description names: method, router and adapters from a fixed list, and as the backbone any network of the installed
    timm, with any plain values as arguments but those that read files or download.

    Args:
        deployable: the model.
    """

    # Set, so that the mixin does not make one of the constructor's arguments: save_model writes the description.
    _hub_mixin_config: ClassVar[dict[str, Any]] = {}

    def __init__(self, deployable: Deployable) -> None:
        super().__init__()
        self.deployable = deployable
        self.model = deployable.module

    def forward(self, images: Tensor, task: str) -> Tensor:
        """As :meth:`predict`."""
        return self.predict(images, task)

    def predict(self, images: Tensor, task: str) -> Tensor:
        """Outputs (B, ...) of a task for images (B, C, H, W), uint8 or floats in [0, 1]."""
        return self.model.predict(images, task)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self.deployable, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubModel":
        if Path(model_id).is_dir():
            return cls(load_model(model_id))
        wanted = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        patterns = ["*.json", "*.safetensors", README]
        chosen = {name: options[name] for name in wanted if name in options}
        return cls(load_model(hub.snapshot_download(model_id, allow_patterns=patterns, **chosen)))
