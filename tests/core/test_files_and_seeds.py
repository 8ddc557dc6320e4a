"""Routings, seeds, files written whole, and the family of errors."""

from pathlib import Path

import pytest
import torch

from mola_lightning.core import ConfigError, DataError, MolaError, Routing, RunFolderError, seed_of
from mola_lightning.core.files import atomic_write


def test_routing() -> None:
    assert not Routing(mixing=torch.ones(2, 3)).hard
    assert Routing(expert_ids=torch.zeros(2, dtype=torch.long)).hard
    with pytest.raises(ConfigError, match="got neither"):
        Routing()


def test_seeds() -> None:
    seeds = [seed_of("order", seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("order", 1, 2) == seed_of("order", 1, 2)
    assert seed_of("order", 1, 2) != seed_of("order", 12)
    assert seed_of("a", "b") != seed_of("ab")
    assert seed_of(1) != seed_of("1")
    torch.Generator().manual_seed(max(seeds))


def test_seeds_do_not_depend_on_the_process() -> None:
    """A stored number: resuming a run on another machine, or in a later version, depends on it."""
    assert seed_of("order", 0, "x") == 7764098932448296477


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_write(path) as file:
        file.write("π\n")
        assert not path.exists()
    assert path.read_bytes() == "π\n".encode()
    with atomic_write(str(path), "wb") as file:
        file.write(b"\x00")
        assert path.read_bytes() == "π\n".encode()
    assert path.read_bytes() == b"\x00"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise KeyError("no matter what")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot write .*file/inside"), atomic_write(tmp_path / "file" / "inside"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match=r"cannot write .*folder"), atomic_write(tmp_path / "folder"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    """Run folders are shared."""
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.touch()
    with atomic_write(atomic):
        pass
    assert atomic.stat().st_mode == plain.stat().st_mode


def test_errors_are_of_one_family() -> None:
    for error, builtin in ((ConfigError, ValueError), (DataError, ValueError), (RunFolderError, OSError)):
        assert issubclass(error, MolaError)
        assert issubclass(error, builtin)
