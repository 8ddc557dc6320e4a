import importlib.util
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
def image_files() -> ModuleType:
    """The script that writes small image files."""
    spec = importlib.util.spec_from_file_location("image_files", Path(__file__).parents[1] / "data" / "image_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
