"""What the pages show works: their files are written, their commands run, their Python is executed."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import Callback, seed_everything

from mola_lightning.cli import train

DOCS = Path(__file__).parents[2] / "docs"
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = ("data.source.num_train=24", "data.source.image_size=14", "debug=quick", "figures=false")

Folder = Callable[[str], Path]


@pytest.fixture
def folder_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """``folder_of("extending")``: the files that a page shows, in a folder that is where one works and imports from."""

    def write(page: str) -> Path:
        for name, content in FILE.findall(text_of(page)):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return write


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], Path], dict[str, Any]]:
    """``run(arguments, folder)``: a small ``mola-train`` into a folder; the summary."""

    def call(arguments: list[str], folder: Path) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["mola-train", *arguments, *SMALL, f"hydra.run.dir={folder}"])
        GlobalHydra.instance().clear()
        try:
            train.main()
        finally:
            GlobalHydra.instance().clear()
        return json.loads((folder / "summary.json").read_text())

    return call


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def commands_of(page: str) -> list[list[str]]:
    """Arguments of each ``mola-train`` of a page that needs the page's own files."""
    lines = "\n".join(SHELL.findall(text_of(page))).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["mola-train"] and "my_conf" in words]


@pytest.mark.slow
def test_extending(folder_of: Folder, run: Callable[..., dict[str, Any]]) -> None:
    """Every kind of part through ``--config-dir``, an option overridden, a balancer on shared parameters."""
    folder = folder_of("extending")
    stems, together = commands_of("extending")
    summary = run(stems, folder / "stems")
    assert (summary["status"], summary["method"]) == ("done", "stems+pcgrad")
    assert summary["parameters"]["other"] == 4 * (3 * 3 * 25 + 3)
    assert "kernel_size: 5" in (folder / "stems" / "config.yaml").read_text()

    summary = run(together, folder / "together")
    assert (summary["status"], summary["method"]) == ("done", "mola_colour+smooth_maximum")
    assert summary["parameters"]["router"] == 4 * 3 + 4
    columns = (folder / "together" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/aux/twd", "train/aux/even_use"} <= set(columns)


@pytest.mark.slow
def test_own_backbone(folder_of: Folder, run: Callable[..., dict[str, Any]]) -> None:
    folder = folder_of("own_backbone")
    grad, mmoe = (run(words, folder / str(i)) for i, words in enumerate(commands_of("own_backbone")))
    assert (grad["method"], mmoe["method"]) == ("mola_grad", "mmoe")
    convolutions = [(3, 16), (16, 32), (32, 64)]
    assert grad["parameters"]["backbone"] == sum(9 * a * b + 2 * b for a, b in convolutions)
    assert grad["parameters"]["adapters"] == sum(4 * 4 * 9 * (a + b) for a, b in convolutions)


@pytest.mark.parametrize("page", ["own_backbone", "extending"])
def test_python_runs(page: str, folder_of: Folder) -> None:
    folder_of(page)
    blocks = PYTHON.findall(text_of(page))
    assert blocks
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), {})


def test_what_the_page_says_of_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = PYTHON.findall(text_of("concepts"))
    exec(compile(block, "concepts.md", "exec"), {})
    said = capsys.readouterr().out
    assert "8 layers adapted" in said
    assert "layer3.1.conv2: rank 4" in said
    assert "layer4.0.conv1: rank 8" in said


class Killed(Callback):
    """Dies at a step."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("killed")


@pytest.mark.slow
def test_resuming_in_python(tmp_path: Path) -> None:
    (block,) = PYTHON.findall(text_of("resume"))
    assert block.count("Digits(num_train=40)") == 1, "the example has other settings than expected"
    names: dict[str, Any] = {}
    small = block.replace("Digits(num_train=40)", "Digits(num_train=40, image_size=10)")
    exec(compile(small, "resume.md", "exec"), names)

    def weights(folder: Path, *callbacks: Callback) -> dict[str, torch.Tensor]:
        seed_everything(0, verbose=False)
        return names["train"](folder, *callbacks).state_dict()

    with pytest.raises(RuntimeError, match="killed"):
        weights(tmp_path / "killed", Killed())
    assert (tmp_path / "killed" / "last.ckpt").exists()
    resumed, undisturbed = weights(tmp_path / "killed"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.items())
