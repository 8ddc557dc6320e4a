"""Two processes with half of each batch against one with all of it: gradients, weights and state are the same."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from mola_lightning.core import TaskRows
from mola_lightning.data import MultiTaskDataModule, Source
from mola_lightning.training import MultiTaskModule

NAMES = ["gradvac", "graddrop", "excess_mtl", "gradnorm", "uw", "si", "famo", "mgda_ub"]
Runs = dict[str, dict[str, Any]]


class Watch(Callback):
    """Keeps each step's gradients; normalisation uses its running statistics, as those of half a batch differ."""

    def __init__(self) -> None:
        self.found: list[dict[str, Tensor]] = []
        self.lacking = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: MultiTaskModule, batch: Any, batch_idx: int) -> None:
        rows: TaskRows = batch.rows
        self.lacking += len(rows.names) - len(rows.present)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: MultiTaskModule, optimizer: object) -> None:
        self.found.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})


def run_all(make: Callable[[str], tuple[MultiTaskModule, Source]], path: Path, trainer: dict[str, Any]) -> None:
    """Two steps with each balancer; what came of it is written to ``path``."""
    warnings.filterwarnings("ignore")
    runs: Runs = {}
    for name in NAMES:
        module, source = make(name)
        watch = Watch()
        settings = {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0}
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        fitter = pl.Trainer(
            **settings,
            **quiet,
            **trainer,
            use_distributed_sampler=False,
            callbacks=[watch],
            default_root_dir=path.parent,
        )
        fitter.fit(module, MultiTaskDataModule(source, batch_size=8, seed=3))
        state = {n: v.clone() for n, v in module.state_dict().items() if isinstance(v, Tensor)}
        runs[name] = {"gradients": watch.found, "state": state, "lacking": watch.lacking}
    torch.save(runs, path)


def run_rank(rank: int, make: Callable[[str], Any], folder: Path) -> None:
    run_all(make, folder / f"rank{rank}", {"strategy": "ddp", "devices": 2, "num_nodes": 1})


@pytest.fixture(scope="module")
def runs(
    source: Source,
    single_input: Source,
    make_module: Callable[..., Any],
    make_balancer: Callable[..., Any],
    two_processes: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Runs]:
    """Of one process, then of the two ranks."""
    folder = tmp_path_factory.mktemp("ddp")

    def make(name: str) -> tuple[MultiTaskModule, Source]:
        data = single_input if name.endswith("_ub") else source
        method = "hps" if name.endswith("_ub") else "mola_grad"
        return make_module(method, data, balancer=make_balancer(name)), data

    two_processes(run_rank, make, folder)
    run_all(make, folder / "alone", {"devices": 1})
    return [torch.load(folder / name, weights_only=True) for name in ("alone", "rank0", "rank1")]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, runs: list[Runs]) -> None:
    alone, *ranks = (run[name] for run in runs)
    assert len(alone["gradients"]) == 2
    for rank in ranks:
        for step, (found, wanted) in enumerate(zip(rank["gradients"], alone["gradients"], strict=True)):
            assert found.keys() == wanted.keys()
            for n, gradient in wanted.items():
                scale = float(gradient.abs().max()) + 1e-6
                assert torch.allclose(found[n], gradient, atol=2e-4 * scale, rtol=1e-3), (step, n)


@pytest.mark.parametrize("name", NAMES)
def test_the_processes_stay_equal_to_the_bit(name: str, runs: list[Runs]) -> None:
    first, second = (run[name]["state"] for run in runs[1:])
    assert first.keys() == second.keys()
    trained = [n for n in first if not n.startswith("meters")]  # these add up over processes when they report
    assert all(torch.equal(first[n], second[n]) or first[n].isnan().all() for n in trained)


def test_some_process_lacked_a_task(runs: list[Runs]) -> None:
    """Otherwise the comparison would leave out the hardest case."""
    assert sum(run[NAMES[0]]["lacking"] for run in runs[1:]) > 0
