"""What every test may rely on: one thread, fixed seeds, no network, a cache folder of its own."""

import gc
import importlib.util
import logging
import os
import pickle
import random
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

# Here already: a conftest further down may import who reads them before any hook is called.
os.environ.update(MPLBACKEND="Agg", WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1")
CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
LOCAL_NAMES = {"", "localhost", "ip6-localhost", "0.0.0.0", "::", "::1", socket.gethostname()}


def pytest_configure(config: pytest.Config) -> None:
    """Settings that must stand before test modules, and what they import, are loaded."""
    cache = config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="mola-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = cache.name
    torch.set_num_threads(1)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Imports leave no garbage to look for; and none may be of timm itself, which would bring wandb along."""
    if isinstance(collector, pytest.Session):
        gc.disable()
        import mola_lightning.core.lean_timm  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most long tests first, so that at the end no process waits for the other."""
    long = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -long[item.path])


def pytest_collection_finish() -> None:
    """Leave what was imported out of later looks for garbage: each would take a third of a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache folder of the session."""
    gc.unfreeze()  # or at the end of the process libraries complain of what was left
    config.stash[CACHE].cleanup()


TESTS = Path(__file__).parent


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """``load_script("image_files")``: a script of tests/data, which writes small files in true formats."""
    return lambda name: _module(TESTS / f"data/{name}.py")


@pytest.fixture(scope="session")
def killing() -> ModuleType:
    """Runs that can be killed, and the comparison of run folders."""
    return _module(TESTS / "resume/killing.py")


def _as_rank(rank: int, port: int, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only  # not before pytest_configure

    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rank_zero_only.rank = rank  # as Lightning sets it on import
    run(rank, *arguments)


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., None]:
    """``two_processes(run, *arguments)``: ``run(rank, *arguments)`` on both; an exception of one is raised here."""

    def start(run: Callable[..., None], *arguments: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.start_processes(_as_rank, (port, run, arguments), nprocs=2, start_method="fork")

    return start


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - code under test may draw from the global generator
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _fixed_logging() -> Iterator[None]:
    """A command under test sets up logging for the process: put it back, or later tests see messages on stderr."""
    root, names = logging.getLogger(), ("mola_lightning", "lightning.pytorch", "py.warnings")
    handlers, level = list(root.handlers), root.level
    others = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    yield
    root.handlers[:], root.level = handlers, level
    for name, (before, kept) in others.items():
        logging.getLogger(name).setLevel(before)
        logging.getLogger(name).handlers[:] = kept
    logging.captureWarnings(False)


@pytest.fixture(autouse=True, scope="session")
def _fast_composition() -> Iterator[None]:
    """Tests compose hundreds of configs. Each time Hydra would read and parse every file anew, and make, for each of
    them, a map that only files with an interpolation in their defaults look into: two thirds of its time. OmegaConf
    would parse each interpolation anew.
    """
    import omegaconf._utils
    import omegaconf.base
    from hydra._internal import defaults_list
    from hydra._internal.config_repository import ConfigRepository

    read, make_map, kept = ConfigRepository.load_config, defaults_list._create_interpolation_map, dict[Any, bytes]()

    trees = cache(omegaconf.base.parse)

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        places = tuple((source.scheme(), source.provider, source.path) for source in self.get_sources())
        if any(scheme == "file" for scheme, _, _ in places):  # a user's own folder, whose files may change
            return read(self, config_path)
        if (config_path, places) not in kept:
            kept[config_path, places] = pickle.dumps(read(self, config_path))
        return pickle.loads(kept[config_path, places])  # composing changes what it is given

    def map_if_needed(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        needed = any(default.is_interpolation() for default in defaults if not default.is_self())
        return make_map(overrides, defaults, self_added) if needed else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        patch.setattr(defaults_list, "_create_interpolation_map", map_if_needed)
        for user in (omegaconf.base, omegaconf._utils):
            patch.setattr(user, "parse", trees)
        yield


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name is None or (isinstance(name, str) and (name in LOCAL_NAMES or name.startswith("127.")))


def _guarded(call: Callable[..., Any], host_of: Callable[..., object]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        host = host_of(*args, **kwargs)
        if not _is_local(host):
            pytest.fail(f"tests may not use the network, but this one reached for {host!r}; give it a local file")
        return call(*args, **kwargs)

    return guarded


def _address(sock: socket.socket, address: Any) -> object:
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Fail a test that looks up or connects to another machine; loopback stays open for process groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _guarded(socket.socket.connect, _address))
        patch.setattr(socket.socket, "connect_ex", _guarded(socket.socket.connect_ex, _address))
        patch.setattr(socket, "getaddrinfo", _guarded(socket.getaddrinfo, lambda host, *_, **__: host))
        yield
