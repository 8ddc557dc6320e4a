"""The library of balancing methods, made on demand: with its optional solvers its import takes a second."""

from importlib import import_module
from typing import Any

from torch import nn

from mola_lightning.core import ConfigError


def make(path: str, *args: Any, needs: tuple[str, ...] = (), **settings: Any) -> nn.Module:
    """An object of TorchJD (Quinton & Rey, arXiv 2406.16232).

    Args:
        path: module and name inside TorchJD, for example ``aggregation.PCGradWeighting``.
        *args: of its constructor.
        needs: names of the packages that it solves its problem with.
        **settings: of its constructor.

    Raises:
        ConfigError: for a missing solver, or a setting that the constructor refuses.
    """
    name = path.rpartition(".")[2].removesuffix("Weighting")
    missing = [package for package in needs if not _importable(package)]
    if missing:
        raise ConfigError(
            f"{name} solves its problem with {', '.join(needs)}; not installed, or broken: {', '.join(missing)}. "
            'Install them: pip install "mola-lightning[solvers]"'
        )
    module = import_module(f"torchjd.{path.rpartition('.')[0]}")
    try:
        return getattr(module, path.rpartition(".")[2])(*args, **settings)
    except ValueError as error:
        raise ConfigError(f"balancer {name}: {error}") from error


def _importable(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True
