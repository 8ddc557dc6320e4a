"""Train one model on heterogeneous data with a Mixture of Low-rank Adapters (MoLA, Zhou et al., ICML 2024)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mola_lightning.data import MultiTaskDataModule
    from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

__version__ = "0.1.0"
__all__ = ["MoLAGrad", "MoLARouter", "MultiTaskDataModule", "MultiTaskModule"]


def __getattr__(name: str) -> Any:
    """Import the public names when first asked for: Lightning takes seconds to import, and reports do not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "mola_lightning.data" if name == "MultiTaskDataModule" else "mola_lightning.training"
    return getattr(import_module(home), name)
