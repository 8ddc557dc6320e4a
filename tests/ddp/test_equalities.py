"""Two processes with half of each batch against one with all of it, for every sharing scheme."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor, nn

from mola_lightning.cli.build import build_module
from mola_lightning.core import TaskRows
from mola_lightning.data import MultiTaskDataModule, TensorSource
from mola_lightning.training import MultiTaskModule

SHAPE = (3, 8, 8)
SCHEMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/architecture").glob("*.yaml"))
SMALL = (
    "backbone.widths=[4,4,8]", "optimizer=sgd", "optimizer.lr=0.01", "optimizer.momentum=0", "scheduler=none",
    "paths.run=/nowhere",
)  # fmt: skip
TWO = {"strategy": "ddp_find_unused_parameters_true", "devices": 2, "num_nodes": 1}
Found = dict[str, Any]


class Watch(Callback):
    """Keeps the first step's gradients. Norms use their running statistics, as those of half a batch differ."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.lacking = 0

    def on_train_start(self, trainer: pl.Trainer, module: MultiTaskModule) -> None:
        torch.manual_seed(7)  # for what a scheme draws: Lightning has seeded anew where it joined processes

    def on_train_batch_start(self, trainer: pl.Trainer, module: MultiTaskModule, batch: Any, batch_idx: int) -> None:
        rows: TaskRows = batch.rows
        self.lacking += len(rows.names) - len(rows.present)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: MultiTaskModule, optimizer: object) -> None:
        if not self.gradients:
            self.gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def source() -> TensorSource:
    """Three domains; batches of 8 rows, in proportion, so that half a batch lacks one now and then."""
    splits: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"train": {}, "val": {}}
    for s, split in enumerate(splits):
        for t, task in enumerate("abc"):
            draw, count = torch.Generator().manual_seed(10 * s + t), 8 if split == "train" else 7 + t
            labels = torch.randint(3, (count,), generator=draw)
            splits[split][task] = (torch.randn(count, *SHAPE, generator=draw), labels)
    return TensorSource(splits, num_classes=3)


def configs() -> dict[str, DictConfig]:
    """Of every scheme, small; TwD compares the images of both processes."""
    found = {}
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        for name in SCHEMES:
            cfg = found[name] = compose("train", [f"architecture={name}", *SMALL])
            if "widths" in cfg.get("router", {}):
                cfg.router.widths, cfg.router.blocks = [4, 4], 1
            if "twd" in (cfg.auxiliary or {}):
                cfg.auxiliary.twd.gather = True
            if name == "ltb":
                cfg.architecture.warmup = 0  # after which it draws trees
    return found


def run_all(made: dict[str, DictConfig], path: Path, settings: dict[str, Any]) -> None:
    """Two epochs of each scheme, then validated; what came of it is written to ``path``."""
    warnings.filterwarnings("ignore")
    data, found = source(), {}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    for name, cfg in made.items():
        watch, rows = Watch(), MultiTaskDataModule(data, batch_size=8, eval_batch_size=4, seed=3)
        module = build_module(cfg, rows)
        for parameter_name, parameter in module.named_parameters():
            if parameter_name.endswith("lora_B"):  # zero at the start, which would hide the experts' gradients
                nn.init.normal_(parameter, std=0.1)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            check_val_every_n_epoch=2,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            callbacks=[watch],
            default_root_dir=path.parent,
            **quiet,
            **settings,
        )
        trainer.fit(module, rows)
        state = {n: v.clone() for n, v in module.state_dict().items() if isinstance(v, Tensor)}
        measured = {k: v.clone() for k, v in trainer.callback_metrics.items()}
        found[name] = {"gradients": watch.gradients, "state": state, "measured": measured, "lacking": watch.lacking}
    torch.save(found, path)


def run_rank(rank: int, made: dict[str, DictConfig], folder: Path) -> None:
    run_all(made, folder / f"rank{rank}", TWO)


@pytest.fixture(scope="module")
def runs(two_processes: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Of one process, then of the two."""
    folder, made = tmp_path_factory.mktemp("ddp"), configs()
    two_processes(run_rank, made, folder)
    run_all(made, folder / "alone", {"devices": 1})
    return [torch.load(folder / name, weights_only=True) for name in ("alone", "rank0", "rank1")]


def near(found: Tensor, wanted: Tensor, scale: float | None = None) -> bool:
    """To 1e-5 of the largest entry, or of ``scale``, but for the rounding of sums."""
    if not wanted.numel():
        return True
    largest = float(wanted.abs().max()) if scale is None else scale
    return float((found - wanted).abs().max()) <= 1e-5 * largest + 1e-7


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_of_a_step_equal_those_of_one_process(name: str, runs: list[Found]) -> None:
    alone, *ranks = (run[name]["gradients"] for run in runs)
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    assert largest > 0
    for rank in ranks:
        assert rank.keys() == alone.keys()
        assert [n for n, wanted in alone.items() if not near(rank[n], wanted, largest)] == []


@pytest.mark.parametrize("name", SCHEMES)
def test_two_epochs_end_at_the_weights_of_one_process(name: str, runs: list[Found]) -> None:
    alone, *ranks = (run[name]["state"] for run in runs)
    for rank in ranks:
        trained = [n for n, v in alone.items() if v.is_floating_point() and not n.startswith("meters")]
        assert [n for n in trained if not near(rank[n], alone[n])] == []


@pytest.mark.parametrize("name", SCHEMES)
def test_measured_over_all_rows_and_each_once(name: str, runs: list[Found]) -> None:
    """Of tasks with 7, 8 and 9 rows, in batches of 4, an average of averages would be wrong."""
    alone, *ranks = (run[name]["measured"] for run in runs)
    assert {"val/mean/accuracy", "train/loss"} <= alone.keys()
    for rank in ranks:
        assert rank.keys() == alone.keys()
        assert {n: (float(rank[n]), float(v)) for n, v in alone.items() if not near(rank[n], v)} == {}


def test_some_process_lacked_a_task(runs: list[Found]) -> None:
    """Otherwise the comparison would leave out the hardest case."""
    assert sum(run["hps"]["lacking"] for run in runs[1:]) > 0
