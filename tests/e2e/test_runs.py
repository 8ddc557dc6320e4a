"""A run from its config to its folder, and the commands that read such folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mola_lightning.cli.evaluate import evaluate
from mola_lightning.cli.evaluate import main as evaluate_main
from mola_lightning.cli.report import main as report_main
from mola_lightning.core import ConfigError, RunFolderError

Train = Callable[..., float]
Command = Callable[..., Any]
DOMAINS = ["mnist", "optdigits", "printed", "photo"]
SUMMARY = {
    "status", "method", "config_key", "overrides", "debug", "data", "seed", "tasks", "monitor", "score", "test", "val",
    "best_epoch", "epochs", "parameters", "multiply_adds", "step_time_s", "wall_time_s", "routing", "conflict",
    "versions", "git", "device", "resumes",
}  # fmt: skip


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", ["mola", "hps"])
def test_a_run_folder_is_complete(method: str, runs: Path) -> None:
    run = runs / method
    drawn = {"learning_curves", "gradient_cosine", "mixing_weights", *(f"confusion_{domain}" for domain in DOMAINS)}
    drawn = drawn if method == "mola" else set()
    expected = {"config.yaml", "metrics.csv", "metrics.jsonl", "summary.json", "analysis/records.npz"}
    expected |= {f"checkpoints/{name}.ckpt" for name in ("best", "last", "previous")}
    expected |= {f"figures/{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == expected
    for path in (run / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200
    for name in ("best", "last"):
        assert "state_dict" in torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize("method", ["mola", "hps"])
def test_a_summary_says_what_happened(method: str, runs: Path) -> None:
    found, journal = summary_of(runs / method), pd.read_csv(runs / method / "metrics.csv")
    assert set(found) == SUMMARY
    assert (found["status"], found["data"], found["seed"], found["device"]) == ("done", "digits", 0, "cpu")
    assert found["method"] == {"mola": "mola_router", "hps": "hps"}[method]
    assert (found["overrides"], found["debug"]) == ([], None)  # only the command line has them
    assert found["tasks"] == DOMAINS
    assert found["epochs"] == 2
    assert found["wall_time_s"] > 0
    for split in ("test", "val"):
        assert list(found[split]) == [*DOMAINS, "mean"]
        assert all(set(values) == {"loss", "accuracy"} for values in found[split].values())
    best = journal[journal["epoch"] == found["best_epoch"]]
    for domain in (*DOMAINS, "mean"):
        assert found["val"][domain]["accuracy"] == pytest.approx(best[f"val/{domain}/accuracy"].max())
        assert found["test"][domain]["loss"] == pytest.approx(journal[f"test/{domain}/loss"].max())
    assert journal["val/score"].max() == pytest.approx(found["val"]["mean"]["accuracy"])
    assert (found["routing"] is not None) == (method == "mola")
    assert -1 <= found["conflict"]["mean_cosine"] <= 1
    counts = found["parameters"]
    assert counts["total"] == sum(counts[part] for part in ("backbone", "adapters", "router", "heads", "other"))


def test_a_config_is_whole(runs: Path) -> None:
    config = OmegaConf.load(runs / "mola" / "config.yaml")
    assert "${" not in (runs / "mola" / "config.yaml").read_text()
    assert config.data.source.num_train == 24
    assert config.adapter.rank == 4


@pytest.mark.parametrize("method", ["mola", "hps"])
def test_an_evaluation_repeats_the_test(method: str, runs: Path) -> None:
    assert evaluate(runs / method) == summary_of(runs / method)["test"]


def test_evaluations_of_other_splits_and_checkpoints(runs: Path) -> None:
    assert evaluate(runs / "hps", split="val") == summary_of(runs / "hps")["val"]
    found = evaluate(
        runs / "hps", str(runs / "hps" / "checkpoints" / "best.ckpt"), overrides=["data.eval_batch_size=333"]
    )
    for name, values in summary_of(runs / "hps")["test"].items():
        assert found[name] == pytest.approx(values, rel=1e-5)


def test_what_an_evaluation_refuses(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run folder.*config\.yaml"):
        evaluate(tmp_path)
    with pytest.raises(RunFolderError, match="nothing.ckpt"):
        evaluate(runs / "hps", "nothing.ckpt")
    with pytest.raises(ConfigError, match="split must be one of 'test', 'val', got 'train'"):
        evaluate(runs / "hps", split="train")
    with pytest.raises(ConfigError, match="nonsense"):
        evaluate(runs / "hps", overrides=["nonsense=1"])


def test_the_command_that_evaluates(runs: Path, command: Command, tmp_path: Path) -> None:
    outcome = command(evaluate_main, f"run={runs / 'hps'}")
    assert outcome.code == 0
    assert "photo" in outcome.out
    written = runs / "hps" / "evaluation_test_best.json"
    assert json.loads(written.read_text()) == summary_of(runs / "hps")["test"]
    written.unlink()
    assert not any((tmp_path / "working").iterdir())
    refused = command(evaluate_main, f"run={tmp_path}")
    assert refused.code == 1
    assert "no config.yaml" in refused.err
    assert "Traceback" not in refused.err
    without = command(evaluate_main)
    assert without.code == 1
    assert "mola-eval run=" in without.err


def test_a_report_over_runs(runs: Path, command: Command, tmp_path: Path) -> None:
    arguments = [str(runs), "--figures", str(tmp_path / "figures")]
    outcome = command(lambda: report_main(arguments))
    assert outcome.code == 0, outcome.err
    for name in ("mola_router", "hps", *DOMAINS):
        assert name in outcome.out
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"comparison_digits", "routing_digits"}


def test_equal_seeds_give_equal_runs(runs: Path, train_small: Train, tmp_path: Path) -> None:
    router = OmegaConf.load(runs / "mola" / "config.yaml").router
    small = (f"router.widths={list(router.widths)}", f"router.blocks={router.blocks}")
    train_small(tmp_path / "again", "architecture=mola", *small, "figures=false")
    again, first = summary_of(tmp_path / "again"), summary_of(runs / "mola")
    for key in ("test", "val", "routing", "conflict", "parameters"):
        assert again[key] == first[key]
    assert not (tmp_path / "again" / "figures").exists()


def test_a_run_without_a_test(runs: Path, train_small: Train, tmp_path: Path) -> None:
    score = train_small(tmp_path / "run", "architecture=hps", "test=false", "method=mine", "seed=1")
    found = summary_of(tmp_path / "run")
    assert found["val"] != summary_of(runs / "hps")["val"]
    assert (found["method"], found["test"], found["routing"]) == ("mine", {}, None)
    assert score == found["score"] == pytest.approx(found["val"]["mean"]["accuracy"])
    assert not (tmp_path / "run" / "figures").exists()


def test_other_loggers_write_into_the_run_folder(
    train_small: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    train_small(tmp_path / "run", "architecture=hps", "logger=tensorboard", "trainer.max_epochs=1")
    assert [path for path in (tmp_path / "run" / "tensorboard").iterdir() if path.name.startswith("events.")]
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    drawn = {f"figures/{path.stem}" for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert set(events.Tags()["images"]) == drawn
    assert "figures/gradient_cosine" in drawn
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_weights_and_biases_works_offline(train_small: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_small(tmp_path / "run", "architecture=hps", "logger=wandb", "test=false", "trainer.max_epochs=1")
    stored = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    name = (tmp_path / "run" / "wandb" / "run_id.txt").read_text()  # kept, for a start of this run that goes on
    assert {path.stem for path in stored} == {f"run-{name}"}
    assert len(stored) == 1
    assert stored[0].stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
