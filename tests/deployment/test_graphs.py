"""Graphs that answer as the model does, for any number of images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mola_lightning.architectures import HPS
from mola_lightning.core import ConfigError, RunFolderError, Task
from mola_lightning.data import make_task
from mola_lightning.deployment import Deployable, Preprocessing, export, load
from mola_lightning.deployment.graphs import graphs_of, trace
from mola_lightning.deployment.load import load_file
from mola_lightning.heads import LightDecoder
from mola_lightning.training import MultiTaskModule

Make = Callable[..., Deployable]
SHAPE, LARGE = (3, 16, 16), (3, 32, 32)
ALIKE = {"b": Preprocessing((0.5,), (0.25,))}


def assert_answers(folder: Path, model: Deployable, tolerance: float = 1e-5) -> None:
    for task in model.module.tasks:
        answer = load(folder, task.name)
        for rows in (1, 2, 5):
            images = torch.rand(rows, *model.image_shape)
            wanted = model.module.predict(images, task.name)
            torch.testing.assert_close(answer(images), wanted, rtol=tolerance, atol=tolerance)


def test_a_router_and_all_heads_are_one_graph(deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_router", prepared=ALIKE, adapter={"target_modules": ["^layer2"]})
    manifest = export(model, tmp_path, "torch_export").manifest
    assert {entry["file"] for entry in manifest["tasks"].values()} == {"model.pt2"}
    assert manifest["input"]["normalized_inside"]
    assert_answers(tmp_path, model)


def test_a_router_that_looks_at_smaller_images(deployable: Make, tmp_path: Path) -> None:
    """Its resizing, with antialiasing, is an operator like the others."""
    model = deployable("mola_router", prepared=ALIKE, router={"input_size": 8}, adapter={"target_modules": ["^layer2"]})
    export(model, tmp_path, "torch_export")
    assert_answers(tmp_path, model)


@pytest.mark.soak
def test_a_router_in_onnx(deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_router", prepared=ALIKE)
    manifest = export(model, tmp_path, "onnx").manifest
    assert manifest["opset"] == 20
    assert_answers(tmp_path, model, 1e-4)


def test_an_expert_in_onnx(deployable: Make, tmp_path: Path) -> None:
    """Each task has a graph of its own, with its own normalisation and expert."""
    model = deployable("mola_grad", tasks=[Task("b", 4)])
    assert export(model, tmp_path, "onnx").manifest["tasks"]["b"]["file"] == "b.onnx"
    assert_answers(tmp_path, model, 1e-4)
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    with pytest.raises(RunFolderError, match="b.onnx: it is damaged"):
        load_file(tmp_path, {"format": "onnx", "tasks": {"b": {"file": "b.onnx"}}}, "b")


def test_which_graphs_there_are(deployable: Make) -> None:
    def names(model: Deployable, task: str | None = None) -> dict[str, tuple[str, ...]]:
        return {name: answered for name, (_, answered) in graphs_of(model, model.tasks(task)).items()}

    apart = {"a": ("a",), "b": ("b",)}
    assert names(deployable("mola_router", prepared=ALIKE)) == {"model": ("a", "b")}
    assert names(deployable("mola_router", prepared=ALIKE), "b") == {"b": ("b",)}
    assert names(deployable("mola_router")) == apart  # their images are normalised differently
    for method in ("mola_grad", "mmoe"):
        assert names(deployable(method)) == apart


@pytest.mark.parametrize("method", ["mola_router", "mola_hard", "mola_top_k", "mola_grad", "mmoe"])
def test_untraced_graphs_answer_as_the_model(method: str, deployable: Make) -> None:
    model, images = deployable(method), torch.rand(3, *SHAPE)
    for graph, names in graphs_of(model, model.tasks()).values():
        for name in names:
            torch.testing.assert_close(graph(images)[name], model.module.predict(images, name), rtol=1e-5, atol=1e-5)


class Map(nn.Module):
    """A backbone without pooling."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::2, ::2]


def doubled(outputs: Tensor) -> Tensor:
    return 2 * outputs


@pytest.mark.parametrize("format", ["torch_export", pytest.param("onnx", marks=pytest.mark.soak)])
def test_a_dense_head(format: str, tmp_path: Path) -> None:
    """Which no timm classifier can be; the task's activation is in the graph."""
    task = replace(make_task("depth", "regression"), activation=doubled)
    module = MultiTaskModule([task], HPS([task], Map()), head=LightDecoder)
    model = Deployable(module, SHAPE, {"depth": Preprocessing()})
    export(model, tmp_path, format)
    assert load(tmp_path, "depth")(torch.rand(2, *SHAPE)).shape == (2, 1, 16, 16)
    assert_answers(tmp_path, model)


class Undecided(nn.Module):
    """What it computes depends on the values: no graph."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"a": images if images.sum() > 0 else -images}


def test_a_network_that_cannot_be_traced() -> None:
    with pytest.raises(ConfigError, match=r"torch.export cannot trace an example"):
        trace(Undecided(), torch.rand(2, *SHAPE), "an example")


@pytest.mark.soak
@pytest.mark.parametrize("format", ["torch", "safetensors", "torch_export", "onnx"])
@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_large_backbones(backbone: str, format: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_grad", backbone=backbone, shape=LARGE, tasks=[Task("a", 3), Task("c", 7)])
    export(model, tmp_path, format, task="c")
    images = torch.rand(3, *LARGE)
    tolerance = 1e-5 if format in ("torch", "safetensors") else 1e-4
    wanted = model.module.predict(images, "c")
    # Relative to the largest output: experts of noise make large values inside, and with them large rounding.
    assert (load(tmp_path, "c")(images) - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.soak
@pytest.mark.parametrize("format", ["torch_export", "onnx"])
@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_routers_in_large_backbones(backbone: str, format: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable("mola_router", prepared=ALIKE, backbone=backbone, shape=LARGE)
    export(model, tmp_path, format)
    assert_answers(tmp_path, model, 1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("format", ["torch_export", "onnx"])
@pytest.mark.parametrize("method", ["mola_hard", "mola_top_k", "single_task", "hps", "mmoe"])
def test_other_methods(method: str, format: str, deployable: Make, tmp_path: Path) -> None:
    model = deployable(method)
    export(model, tmp_path, format, task="b")
    images = torch.rand(3, *SHAPE)
    torch.testing.assert_close(load(tmp_path, "b")(images), model.module.predict(images, "b"), rtol=1e-4, atol=1e-4)
