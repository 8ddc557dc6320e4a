"""What the monitors say of a training on two processes is what they say on one, and the training is the same."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from mola_lightning.analysis.collect import RoutingCollector
from mola_lightning.architectures import HPS
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import DataError, Task
from mola_lightning.data import MultiTaskDataModule, ProportionalSampler, Source, TensorSource
from mola_lightning.routers import ConvRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule
from mola_lightning.training.callbacks import ConflictMonitor, RoutingMonitor
from mola_lightning.training.journal import MetricsJournal, read_journal

SHAPE, NAMES = (3, 8, 8), ("a", "b", "c")
BACKBONE = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
TWO = {"strategy": "ddp_find_unused_parameters_true", "devices": 2, "num_nodes": 1}
# Method, and what its images carry: one target, or several.
CASES = [("hps", "one"), ("mola_grad", "one"), ("mola_router", "one"), ("mola_grad", "several")]
COMPARED = CASES[2:]  # with a training that nobody watches
Row = dict[str, Any]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def source(targets: str) -> Source:
    """Of task c there is so little that a process often has no row of it: one image in validation."""
    sizes = {"train": (12, 8, 4), "val": (7, 9, 1)}
    if targets == "several":
        tasks, counts = [Task(name, 3) for name in NAMES], {"train": 24, "val": 13}
        images = {split: draw(n, *SHAPE, seed=n) for split, n in counts.items()}
        labels = {split: dict.fromkeys(NAMES, torch.arange(n) % 3) for split, n in counts.items()}
        few = {split: {"c": torch.arange(n) == 5} for split, n in counts.items()}
        return TensorSource.single_input(images, labels, tasks, few)
    parts = {
        split: {name: (draw(n, *SHAPE, seed=n), torch.arange(n) % 3) for name, n in zip(NAMES, counts, strict=True)}
        for split, counts in sizes.items()
    }
    return TensorSource(parts, num_classes=3)


def module_of(method: str, data: Source) -> MultiTaskModule:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.05)}
    if method == "hps":
        return MultiTaskModule(data.tasks, HPS(data.tasks, BACKBONE, SHAPE), **settings)
    settings |= {"rank": 2, "alpha": 4}
    if method == "mola_router":
        settings |= {"router": partial(ConvRouter, widths=(4, 8), blocks=1), "twd_weight": 0.0}
    module = {"mola_grad": MoLAGrad, "mola_router": MoLARouter}[method](data.tasks, BACKBONE, SHAPE, **settings)
    for name, parameter in module.named_parameters():
        if name.endswith("lora_B"):  # zero at the start: experts would not matter
            nn.init.normal_(parameter, std=0.1)
    return module


class Stage(Callback):
    """Norms use their running statistics where processes are compared with one; counts tasks without a row."""

    def __init__(self, fixed_norms: bool) -> None:
        self.fixed_norms, self.lacking = fixed_norms, 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: MultiTaskModule, batch: Any, batch_idx: int) -> None:
        self.lacking += len(NAMES) - len(batch.rows.present)
        for layer in module.modules() if self.fixed_norms else ():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()


class Broken(RoutingMonitor):
    """The last process finds weights that are no mixing weights, as of a router that diverged."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        if trainer.global_rank == 1:
            self._collector = Refusing(len(NAMES), max_rows=0)


class Refusing(RoutingCollector):
    def add(self, mixing: Tensor, task_ids: Tensor) -> None:
        raise DataError("mixing weights must be finite")


def monitors() -> list[Callback]:
    return [ConflictMonitor(every_n_steps=2), RoutingMonitor()]


def run(folder: Path, case: tuple[str, str], watch: list[Callback], fixed_norms: bool, settings: Row) -> Row:
    """Two epochs; what the journal in ``folder`` does not hold."""
    data, stage = source(case[1]), Stage(fixed_norms)
    module = module_of(case[0], data)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[stage, *watch],
        logger=MetricsJournal(folder),
        default_root_dir=folder,
        **settings,
    )
    trainer.fit(module, MultiTaskDataModule(data, batch_size=8, eval_batch_size=4, sampler=ProportionalSampler))
    state = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return {"state": state | {"rng": torch.get_rng_state()}, "lacking": stage.lacking}


def run_rank(rank: int, folder: Path) -> None:
    warnings.filterwarnings("ignore")
    found = {}
    for case in CASES:
        place = folder / "-".join(case)
        found[case] = {"fixed": run(place / "two", case, monitors(), True, TWO)}
    for case in COMPARED:
        found[case] |= {
            "watched": run(folder / "watched", case, monitors(), False, TWO),
            "plain": run(folder / "plain", case, [], False, TWO),
        }
    run(folder / "broken", CASES[2], [Broken()], False, TWO)
    torch.save(found, folder / f"rank{rank}")


@pytest.fixture(scope="module")
def folder(two_processes: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, and of one."""
    made = tmp_path_factory.mktemp("monitors")
    two_processes(run_rank, made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in CASES:
            run(made / "-".join(case) / "one", case, monitors(), True, {"devices": 1})
    return made


def ranks(folder: Path) -> list[Row]:
    return [torch.load(folder / f"rank{rank}", weights_only=True) for rank in (0, 1)]


def rows(folder: Path, start: str) -> list[Row]:
    """Of a monitor, without what others logged at the same time."""
    found = read_journal(folder / "metrics.jsonl")
    kept = [{k: v for k, v in row.items() if k.startswith(start) or k in ("epoch", "step")} for row in found]
    return [row for row in kept if len(row) > 2]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_processes_log_what_one_logs(folder: Path, case: tuple[str, str]) -> None:
    places = [folder / "-".join(case) / name for name in ("one", "two")]
    for start, count in (("conflict/", 3), ("routing/", 0 if case[0] == "hps" else 2)):
        one, two = (rows(place, start) for place in places)
        assert len(one) == len(two) == count
        for alone, together in zip(one, two, strict=True):
            assert together == pytest.approx(alone, abs=2e-4)


def test_the_rows_of_every_process_count(folder: Path) -> None:
    """The one image of task c is on one process only, and nothing of it is lost."""
    for row in rows(folder / "mola_grad-one" / "two", "routing/"):
        assert [row[f"routing/c/expert_{e}"] for e in range(3)] == [0, 0, 1]


@pytest.mark.parametrize("case", COMPARED, ids="-".join)
def test_the_training_is_the_same_bit_for_bit(folder: Path, case: tuple[str, str]) -> None:
    for rank in ranks(folder):
        watched, plain = rank[case]["watched"]["state"], rank[case]["plain"]["state"]
        assert watched.keys() == plain.keys()
        assert [name for name, value in plain.items() if not torch.equal(value, watched[name])] == []


def test_some_process_lacked_a_task(folder: Path) -> None:
    """Otherwise the comparison would leave out the hardest case."""
    for case in CASES:
        assert sum(rank[case]["fixed"]["lacking"] for rank in ranks(folder)) > 0


def test_a_router_that_diverged_on_one_process_is_passed_over_on_all(folder: Path) -> None:
    assert not rows(folder / "broken", "routing/")
    assert [row["epoch"] for row in read_journal(folder / "broken" / "metrics.jsonl") if "val/score" in row] == [0, 1]
