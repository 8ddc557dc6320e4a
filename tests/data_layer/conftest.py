from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mola_lightning.data import Digits, MultiTaskDataModule

SMALL = {"mnist": 40, "optdigits": 60, "printed": 30, "photo": 50}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the domains of SMALL in it."""
    root = tmp_path_factory.mktemp("cache")
    Digits(num_train=SMALL, root=root).prepare()
    return root


@pytest.fixture
def digits(cache: Path) -> Digits:
    return Digits(num_train=SMALL, root=cache)


@pytest.fixture
def data(digits: Digits) -> MultiTaskDataModule:
    return MultiTaskDataModule(digits, batch_size=16, seed=3)


@pytest.fixture(scope="session")
def image_files(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """The script that writes image files of every kind, and broken ones."""
    return load_script("image_files")
