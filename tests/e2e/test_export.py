"""From a run's folder to files for elsewhere, by the commands and in Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mola_lightning import MoLAGrad, MoLARouter, MultiTaskModule
from mola_lightning.cli.compose import main as compose_main
from mola_lightning.cli.evaluate import evaluate
from mola_lightning.cli.export import deployable_of
from mola_lightning.cli.export import main as export_main
from mola_lightning.cli.loading import load_run
from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.deployment import load, load_model

Command = Callable[..., Any]
DOMAINS = ["mnist", "optdigits", "printed", "photo"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train_small: Callable[..., float]) -> Path:
    """A run of MoLA-Grad."""
    folder = tmp_path_factory.mktemp("grad") / "run"
    train_small(folder, "architecture=mola_grad", "trainer.max_epochs=1", "figures=false")
    return folder


def raw_images(run: Path, task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images of a task as uint8, and its labels."""
    dataset: Any = load_run(run).data.dataset("test")
    rows = torch.from_numpy(dataset.task_ids() == DOMAINS.index(task))
    return dataset.images[rows], dataset.labels()[task]


def test_exporting_a_run(run: Path, command: Command) -> None:
    """The exported network reaches the accuracy of the run's test, from raw images."""
    done = command(export_main, f"run={run}", "license=apache-2.0")
    assert done.code == 0, done.err
    manifest = json.loads((run / "export/torch/manifest.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert list(manifest["tasks"]) == DOMAINS
    assert [entry["expert"] for entry in manifest["tasks"].values()] == [0, 1, 2, 3]
    assert manifest["license"] == "apache-2.0"
    assert manifest["run"]["config_key"] == summary["config_key"]
    assert set(manifest["git"]) == {"training", "export"}
    images, labels = raw_images(run, "photo")
    found = load(run / "export/torch", "photo")(images / 255).argmax(1) == labels
    wanted = manifest["tasks"]["photo"]["metrics"]["accuracy"]
    assert float(found.float().mean()) == pytest.approx(wanted, abs=1e-6)
    assert wanted == summary["test"]["photo"]["accuracy"]


def test_a_run_in_python(run: Path) -> None:
    model = MoLAGrad.from_run(run)
    images, labels = raw_images(run, "mnist")
    accuracy = (model.predict(images, "mnist").argmax(1) == labels).float().mean()
    assert float(accuracy) == pytest.approx(evaluate(run)["mnist"]["accuracy"], abs=1e-6)
    torch.testing.assert_close(model.predict(images[:3], "mnist"), model.predict(images[:3] / 255, "mnist"))
    assert MultiTaskModule.from_run(run, "last").architecture.method == "mola_grad"
    with pytest.raises(ConfigError, match="is a run of mola_grad, and MoLARouter is mola_router"):
        MoLARouter.from_run(run)
    with pytest.raises(ConfigError, match="task must be one of 'mnist'"):
        model.predict(images, "svhn")
    with pytest.raises(ConfigError, match="training mode"):
        model.train().predict(images, "mnist")


def test_images_that_no_model_can_answer(run: Path) -> None:
    model = MoLAGrad.from_run(run)
    images, _ = raw_images(run, "mnist")
    shape = tuple(images.shape[1:])
    for given, message in (
        (images[:2].numpy(), "got ndarray; torch.from_numpy makes one"),
        (images[0], rf"images must be a tensor \(B, {shape[0]}, {shape[1]}, {shape[2]}\), got"),
        (images[:2, :, :7], "bring images to the size of the training"),
        (images[:2].float(), r"floats in \[0, 1\], or uint8; found 0 to"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.predict(given, task="mnist")
    assert len(model.predict(images[:0], task="mnist")) == 0


def test_a_damaged_checkpoint_is_noticed(run: Path, tmp_path: Path) -> None:
    """A bit is enough, which torch would take."""
    content = bytearray((run / "checkpoints/best.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        MoLAGrad.from_run(run, checkpoint=str(damaged))


def test_experts_apart_and_together(run: Path, command: Command, tmp_path: Path) -> None:
    done = command(export_main, f"run={run}", "format=adapters", f"output={tmp_path}/parts")
    assert done.code == 0, done.err
    parts = tmp_path / "parts"
    done = command(
        compose_main, f"base={parts}/base.safetensors", f"experts=[{parts}/photo.safetensors,{parts}/mnist.safetensors]"
    )
    assert done.code == 0, done.err
    composed = tmp_path / "working" / "composed"
    images, _ = raw_images(run, "mnist")
    torch.testing.assert_close(
        load_model(composed).module.predict(images, "mnist"),
        MultiTaskModule.from_run(run).predict(images, "mnist"),
        rtol=1e-5,
        atol=1e-5,
    )
    done = command(export_main, f"run={composed}", "format=safetensors", "task=photo")
    assert done.code == 0, done.err
    with safe_open(composed / "export/safetensors/photo.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["mola"])["task"] == "photo"
    for arguments in (("last",), ("best", None, ["seed=1"])):
        with pytest.raises(ConfigError, match="leave checkpoint= and overrides= out"):
            deployable_of(composed, *arguments)


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (export_main, [], "which run?"),
        (export_main, ["run=nowhere"], "nowhere is no run folder"),
        (export_main, ["run={run}", "format=tflite"], "format must be one of 'torch'"),
        (export_main, ["run={run}", "task=svhn"], "task must be one of 'mnist'"),
        (export_main, ["run={run}", "output={run}"], "would take the place of what is read"),
        (compose_main, ["base=a"], "which files?"),
        (compose_main, ["base=x/a", "experts=[b]", "output=x"], "would take the place of what is read"),
        (compose_main, ["base=a.safetensors", "experts=[b.safetensors]"], "there is no file a.safetensors"),
    ],
)
def test_mistakes(main: Any, arguments: list[str], message: str, run: Path, command: Command) -> None:
    done = command(main, *(argument.format(run=run) for argument in arguments))
    assert done.code == 1
    assert message in " ".join(done.err.split())
