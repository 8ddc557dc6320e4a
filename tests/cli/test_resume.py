"""What may be cleared for a run that begins anew, and what may not."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mola_lightning.cli.resume import starting_point
from mola_lightning.core import ConfigError, RunFolderError


def config(**changed: Any) -> Any:
    parts = {name: {} for name in ("architecture", "data", "trainer")}
    last = {"callbacks": {"last": {}}, "paths": {"run": "x"}}
    return OmegaConf.create({**parts, **last, "seed": 0, "resume": "auto", **changed})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that was killed before its first checkpoint, and a file of the user's."""
    OmegaConf.save(config(), tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "figures").mkdir()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("changed", [{}, {"resume": "never"}, {"resume": "never", "seed": 1}])
def test_an_unfinished_run_makes_way(folder: Path, changed: dict[str, Any]) -> None:
    assert starting_point(config(**changed), folder) is None
    assert content(folder) == ["notes.txt"]


def test_another_configuration_is_left_alone(folder: Path) -> None:
    before = content(folder)
    with pytest.raises(RunFolderError, match="an unfinished run of another configuration.*resume=never"):
        starting_point(config(seed=1), folder)
    assert content(folder) == before


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_a_finished_run_is_left_alone(folder: Path, mode: str) -> None:
    """Even where its checkpoints were deleted to save space."""
    (folder / "summary.json").write_text(json.dumps({"status": "done"}))
    before = content(folder)
    with pytest.raises(RunFolderError, match="Results are not overwritten"):
        starting_point(config(resume=mode), folder)
    assert content(folder) == before


@pytest.mark.parametrize("mode", ["auto", "never"])
@pytest.mark.parametrize("text", ["", "model: mine\ndata: {}\n", "- a\n"])
def test_files_of_others_are_left_alone(tmp_path: Path, mode: str, text: str) -> None:
    """With hydra.run.dir=. the folder is one that the user has: its checkpoints and figures are not ours."""
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "figures").mkdir()
    with pytest.raises(RunFolderError, match="is not of a run of mola_lightning"):
        starting_point(config(resume=mode), tmp_path)
    assert content(tmp_path) == ["checkpoints", "config.yaml", "figures"]


def test_modes(tmp_path: Path) -> None:
    assert starting_point(config(), tmp_path) is None
    with pytest.raises(RunFolderError, match="resume=must, but"):
        starting_point(config(resume="must"), tmp_path)
    with pytest.raises(ConfigError, match="resume must be one of"):
        starting_point(config(resume="yes"), tmp_path)
