"""A prediction is killed, goes on, and ends as the undisturbed one."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mola_lightning.core import ConfigError, RunFolderError, Task, TaskRows
from mola_lightning.core.files import atomic_write
from mola_lightning.data import ImageTransforms, make_task
from mola_lightning.prediction import parts
from mola_lightning.prediction.answers import Answers
from mola_lightning.prediction.choices import LeastEntropy
from mola_lightning.prediction.inputs import ImageFiles, find_images
from mola_lightning.prediction.parts import PartedTable
from mola_lightning.prediction.predict import predict_missing

KEY = {"checkpoint": "abc", "task": "auto"}


def read(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def files(load_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageFiles:
    """Eleven images, two of which cannot be read; parts of four."""
    monkeypatch.setattr(parts, "PART_SIZE", 4)
    for seed in range(9):
        load_script("image_files").write_picture(tmp_path / "in" / f"{seed}.png", 8, 8, seed)
    (tmp_path / "in" / "0.bad.png").write_bytes(b"")
    (tmp_path / "in" / "5.bad.png").write_bytes(b"no image")
    return ImageFiles(find_images(str(tmp_path / "in")), ImageTransforms(8))


def table(output: Path, answers: Answers, files: ImageFiles, key: dict[str, Any] = KEY, **options: Any) -> PartedTable:
    return PartedTable(output, ["image", *answers.columns], answers.numbers, key, len(files), **options)


def whole(output: Path, answers: Answers, files: ImageFiles, **options: Any) -> list[tuple[str, str]]:
    made = table(output, answers, files, **options)
    predict_missing(answers, files, made, batch_size=3)
    return made.finish()


def killed_after(images: int) -> Callable[[int], None]:
    left = images

    def done(count: int) -> None:
        nonlocal left
        left -= count
        if left <= 0:
            raise KeyboardInterrupt

    return done


@pytest.mark.parametrize("killed", [1, 4, 6, 11])
def test_a_killed_prediction_goes_on(killed: int, files: ImageFiles, make_model, tmp_path: Path) -> None:
    answers = Answers(make_model("mola_grad"), None, LeastEntropy(), top_k=2)
    bad = whole(tmp_path / "undisturbed.csv", answers, files)
    output = tmp_path / "killed.csv"
    with pytest.raises(KeyboardInterrupt):
        predict_missing(answers, files, table(output, answers, files), 3, 0, killed_after(killed))
    assert not output.exists()
    dealt_with: list[int] = []
    again = table(output, answers, files)
    predict_missing(answers, files, again, 3, 0, dealt_with.append)
    # The part under way at the kill is made again, no other.
    assert sum(dealt_with) == 11 - max(killed - 1, 0) // 4 * 4
    assert again.finish() == bad == [("0.bad.png", "empty"), ("5.bad.png", "not an image")]
    assert output.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    header, *rows = read(output)
    assert header == ["image", "task", "task_score", "label", "probability", "label_2", "probability_2"]
    assert [row[0] for row in rows] == [f"{n}.png" for n in range(9)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("killed")) == [
        "killed.csv",
        "killed.csv.json",
    ]


def test_a_process_killed_at_any_moment(files: ImageFiles, make_model, tmp_path: Path) -> None:
    answers, output = Answers(make_model("hps"), "dark"), tmp_path / "killed.csv"
    started = time.monotonic()
    whole(tmp_path / "undisturbed.csv", answers, files)
    needed = time.monotonic() - started
    for attempt in range(8):
        child = os.fork()
        if child == 0:
            try:
                whole(output, answers, files)
            finally:
                os._exit(0)
        time.sleep(needed * (attempt + 1) / 8)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    whole(output, answers, files)
    assert output.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    assert not Path(f"{output}.parts").exists()


def test_a_finished_prediction_is_not_made_again(files: ImageFiles, make_model, tmp_path: Path) -> None:
    answers, output = Answers(make_model("hps"), "dark"), tmp_path / "out.csv"
    bad = whole(output, answers, files)
    again = table(output, answers, files)
    assert (again.missing(), again.finish()) == ([], bad)
    record = json.loads(Path(f"{output}.json").read_text())
    assert (record["images"], record["predicted"], len(record["bad"])) == (11, 9, 2)
    with pytest.raises(RunFolderError, match="not this prediction.*task: 'auto' there, 'dark' here"):
        table(output, answers, files, {**KEY, "task": "dark"})
    assert table(output, answers, files, overwrite=True).missing() == []


@pytest.mark.parametrize("written", [0, 1])
def test_an_output_that_is_replaced(
    written: int, files: ImageFiles, make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old table stays until the new one is whole, also when the process is killed between its last files."""
    module, output, key = make_model("hps"), tmp_path / "out.csv", {**KEY, "task": "bright"}
    old, new = Answers(module, "dark"), Answers(module, "bright")
    whole(output, old, files)
    whole(tmp_path / "new.csv", new, files, key=key)
    before = output.read_bytes()
    made = table(output, new, files, key, overwrite=True)
    predict_missing(new, files, made, batch_size=3)
    assert output.read_bytes() == before
    assert table(output, old, files).done

    left = written

    def killed(path: Path, mode: str = "w") -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return atomic_write(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "atomic_write", killed)
        with pytest.raises(KeyboardInterrupt):
            made.finish()
    for answers, its_key in ((old, KEY), (new, key)):  # nobody takes what lies there for his own
        with pytest.raises(RunFolderError, match="is there already"):
            table(output, answers, files, its_key)
    again = table(output, new, files, key, overwrite=True)
    assert again.missing() == []
    again.finish()
    assert output.read_bytes() == (tmp_path / "new.csv").read_bytes() != before


