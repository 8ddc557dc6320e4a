"""mola-predict and what mola-eval says of probabilities and of unknown tasks, on small runs."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mola_lightning.analysis.runs import Run
from mola_lightning.cli import evaluate as evaluating
from mola_lightning.cli.evaluate import calibrate_run, evaluate, evaluate_without_task_ids
from mola_lightning.cli.evaluate import main as evaluate_main
from mola_lightning.cli.loading import LoadedRun
from mola_lightning.cli.predict import main
from mola_lightning.cli.remove_task import main as remove_main
from mola_lightning.cli.target_agnostic import evaluate_runs
from mola_lightning.cli.target_agnostic import main as agnostic_main
from mola_lightning.core import ConfigError, Regime
from mola_lightning.data import Digits, make_task
from mola_lightning.prediction.choices import NoChoice

FAST = ("figures=false", "callbacks.records.num_conflict_batches=0", "trainer.max_epochs=1")
SMALL_ROUTER = ("router.widths=[4,4,8]", "router.blocks=1")  # the paper's would take most time of each evaluation


@pytest.fixture(scope="module")
def trained(train_small: Callable[..., float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MoLA-Router and one of HPS, without figures; tests write into their folders."""
    folder = tmp_path_factory.mktemp("predict")
    for method, router in (("mola", SMALL_ROUTER), ("hps", ())):
        train_small(folder / method, f"architecture={method}", *router, *FAST)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of a domain as files, named by number and class, and one that cannot be read."""
    test = Digits(num_train=24, image_size=14).dataset("test")
    first = int((test.task_ids() == 3).argmax())
    folder = tmp_path_factory.mktemp("photos")
    for row in range(first, len(test)):
        image = test.images[row].permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / f"{row}_{int(test[row].targets['photo'])}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_evaluation(
    trained: Path, photos: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    arguments = (f"run={trained / 'mola'}", f"input={photos}", "task=photo", f"output={output}", "top_k=3")
    outcome = command(main, *arguments)
    assert outcome.code == 0, outcome.err
    assert "broken.png: empty" in outcome.out
    rows = read(output)
    right = sum(row["label"] == Path(row["image"]).stem.split("_")[1] for row in rows) / len(rows)
    summary = json.loads((trained / "mola" / "summary.json").read_text())
    assert right == pytest.approx(summary["test"]["photo"]["accuracy"], abs=2 / len(rows))  # ties may fall otherwise
    assert len({row["image"] for row in rows}) == len(rows) == 800
    before = output.stat().st_mtime_ns
    assert command(main, *arguments).code == 0
    assert output.stat().st_mtime_ns == before
    others = {"top_k=2": "top_k: 3 there, 2 here", "overrides=['data.source.augment=5']": "data: '"}
    for option, difference in others.items():
        refused = command(main, *arguments, option)
        assert (refused.code, difference in refused.err) == (1, True)


def test_the_task_is_chosen_where_nobody_says_it(
    trained: Path, photos: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.glob("*.png"))[:40]:
        shutil.copy(path, few)
    for run, by in (("mola", "router"), ("hps", "mapper")):
        outcome = command(main, f"run={trained / run}", f"input={few}", f"output={tmp_path / run}.csv")
        assert outcome.code == 0, outcome.err
        assert json.loads((tmp_path / f"{run}.csv.json").read_text())["key"]["choose_by"] == by
        assert all(0.25 <= float(row["task_score"]) <= 1 for row in read(tmp_path / f"{run}.csv"))


def test_an_evaluation_with_calibration_and_without_task_ids(trained: Path, command: Callable[..., Any]) -> None:
    run = trained / "hps"
    outcome = command(evaluate_main, f"run={run}", "calibrate=true", "target_agnostic=[entropy,mapper]")
    assert outcome.code == 0, outcome.err
    assert "ece_before" in outcome.out
    found = json.loads((run / "target_agnostic_test_best.json").read_text())
    assert list(found) == ["task_id", "entropy", "mapper"]
    summary = json.loads((run / "summary.json").read_text())["test"]
    for name in ("mnist", "optdigits", "printed", "photo", "mean"):
        assert found["task_id"][name]["accuracy"] == pytest.approx(summary[name]["accuracy"], abs=0.003)
        assert found["mapper"][name]["task_accuracy"] > 0.5
    temperatures = json.loads((run / "calibration_best.json").read_text())["tasks"]
    assert set(temperatures) == {"mnist", "optdigits", "printed", "photo"}


def test_each_way_that_a_model_allows(trained: Path) -> None:
    assert list(evaluate_without_task_ids(trained / "mola")[0]) == ["task_id", "router", "entropy", "mapper"]
    found, path = calibrate_run(trained / "mola")
    assert path.name == "calibration_best.json"
    assert all(values["ece_after"] < 0.5 for values in found.values())


def test_what_it_refuses(trained: Path, photos: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    run = f"run={trained / 'hps'}"
    table, config = tmp_path / "list.csv", tmp_path / "other.yaml"
    config.touch()
    table.write_text(f"image\n{photos / 'broken.png'}\n")
    refusals = {
        "is what is read; choose another": (run, f"input={table}", f"output={table}", "overwrite=true"),
        "other.yaml is no image; input must be": (run, f"input={config}"),
        "top_k must lie in 1..10, the number of classes, got 11": (run, f"input={photos}", "top_k=11"),
        "choose_by=entropy is for task=auto": (run, f"input={photos}", "task=photo", "choose_by=entropy"),
        "device must be cpu or cuda, got 'gpu'": (run, f"input={photos}", "device=gpu"),
        "checkpoint must be best, last, or a file; there is no file lst": (run, f"input={photos}", "checkpoint=lst"),
        "best.ckpt is of another model than": (
            run,
            f"input={photos}",
            f"checkpoint={trained / 'mola' / 'checkpoints' / 'best.ckpt'}",
        ),
        "mola-predict run=<folder>": (),
        "which images?": (run,),
        "no run folder": (f"run={tmp_path}", f"input={photos}"),
        "task must be one of 'auto', 'mnist'": (run, f"input={photos}", "task=nonsense"),
        "no router that reads the image": (run, f"input={photos}", "choose_by=router"),
        "output must end in": (run, f"input={photos}", "output=out.xlsx"),
        "top_k must be an integer >= 1, got 0": (run, f"input={photos}", "top_k=0"),
    }
    for message, arguments in refusals.items():
        outcome = command(main, *arguments)
        assert outcome.code == 1
        assert message in outcome.err
        assert "Traceback" not in outcome.err


def test_a_table_without_images(
    trained: Path, photos: Path, command: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows without a path are told, and no image at all is no success."""
    table = tmp_path / "list.csv"
    table.write_text(f"image,note\n,none\n{photos / 'broken.png'},bad\n")
    outcome = command(main, f"run={trained / 'hps'}", f"input={table}", "task=photo")
    assert outcome.code == 1
    assert f"none of the images of {table} could be read" in outcome.err
    assert "names no image in line 2" in caplog.text + outcome.err


