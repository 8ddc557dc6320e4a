"""Composed configs without the command line, on a small data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture
def compose_config(tmp_path: Path) -> Callable[..., Any]:
    """``compose_config("adapter=full", ..., name="train")``: a config as a run would see it."""

    def composed(*overrides: str, name: str = "train") -> Any:
        GlobalHydra.instance().clear()
        # Of a run, Hydra itself says where the folder lies; here there is none.
        folder = [f"paths.run={tmp_path / 'run'}"] if name == "train" else []
        with initialize_config_module("mola_lightning.conf", version_base="1.3"):
            return compose(name, [*overrides, *folder])

    return composed
