"""Whole trainings through a plain Trainer: every method on every regime, and what a Trainer's settings do to them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mola_lightning.data import MultiTaskDataModule
from mola_lightning.training.checkpoints import AtomicCheckpointIO
from mola_lightning.training.journal import MetricsJournal

Make = Callable[..., Any]
METHODS = ["hps", "single_task", "mola_grad", "mola_router"]
REGIMES = ["domains", "multi_input", "single_input"]


def expected_keys(method: str, regime: str) -> set[str]:
    keys = {f"train/{task}/loss" for task in "abc"} | {"train/loss", "val/score"}
    keys |= {f"val/{task}/{metric}" for task in ("a", "b", "c", "mean") for metric in ("loss", "accuracy")}
    return keys | ({"train/aux/twd"} if method == "mola_router" and regime != "single_input" else set())


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("method", METHODS)
def test_it_learns(method: str, regime: str, make_source: Make, make_module: Make, fit: Make, tmp_path: Path) -> None:
    source, journal, epochs = make_source(regime), MetricsJournal(tmp_path), 4
    fit(make_module(method, source), source, max_epochs=epochs, logger=journal)
    rows = [journal.epoch_row(epoch) for epoch in range(epochs)]
    for row in rows:
        assert expected_keys(method, regime) == set(row) - {"epoch", "step"}
        assert all(math.isfinite(value) for value in row.values())
        assert row["val/score"] == pytest.approx(row["val/mean/accuracy"])
        assert all(0 <= row[f"val/{task}/accuracy"] <= 1 for task in "abc")
    assert all(rows[-1][f"train/{task}/loss"] < rows[0][f"train/{task}/loss"] for task in "abc")
    assert rows[-1]["train/loss"] < 0.85 * rows[0]["train/loss"]
    assert rows[-1]["val/score"] > 0.5  # chance is about 0.36


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_on_the_cpu(method: str, make_source: Make, make_module: Make, fit: Make) -> None:
    source = make_source("domains")
    module = make_module(method, source)
    trainer = fit(module, source, precision="bf16-mixed", max_epochs=2)
    assert all(math.isfinite(value) for value in trainer.callback_metrics.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in module.parameters())


def test_batches_of_one(make_source: Make, make_module: Make, fit: Make) -> None:
    source = make_source("domains", {"train": 6, "val": 2})
    for method in ("hps", "mola_router"):
        module = make_module(method, source)
        trainer = fit(module, source, batch_size=1)
        assert trainer.global_step == 18
        assert all(p.isfinite().all() for p in module.parameters())
        assert all(math.isfinite(value) for value in trainer.callback_metrics.values())


def test_training_without_validation(make_source: Make, make_module: Make, fit: Make) -> None:
    source = make_source("domains")
    trainer = fit(make_module("mola_grad", source), source, limit_val_batches=0)
    assert not any(name.startswith("val/") for name in trainer.callback_metrics)


@pytest.mark.parametrize("method", ["hps", "mola_router"])
def test_the_best_checkpoint_is_tested(
    method: str, make_source: Make, make_module: Make, fit: Make, tmp_path: Path
) -> None:
    source = make_source("domains")
    module = make_module(method, source)
    best = ModelCheckpoint(tmp_path, "best", monitor="val/score", mode="max")
    trainer = fit(
        module, source, max_epochs=3, callbacks=[best], enable_checkpointing=True, plugins=[AtomicCheckpointIO()]
    )
    weights = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    with torch.no_grad():
        for parameter in module.parameters():  # the weights in memory must not be the ones that are tested
            parameter.zero_()
    data = MultiTaskDataModule(source, batch_size=12)
    found = trainer.test(module, data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)[0]
    again = make_module(method, source).eval()
    again.load_state_dict(weights)
    hits = dict.fromkeys("abc", 0.0)
    total = dict.fromkeys("abc", 0)
    with torch.no_grad():
        for batch in data.test_dataloader():
            output = again(batch.images, batch.rows)
            for name in hits:
                hits[name] += float((output.predictions[name].argmax(1) == batch.targets[name]).sum())
                total[name] += len(batch.targets[name])
    for name in hits:
        assert found[f"test/{name}/accuracy"] == pytest.approx(hits[name] / total[name])
    assert found["test/score"] == pytest.approx(sum(hits[n] / total[n] for n in hits) / 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_to_the_bit(method: str, make_source: Make, make_module: Make, fit: Make) -> None:
    states = []
    for _ in range(2):
        source = make_source("domains")
        module = make_module(method, source)
        fit(module, source, max_epochs=2)
        states.append(module.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