def test_what_an_evaluation_refuses(trained: Path, command: Callable[..., Any]) -> None:
    """Before it evaluates."""
    run = trained / "hps"
    found = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for option, message in (
        ("calibrate=maybe", "calibrate must be one of True, False, got 'maybe'"),
        ("target_agnostic=[entropy,foo]", "target_agnostic must be one of 'router', 'entropy', 'mapper', got 'foo'"),
    ):
        outcome = command(evaluate_main, f"run={run}", option)
        assert (outcome.code, message in outcome.err) == (1, True), outcome.err
    assert found == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_an_interrupt_says_what_is_kept(
    trained: Path, photos: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mola_lightning.cli.predict.predict_missing", interrupted)
    outcome = command(main, f"run={trained / 'hps'}", f"input={photos}", "task=mnist")
    assert outcome.code == 130
    assert "images are done and kept; the same command goes on" in outcome.err
    assert "Traceback" not in outcome.err


def test_runs_side_by_side(trained: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    arguments = (str(trained), "--output", str(tmp_path / "T.md"), "--csv", str(tmp_path / "T.csv"))
    outcome = command(agnostic_main, *arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.out == (tmp_path / "T.md").read_text()
    rows = read(tmp_path / "T.csv")
    ways = {(row["method"], row["chosen_by"]) for row in rows}
    assert ways == {("hps", "entropy"), ("hps", "mapper")} | {
        ("mola_router", w) for w in ("router", "entropy", "mapper")
    }
    refused = command(agnostic_main, str(tmp_path))
    assert (refused.code, "no runs found" in refused.err) == (1, True)


def test_runs_whose_task_cannot_be_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each is refused by mola-eval, before anything is measured, and left out by mola-agnostic."""
    classes, numbers = make_task("a", num_outputs=3), make_task("b", "regression")
    for regime, tasks, reason in (
        (Regime.MULTI_INPUT, (classes, numbers), "task 'b' has no classes"),
        (Regime.SINGLE_INPUT, (classes, classes), "no task to choose"),
    ):
        module = torch.nn.Module()
        module.tasks = tasks
        loaded = LoadedRun(None, SimpleNamespace(regime=regime), module)  # type: ignore[arg-type]
        monkeypatch.setattr(evaluating, "load_run", lambda *_, loaded=loaded: loaded)
        with pytest.raises(NoChoice, match=reason):
            evaluate_without_task_ids(tmp_path)
        run = Run(tmp_path, "done", {"tasks": ["a", "b"], "method": "hps", "data": "mine", "seed": 0})
        with pytest.raises(ConfigError, match="none of these runs has tasks that could be chosen among"):
            evaluate_runs([run])
        assert reason in capsys.readouterr().err


def test_runs_on_several_data_sets_are_not_pooled(tmp_path: Path) -> None:
    facts = {"method": "hps", "seed": 0, "tasks": ["a", "b"], "data": "mine"}
    for other in ({"data": "yours"}, {"tasks": ["a", "b", "c"]}):
        with pytest.raises(ConfigError, match=r"on one data set, found mine \(a, b.*; (mine|yours) \(a, b"):
            evaluate_runs([Run(tmp_path, "done", facts), Run(tmp_path, "done", {**facts, **other})])


@pytest.mark.parametrize("method", ["mola", "hps"])
def test_a_run_without_a_task(method: str, trained: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    rest = "data.source.domains=[mnist,optdigits,photo]"
    arguments = (f"run={trained / method}", "task=printed", f"output={tmp_path / 'new'}")
    refused = command(remove_main, *arguments)
    assert (refused.code, "should have the tasks mnist, optdigits, photo" in refused.err) == (1, True)
    assert not (tmp_path / "new").exists()
    outcome = command(remove_main, *arguments, f"overrides=['{rest}']")
    assert outcome.code == 0, outcome.err
    found, summary = evaluate(tmp_path / "new"), json.loads((trained / method / "summary.json").read_text())
    assert list(found) == ["mnist", "optdigits", "photo", "mean"]
    for name in ("mnist", "optdigits", "photo"):
        assert found[name] == pytest.approx(summary["test"][name], abs=1e-3)


def test_an_expert_leaves_with_its_task(
    train_small: Callable[..., float], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under MoLA-Grad with a number of experts that is set, whatever the name of its class."""
    (tmp_path / "own_mixture.py").write_text("from mola_lightning.architectures import MoLA as Mixture\n")
    monkeypatch.syspath_prepend(tmp_path)
    two, base = "data.source.domains=[mnist,optdigits]", tmp_path / "base"
    train_small(base, "architecture=mola_grad", "architecture.num_experts=3", two, *FAST)
    config = OmegaConf.load(base / "config.yaml")
    OmegaConf.update(config, "architecture._target_", "own_mixture.Mixture")
    OmegaConf.save(config, base / "config.yaml")
    rest = "overrides=['data.source.domains=[optdigits]']"
    outcome = command(remove_main, f"run={base}", "task=mnist", f"output={tmp_path / 'new'}", rest)
    assert outcome.code == 0, outcome.err
    assert OmegaConf.load(tmp_path / "new" / "config.yaml").architecture.num_experts == 2
    summary = json.loads((base / "summary.json").read_text())
    assert evaluate(tmp_path / "new")["optdigits"] == pytest.approx(summary["test"]["optdigits"], abs=1e-3)


def test_a_task_is_added_to_a_finished_run(train_small: Callable[..., float], tmp_path: Path) -> None:
    """By the two commands of docs/prediction.md; what is frozen has no conflict to measure, and that is no error."""
    old = ["mnist", "optdigits", "printed"]
    train_small(tmp_path / "base", "experiment=digits/mola_grad", f"data.source.domains=[{','.join(old)}]", *FAST)
    options = ("figures=false", "trainer.max_epochs=1")
    train_small(tmp_path / "grown", "experiment=digits/add_task", f"base_run={tmp_path / 'base'}", *options)
    report = json.loads((tmp_path / "grown" / "added_tasks.json").read_text())
    assert (list(report["old"]), list(report["new"])) == (old, ["photo"])
    assert all(pair["before"] == pytest.approx(pair["after"], abs=1e-6) for pair in report["old"].values())