def test_parts_of_another_prediction_are_refused(files: ImageFiles, make_model, tmp_path: Path) -> None:
    answers, output = Answers(make_model("hps"), "dark"), tmp_path / "out.csv"
    table(output, answers, files)
    with pytest.raises(RunFolderError, match=r"out\.csv\.parts holds parts of another.*'abc' there, 'def' here"):
        table(output, answers, files, {**KEY, "checkpoint": "def"})
    table(output, answers, files, {**KEY, "checkpoint": "def"}, overwrite=True)
    table(output, answers, files, {**KEY, "checkpoint": "def"})
    table(output, answers, files, overwrite=True)
    output.write_text("the user's own")
    with pytest.raises(RunFolderError, match=r"is there already.*out\.csv\.json cannot be read"):
        table(output, answers, files)
    assert output.read_text() == "the user's own"


def test_labels_and_probabilities(files: ImageFiles, make_model, tmp_path: Path) -> None:
    module = make_model("mola_grad")
    whole(tmp_path / "out.csv", Answers(module, "dark", top_k=4, temperatures={"dark": 2.0}), files)
    images = files.__getitems__([1]).images
    rows = TaskRows.from_task_ids(torch.zeros(1, dtype=torch.long), module.names)
    with torch.no_grad():
        p = (module(images, rows).predictions["dark"][0] / 2).softmax(dim=0)
    first = read(tmp_path / "out.csv")[1]
    assert first[:2] == ["0.png", "dark"]
    labels, numbers = first[2:8:2], [float(cell) for cell in first[3:8:2]]
    assert labels == ["abc"[index] for index in p.argsort(descending=True).tolist()]
    assert numbers == pytest.approx(p.sort(descending=True).values.tolist(), rel=1e-4)
    assert first[8:] == ["", ""]  # three classes have no fourth


class Outputs(torch.nn.Module):
    """Answers each image with the same numbers."""

    def __init__(self, task: Task, values: list[float]) -> None:
        super().__init__()
        self.tasks, self.names, self.values = (task,), (task.name,), torch.nn.Parameter(torch.tensor(values))

    def forward(self, images: torch.Tensor, rows: TaskRows) -> Any:
        return type("Output", (), {"predictions": {self.names[0]: self.values.repeat(len(images), 1)}})


def test_tasks_without_classes() -> None:
    labels = Answers(Outputs(make_task("signs", "multi_label", class_names=("red", "round")), [0.0, 100.0]), "signs")
    assert labels.columns == ["task", "probability_red", "probability_round"]
    assert labels(torch.zeros(2, 3, 4, 4)) == [["signs", "0.5", "1"]] * 2
    number = Answers(Outputs(make_task("age", "regression"), [31.25]), "age")
    assert (number.columns, number.numbers) == (["task", "value_0"], ["value_0"])
    assert number(torch.zeros(1, 3, 4, 4)) == [["age", "31.25"]]


def test_parquet(files: ImageFiles, make_model, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    answers = Answers(make_model("mola_router"), None, LeastEntropy(), top_k=4)
    whole(tmp_path / "out.parquet", answers, files)
    whole(tmp_path / "out.csv", answers, files)
    found = pandas.read_parquet(tmp_path / "out.parquet")
    listed = pandas.read_csv(tmp_path / "out.csv", dtype={f"label{n}": str for n in ("", "_2", "_3", "_4")})
    pandas.testing.assert_frame_equal(found, listed, check_dtype=False)


def test_outputs_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="output must end in .csv or .parquet, got out.txt"):
        parts.check_output(Path("out.txt"))
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    parts.check_output(Path("out.csv"))
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'mola-lightning\[predict\]'"):
        parts.check_output(Path("out.parquet"))
