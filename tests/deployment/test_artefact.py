"""An exported folder is whole or says what is wrong with it."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.deployment import Deployable, export, load, read_artefact
from mola_lightning.deployment.deployable import need
from mola_lightning.deployment.load import load_file

Make = Callable[..., Deployable]


@pytest.fixture(params=["torch", "safetensors"])
def folder(request: pytest.FixtureRequest, deployable: Make, tmp_path: Path) -> Path:
    export(deployable("hps"), tmp_path, request.param)
    return tmp_path


def file_of(folder: Path) -> Path:
    return folder / json.loads((folder / "manifest.json").read_text())["tasks"]["a"]["file"]


def test_an_altered_file(folder: Path) -> None:
    path = file_of(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=f"{path.name} was changed since it was exported"):
        load(folder, "a")


def test_a_truncated_file(folder: Path) -> None:
    path = file_of(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFolderError, match=f"{path.name} has .* bytes and manifest.json says"):
        load(folder, "b")
    with pytest.raises(RunFolderError, match="damaged"):  # whoever asks for no checksums hears it too
        load_file(folder, json.loads((folder / "manifest.json").read_text()), "a")


def test_a_missing_file(folder: Path) -> None:
    file_of(folder).unlink()
    with pytest.raises(RunFolderError, match="is missing, though manifest.json lists it"):
        read_artefact(folder)


def test_files_of_two_exports(folder: Path, deployable: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    export(deployable("hps", seed=1), other, json.loads((folder / "manifest.json").read_text())["format"])
    file_of(folder).write_bytes(file_of(other).read_bytes())
    with pytest.raises(RunFolderError, match="manifest.json"):
        load(folder, "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"manifest_version": 99, "files": {}}', "is of version 99"),
        ('{"manifest_version": 1, "files": {"../x": {"bytes": 1, "sha256": ""}}}', "files outside of the folder"),
        ('{"manifest_version": 1, "files": {"..": {"bytes": 1, "sha256": ""}}}', "files outside of the folder"),
        ('{"manifest_version": 1, "files": {}, "tasks": {}}', "is damaged.*format"),
        ('{"manifest_version": 1, "files": {}, "format": "torch"}', "is damaged.*tasks"),
        (
            '{"manifest_version": 1, "files": {}, "format": "torch", "tasks": {"a": {"file": "../a.pt"}}}',
            "the file of task 'a' is not among its files",
        ),
    ],
)
def test_a_damaged_manifest(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunFolderError, match=message):
        read_artefact(tmp_path)


def test_an_export_that_did_not_end_is_none(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match=r"no artefact, or one whose export did not end"):
        load(folder, "a")


def test_files_of_somebody_else_stay(deployable: Make, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds README.md and no export; choose another folder with output="):
        export(deployable("mola_grad"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("format", ["torch", "adapters", "model"])
def test_files_that_answer_otherwise_do_not_stay(format: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_grad")
    next(model.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(ConfigError, match="answers otherwise than the model"):
        export(model, tmp_path / "out", format)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("format", ["torch", "adapters"])
def test_tasks_one_after_the_other(format: str, deployable: Make, tmp_path: Path) -> None:
    """Other tasks of the same model stay; of anything else nothing stays."""
    model = deployable("mola_grad")
    export(model, tmp_path, format, task="b")
    second = export(model, tmp_path, format, task="a")
    assert (second.kept, second.removed) == (("b",), ())
    found = read_artefact(tmp_path)
    assert list(found["tasks"]) == ["a", "b"]
    assert set(found["files"]) == {path.name for path in tmp_path.iterdir()} - {"manifest.json"}
    assert all(task in (tmp_path / "README.md").read_text() for task in ("| a |", "| b |"))
    gone = found["tasks"]["b"]["file"]
    (tmp_path / "mine.txt").touch()
    with torch.no_grad():
        model.module.heads["a"].bias += 1
    third = export(model, tmp_path, format, task="a")
    assert (third.kept, third.removed) == ((), (gone,))
    assert {path.name for path in tmp_path.iterdir()} == {*third.manifest["files"], "manifest.json", "mine.txt"}
    if format == "torch":
        assert export(model, tmp_path, "safetensors", task="b").removed == ("a.pt",)


class Bomb:
    """What a malicious file would hold."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_code_in_a_file_is_not_run(deployable: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = export(deployable("hps"), tmp_path, "torch").manifest
    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        write({"state_dict": Bomb(), "model": "resnet18"}, tmp_path / "a.pt")
        with pytest.raises(RunFolderError, match="cannot read"):
            load_file(tmp_path, manifest, "a")
    assert not (tmp_path / "exploded").exists()


def test_a_description_that_reads_other_files_is_refused(deployable: Make, tmp_path: Path) -> None:
    manifest = export(deployable("hps"), tmp_path, "torch").manifest
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    for change in ({"kwargs": {**saved["kwargs"], "checkpoint_path": "x"}}, {"model": "local-dir:somewhere"}):
        torch.save({**saved, **change}, tmp_path / "a.pt")
        with pytest.raises(ConfigError, match="a description of a backbone has"):
            load_file(tmp_path, manifest, "a")


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"needs the package no_such_thing.*mola-lightning\[export\]"):
        need("no_such_thing.part", "format=onnx")
