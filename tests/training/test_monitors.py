"""What watches a training must not change it, and must say what a plain loop says."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from mola_lightning.analysis import conflict_statistics, draw_run, task_gradients
from mola_lightning.analysis.plots import mixing_by_epoch
from mola_lightning.architectures import HPS
from mola_lightning.backbones import create_small_resnet
from mola_lightning.balancers import DWA, PCGrad
from mola_lightning.core import ConfigError
from mola_lightning.data import MultiTaskDataModule
from mola_lightning.training import MoLAGrad, MultiTaskModule
from mola_lightning.training.callbacks import ConflictMonitor, RoutingMonitor
from mola_lightning.training.journal import MetricsJournal, read_journal

Make = Callable[..., Any]


def monitors() -> list[pl.Callback]:
    return [ConflictMonitor(every_n_steps=2), RoutingMonitor()]


def with_dropout(**given: Any) -> nn.Module:
    """A backbone that draws random numbers in each pass, and has batch norms."""
    net = nn.Sequential(create_small_resnet(widths=(4, 8), blocks=(1, 1), **given), nn.Dropout(0.3))
    net.num_features = 8
    return net


def state_after(
    module: MultiTaskModule, source: Any, fit: Make, callbacks: list[pl.Callback], **trainer: Any
) -> dict[str, Any]:
    torch.manual_seed(7)
    fit(module, source, callbacks=callbacks, max_epochs=2, **trainer)
    return {**copy.deepcopy(module.state_dict()), "rng": torch.get_rng_state()}


def same(first: Any, second: Any) -> bool:
    """Bit for bit, through the dicts that balancers keep their state in."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[name]) for name, value in first.items())
    return first == second


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("regime", ["multi_input", "single_input"])
@pytest.mark.parametrize("method", ["hps", "mola_grad", "mola_router", "dropout"])
def test_a_training_is_the_same_bit_for_bit(
    method: str, regime: str, accumulate: int, make_source: Make, make_module: Make, fit: Make
) -> None:
    source = make_source(regime)

    def build() -> MultiTaskModule:
        if method != "dropout":
            return make_module(method, source)
        torch.manual_seed(0)
        return MultiTaskModule(source.tasks, HPS(source.tasks, with_dropout, source.image_shape))

    settings = {"accumulate_grad_batches": accumulate}
    without = state_after(build(), source, fit, [], **settings)
    watched = state_after(build(), source, fit, monitors(), **settings)
    assert same(without, watched)


@pytest.mark.parametrize("balancer", ["gradient", "scalar"])
def test_whatever_the_balancer(balancer: str, make_source: Make, make_module: Make, fit: Make) -> None:
    source, kind = make_source("domains"), {"gradient": PCGrad, "scalar": DWA}[balancer]
    states = [
        state_after(make_module("mola_router", source, balancer=kind), source, fit, callbacks)
        for callbacks in ([], monitors())
    ]
    assert same(*states)


def rows_with(folder: Path, start: str) -> list[dict[str, Any]]:
    return [row for row in read_journal(folder / "metrics.jsonl") if any(key.startswith(start) for key in row)]


def test_conflict_is_that_of_the_batch(make_source: Make, make_module: Make, fit: Make, tmp_path: Path) -> None:
    source = make_source("domains")
    fit(
        make_module("hps", source),
        source,
        logger=MetricsJournal(tmp_path),
        callbacks=[ConflictMonitor(every_n_steps=5)],
    )
    logged = rows_with(tmp_path, "conflict/")
    assert [row["step"] for row in logged] == [0, 5, 10]
    module, data = make_module("hps", source), MultiTaskDataModule(source, batch_size=12)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    losses, _ = module.train().task_losses(module(batch.images, batch.rows), batch.targets)
    gradients = task_gradients(dict(zip("abc", losses, strict=True)), module.architecture.shared_parameters())
    expected = conflict_statistics(gradients, list("abc"))
    for name in ("mean_cosine", "share_negative", "mean_magnitude_similarity"):
        assert logged[0][f"conflict/{name}"] == pytest.approx(expected[name], abs=1e-5)
    assert logged[0]["conflict/a~c/cosine"] == pytest.approx(expected["cosine"][0][2], abs=1e-5)
    assert logged[0]["epoch"] == 0


def test_what_has_no_conflict_logs_none(make_source: Make, make_module: Make, fit: Make, tmp_path: Path) -> None:
    source = make_source("domains")
    fit(make_module("single_task", source), source, logger=MetricsJournal(tmp_path), callbacks=monitors())
    assert not rows_with(tmp_path, "conflict/")
    assert not rows_with(tmp_path, "routing/")


def test_routing_by_task_id_is_logged_as_such(make_source: Make, fit: Make, tmp_path: Path) -> None:
    source = make_source("multi_input")
    module = MoLAGrad(
        source.tasks, lambda **g: create_small_resnet(widths=(4,), blocks=(2,), **g), (3, 8, 8), rank=2, alpha=2
    )
    fit(
        module,
        source,
        max_epochs=2,
        logger=MetricsJournal(tmp_path),
        num_sanity_val_steps=1,
        callbacks=[RoutingMonitor()],
    )
    found = rows_with(tmp_path, "routing/")
    assert [row["epoch"] for row in found] == [0, 1]
    for row in found:
        assert row["routing/normalised_mutual_information"] == pytest.approx(1)
        assert row["routing/dead_experts"] == 0
        assert [row[f"routing/b/expert_{e}"] for e in range(3)] == [0, 1, 0]
    panels = mixing_by_epoch(pd.read_csv(tmp_path / "metrics.csv"), ["a", "b", "c"])
    assert [title for title, _ in panels] == ["epoch 1", "epoch 2"]
    np.testing.assert_array_equal(panels[1][1], np.eye(3))


def test_figures_over_a_training(make_source: Make, make_module: Make, fit: Make, tmp_path: Path) -> None:
    source = make_source("domains")
    fit(
        make_module("mola_router", source),
        source,
        max_epochs=2,
        logger=MetricsJournal(tmp_path),
        callbacks=monitors(),
    )
    drawn = {path.stem for path in draw_run(tmp_path)}
    assert drawn == {"learning_curves", "conflict", "routing_over_training"}


def test_many_epochs_are_thinned() -> None:
    metrics = pd.DataFrame({"epoch": range(30), "routing/a/expert_0": 0.5, "routing/a/expert_1": 0.5})
    titles = [title for title, _ in mixing_by_epoch(metrics, ["a"])]
    assert len(titles) == 8
    assert titles[0] == "epoch 1"
    assert titles[-1] == "epoch 30"
    assert mixing_by_epoch(metrics[["epoch"]], ["a"]) == []


def test_tensorboard_gets_the_mixing_weights(make_source: Make, make_module: Make, fit: Make, tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    source = make_source("domains")
    logger = pl.loggers.TensorBoardLogger(str(tmp_path), name="tb", version="")
    fit(make_module("mola_router", source), source, max_epochs=2, logger=logger, callbacks=monitors())
    events = accumulators.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [image.step for image in events.Images("routing/mixing")] == [12, 24]
    assert events.Scalars("conflict/mean_cosine")


def test_a_bad_interval() -> None:
    with pytest.raises(ConfigError, match="every_n_steps must be an integer >= 1, got 0"):
        ConflictMonitor(every_n_steps=0)
