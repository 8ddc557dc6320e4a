"""A task's network as plain timm and torch load it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.architectures import HPS
from mola_lightning.core import ConfigError
from mola_lightning.data import make_task
from mola_lightning.deployment import Deployable, Preprocessing, export, load, read_artefact
from mola_lightning.heads import LightDecoder
from mola_lightning.training import MultiTaskModule

Make = Callable[..., Deployable]
SHAPE = (3, 16, 16)
PLAIN = ["mola_grad", "mola_uniform", "hps", "single_task"]


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def as_a_user_does(folder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the lines that the README of an artefact shows, in its folder."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    code = "\n".join(lines)
    assert "mola_lightning" not in code
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("method", PLAIN)
@pytest.mark.parametrize("format", ["torch", "safetensors"])
def test_every_task_answers_as_in_the_model(method: str, format: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable(method)
    manifest = export(model, tmp_path, format).manifest
    images = torch.rand(5, *SHAPE)
    for name, expert in (("a", 0), ("b", 1)):
        assert_close(load(tmp_path, name)(images), model.module.predict(images, name))
        assert manifest["tasks"][name]["expert"] == (expert if method == "mola_grad" else None)


@pytest.mark.parametrize("format", ["torch", "safetensors"])
def test_the_lines_of_the_readme(
    format: str, deployable: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deployable("mola_grad")
    entry = export(model, tmp_path, format, task="b").manifest["tasks"]["b"]
    assert "\n".join(entry["load"]) in (tmp_path / "README.md").read_text(encoding="utf-8")
    names = as_a_user_does(tmp_path, entry["load"], monkeypatch)
    images = torch.rand(3, *SHAPE)
    mean, std = (torch.tensor(entry["preprocessing"][key])[:, None, None] for key in ("mean", "std"))
    assert type(names["net"]).__module__.startswith("timm.")
    assert_close(names["net"]((images - mean) / std), model.module.predict(images, "b"))
    assert names["saved"]["task"] == "b"


def test_four_lines_suffice(deployable: Make, tmp_path: Path) -> None:
    """For a backbone that timm knows by its name; those of this package's own change a layer or two more."""
    model = deployable("hps", backbone="test_resnet")
    entry = export(model, tmp_path, "torch").manifest["tasks"]["a"]
    assert [line for line in entry["load"] if line] == [
        "import timm, torch",
        'saved = torch.load("a.pt", weights_only=True)',
        'net = timm.create_model(saved["model"], **saved["kwargs"]).eval()',
        'net.load_state_dict(saved["state_dict"])',
    ]


def test_what_a_manifest_says(deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_grad")
    model.facts |= {"license": "apache-2.0", "git": {"commit": "c0ffee"}, "metrics": {"a": {"accuracy": 0.5}}}
    export(model, tmp_path, "torch")
    found = read_artefact(tmp_path)
    assert (found["format"], found["method"], found["license"]) == ("torch", "mola_grad", "apache-2.0")
    assert found["git"] == {"commit": "c0ffee"}
    assert found["input"]["shape"] == ["batch", *SHAPE]
    a, b = found["tasks"]["a"], found["tasks"]["b"]
    assert (a["classes"], a["num_outputs"], a["metrics"]) == (["x", "y", "z"], 3, {"accuracy": 0.5})
    assert a["outputs"].startswith("logits, one a class")
    assert (a["preprocessing"]["std"], a["preprocessing"]["steps"]) == ([0.25], ["Resize"])
    assert len(b["preprocessing"]["mean"]) == 3
    assert a["max_difference"] <= 1e-5
    assert set(found["files"]) == {"a.pt", "b.pt", "README.md"}
    assert "torch" in found["versions"]


def test_one_task_alone(deployable: Make, tmp_path: Path) -> None:
    export(deployable("hps"), tmp_path, "torch", task="b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "b.pt", "manifest.json"]
    with pytest.raises(ConfigError, match="task must be one of 'b', got 'a'"):
        load(tmp_path, "a")
    with pytest.raises(ConfigError, match="task must be one of 'a', 'b', got 'c'"):
        export(deployable("hps"), tmp_path, "torch", task="c")


class Pooled(nn.Module):
    """A backbone of the user's own."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_what_has_no_plain_form_is_refused_by_name(deployable: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mola_router has no plain network for task 'a'.*torch_export"):
        export(deployable("mola_router"), tmp_path, "torch")
    with pytest.raises(ConfigError, match="mmoe has no plain network"):
        export(deployable("mmoe"), tmp_path, "safetensors")
    with pytest.raises(ConfigError, match="a Pooled, was not made by create_backbone"):
        export(deployable("hps", backbone=Pooled()), tmp_path, "torch")
    task = make_task("depth", "regression")
    dense = MultiTaskModule([task], HPS([task], Pooled()), head=LightDecoder)
    with pytest.raises(ConfigError, match="the head of task 'depth' is a LightDecoder"):
        export(Deployable(dense, SHAPE, {"depth": Preprocessing()}), tmp_path, "torch")
    with pytest.raises(ConfigError, match="format must be one of 'torch', 'safetensors'"):
        export(deployable("hps"), tmp_path, "onxx")
    assert not list(tmp_path.iterdir())


def test_a_backbone_that_was_changed_is_refused(deployable: Make, tmp_path: Path) -> None:
    model = deployable("hps")
    model.module.architecture.backbone.conv1 = nn.Conv2d(3, 4, 5, padding=2)
    with pytest.raises(ConfigError, match="not the resnet18 that timm makes"):
        export(model, tmp_path, "torch")


@pytest.mark.parametrize("format", ["torch", "adapters", "model"])
def test_a_file_that_answers_otherwise_is_no_artefact(
    format: str, deployable: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deployable("mola_grad")
    manifest = export(model, tmp_path, format).manifest
    assert all(entry["max_difference"] <= 1e-5 for entry in manifest["tasks"].values())
    predict = model.module.predict
    monkeypatch.setattr(model.module, "predict", lambda images, task: predict(images, task) + 1e-3)
    with pytest.raises(ConfigError, match="answers otherwise than the model: by"):
        export(model, tmp_path, format)
    assert not (tmp_path / "manifest.json").exists()


def test_a_file_is_no_program(deployable: Make, tmp_path: Path) -> None:
    """Only tensors and plain values: nothing is run that a file brings."""
    export(deployable("hps"), tmp_path, "torch")
    saved = torch.load(io.BytesIO((tmp_path / "a.pt").read_bytes()), weights_only=True)
    assert all(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in saved["state_dict"].values())
