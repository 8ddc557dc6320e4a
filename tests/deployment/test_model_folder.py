"""Whole models in folders, and on the Hub by way of one."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mola_lightning.architectures import MoLA
from mola_lightning.core import ConfigError, RunFolderError, Task
from mola_lightning.data import make_task
from mola_lightning.data.kinds import kind_of
from mola_lightning.deployment import Deployable, Preprocessing, export, load_model, save_model
from mola_lightning.deployment.hub import HubModel
from mola_lightning.deployment.model_folder import load_weights, weights_of
from mola_lightning.deployment.specification import build, specify
from mola_lightning.routers import HardRouter, TopKRouter
from mola_lightning.training import MultiTaskModule

Make = Callable[..., Deployable]
SHAPE = (3, 16, 16)


def assert_same(one: Any, other: Any) -> None:
    images = torch.rand(4, *SHAPE)
    for name in ("a", "b"):
        torch.testing.assert_close(one.predict(images, name), other.predict(images, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["mola_grad", "mola_router", "mola_uniform", "hps"])
def test_a_model_comes_back(method: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable(method)
    model.facts |= {"license": "mit", "metrics": {"a": {"accuracy": 0.25}}}
    export(model, tmp_path, "model")
    found = load_model(tmp_path)
    assert_same(found.module, model.module)
    assert found.module.architecture.method == method
    assert (found.image_shape, found.preprocessing) == (SHAPE, model.preprocessing)
    assert (found.facts["license"], found.facts["metrics"]["a"]) == ("mit", {"accuracy": 0.25})
    assert [task.class_names for task in found.module.tasks] == [("x", "y", "z"), ()]


@pytest.mark.parametrize("router", [partial(HardRouter, input_size=8), partial(TopKRouter, k=1, temperature=0.5)])
def test_routers_come_back(router: Any, deployable: Make, tmp_path: Path) -> None:
    tasks, backbone = deployable("hps").module.tasks, partial(deployable, "hps")().module.architecture.backbone
    architecture = MoLA(tasks, backbone, partial(router, widths=(4, 8), blocks=2), image_shape=SHAPE)
    model = Deployable(MultiTaskModule(tasks, architecture), SHAPE, {"a": Preprocessing(), "b": Preprocessing()})
    save_model(model, tmp_path)
    found: Any = load_model(tmp_path).module.architecture.router
    given: Any = architecture.router
    assert type(found) is type(given)
    assert (found.input_size, found.temperature) == (given.input_size, given.temperature)
    assert_same(load_model(tmp_path).module, model.module)


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_kinds_of_tasks_come_back(kind: str, deployable: Make, tmp_path: Path) -> None:
    save_model(deployable("hps", tasks=[make_task("a", kind, 2)]), tmp_path)
    (task,) = load_model(tmp_path).module.tasks
    assert (task.discrete, kind_of(task)) == (kind == "single_label", kind)


def test_what_values_cannot_say_is_refused(deployable: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format=model knows MoLA and hard parameter sharing, and this is mmoe"):
        export(deployable("mmoe"), tmp_path, "model")
    with pytest.raises(ConfigError, match="leave task out"):
        export(deployable("hps"), tmp_path, "model", task="a")
    squashed = deployable("mola_grad", tasks=[Task("a", 3, activation=torch.tanh)])
    for format in ("model", "adapters"):
        with pytest.raises(ConfigError, match="the head of task 'a' is a LinearHead with an activation after it"):
            export(squashed, tmp_path, format)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit(deployable: Make, tmp_path: Path) -> None:
    model = deployable("hps").module
    state = weights_of(model)
    with pytest.raises(RunFolderError, match=r"heads.a.bias"):
        load_weights(model, {name: t for name, t in state.items() if name != "heads.a.bias"}, "x")
    with pytest.raises(RunFolderError, match=r"heads.a.weight"):
        load_weights(model, {**state, "heads.a.weight": torch.zeros(1, 1)}, "x")


def test_damaged_folders(deployable: Make, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no model"):
        load_model(tmp_path)
    save_model(deployable("hps"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["spec"]["router"] = {"label": "os.system", "arguments": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunFolderError, match=r"config.json has .* bytes"):
        load_model(tmp_path)


def test_a_model_is_what_the_manifest_lists(deployable: Make, tmp_path: Path) -> None:
    """Files that lie beside what another export wrote are none of its."""
    save_model(deployable("hps"), tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in ("config.json", "model.safetensors")}
    export(deployable("hps"), tmp_path, "torch")
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "b.pt", "README.md", "manifest.json"}
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunFolderError, match="holds no model: its manifest.json is of format=torch"):
        load_model(tmp_path)
    save_model(deployable("hps"), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["files"]["config.json"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match=r"lists model.safetensors, README.md; give"):
        load_model(tmp_path)


def test_a_description_names_known_parts_only(deployable: Make) -> None:
    spec = specify(deployable("mola_router"))
    for change in ({"router": {"label": "os.system", "arguments": {}}}, {"tasks": []}, {"image_shape": 3}):
        with pytest.raises(RunFolderError, match="the description of the model is damaged"):
            build({**spec, **change})


def test_a_folder_of_the_hub(deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_grad")
    model.facts["license"] = "apache-2.0"
    HubModel(model).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "README.md", "manifest.json",
    }  # fmt: skip
    found = HubModel.from_pretrained(tmp_path)
    assert_same(found, model.module)
    assert_same(HubModel.from_pretrained(str(tmp_path)), model.module)


def test_the_model_card(deployable: Make, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    model = deployable("mola_router")
    model.facts |= {"license": "apache-2.0", "metrics": {"b": {"accuracy": 0.75}}}
    HubModel(model).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "mola-lightning")
    assert "accuracy 0.7500" in card.text
    assert "x, y, z" in card.text


def test_pushing(deployable: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be sent is what can be loaded; a folder stands for the Hub."""
    from huggingface_hub import hub_mixin

    class Repository:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Created", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return "sent"

    monkeypatch.setattr(hub_mixin, "HfApi", Repository)
    model = deployable("hps")
    assert HubModel(model).push_to_hub("somebody/hps") == "sent"
    assert_same(HubModel.from_pretrained(tmp_path / "somebody/hps"), model.module)
