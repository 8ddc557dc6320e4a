"""Composed configs without the command line, on a small data set."""

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra


@cache
def _composed(name: str, *overrides: str) -> bytes:
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        return pickle.dumps(compose(name, list(overrides)))


@pytest.fixture
def compose_config(tmp_path: Path) -> Callable[..., Any]:
    """``compose_config("adapter=full", ..., name="train")``: a config as a run would see it, composed once."""

    def composed(*overrides: str, name: str = "train") -> Any:
        # Of a run, Hydra itself says where the folder lies; here there is none.
        if name != "train":
            return pickle.loads(_composed(name, *overrides))
        config = pickle.loads(_composed(name, *overrides, "paths.run=unset"))
        config.paths.run = str(tmp_path / "run")
        return config

    return composed
