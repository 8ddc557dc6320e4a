from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mola_lightning.core import Batch, ConfigError, DataError, Regime
from mola_lightning.data import (
    BalancedSampler,
    Digits,
    MultiTaskDataModule,
    TemperatureSampler,
    TensorSource,
    auto_sampler,
)

CONF = Path(__file__).parents[2] / "conf"


def equal(a: Batch, b: Batch) -> bool:
    same_targets = all(torch.equal(a.targets[name], b.targets[name]) for name in a.targets)
    return torch.equal(a.images, b.images) and same_targets and a.rows.counts == b.rows.counts


def test_says_what_it_holds_before_setup(data: MultiTaskDataModule, digits: Digits) -> None:
    assert data.source is digits
    assert (data.tasks, data.regime, data.image_shape) == (digits.tasks, Regime.DOMAINS, (3, 28, 28))


def test_a_training_batch(data: MultiTaskDataModule) -> None:
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batch = next(iter(loader))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (16, 3, 28, 28)
    assert sum(batch.rows.counts.values()) == 16
    assert len(loader) == 180 // 16


def test_sizes(data: MultiTaskDataModule) -> None:
    assert data.sizes()["optdigits"] == {"train": 60, "val": 297, "test": 700}
    assert list(data.sizes()) == [task.name for task in data.tasks]


@pytest.mark.parametrize("augment", [0, 2])
def test_two_workers_load_what_the_main_process_loads(digits: Digits, augment: int) -> None:
    def epochs(num_workers: int) -> list[Batch]:
        source = Digits(num_train=digits.num_train, root=digits.root, augment=augment)
        data = MultiTaskDataModule(source, batch_size=16, num_workers=num_workers, seed=3)
        loader = data.train_dataloader()
        batches = []
        for epoch in (0, 1):
            loader.batch_sampler.set_epoch(epoch)
            batches += list(loader)
        return batches

    here, there = epochs(0), epochs(2)
    assert len(here) == len(there) == 22
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))


def test_loading_leaves_the_global_generator_alone(data: MultiTaskDataModule) -> None:
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_goes_on_where_its_state_says(data: MultiTaskDataModule) -> None:
    whole = data.train_dataloader()
    whole.batch_sampler.set_epoch(2)
    resumed = data.train_dataloader()
    resumed.load_state_dict({**whole.state_dict(), "batch": 4})
    rest = list(resumed)
    assert all(equal(a, b) for a, b in zip(rest, list(whole)[4:], strict=True))
    assert resumed.state_dict() == {"epoch": 2, "batch": 4}


def test_evaluation_visits_each_row_once_over_all_ranks(data: MultiTaskDataModule) -> None:
    dataset = data.dataset("val")
    alone = torch.cat([batch.images for batch in data.val_dataloader()])
    assert torch.equal(alone, torch.stack([dataset[i].image for i in range(len(dataset))]))
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        shares.append(torch.cat([batch.images for batch in data.val_dataloader()]))
    assert sum(map(len, shares)) == len(dataset)
    assert torch.equal(shares[0], alone[0::2])
    assert torch.equal(shares[1], alone[1::2])


def test_ranks_train_on_parts_of_the_same_batches(data: MultiTaskDataModule) -> None:
    whole = next(iter(data.train_dataloader()))
    parts = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        parts.append(next(iter(data.train_dataloader())).images)
    assert torch.equal(torch.cat(parts), whole.images)


class Steps(pl.LightningModule):
    """Counts what arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs, self.seen = [], {"train": [], "val": [], "test": []}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen["train"].append((self.current_epoch, batch.images.sum().item()))
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["val"].append(len(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen["test"].append(len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_with_it(data: MultiTaskDataModule, tmp_path: Path) -> None:
    model = Steps()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert (sum(model.seen["val"]), sum(model.seen["test"])) == (2 * 1497, 3100)
    loader, expected = data.train_dataloader(), []
    for epoch in (0, 1):  # Lightning has told the sampler of the second epoch
        loader.batch_sampler.set_epoch(epoch)
        expected += [(epoch, batch.images.sum().item()) for batch in loader]
    assert model.seen["train"] == expected


def images(n: int) -> torch.Tensor:
    return torch.zeros(n, 1, 4, 4)


def test_a_task_without_training_images_is_named() -> None:
    labels = torch.zeros(8, dtype=torch.long)
    source = TensorSource({"train": {"full": (images(8), labels), "bare": (images(0), labels[:0])}}, num_classes=2)
    with pytest.raises(DataError, match=r"no training image for task 'bare'.*leave the task out"):
        MultiTaskDataModule(source, batch_size=2).train_dataloader()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_label_out_of_range_is_found_at_setup(split: str) -> None:
    good = {"a": (images(4), torch.tensor([0, 1, 0, 1]))}
    splits = {"train": good, "val": good, "test": good, split: {"a": (images(4), torch.tensor([0, 1, 2, 1]))}}
    with pytest.raises(DataError, match=f"found 2 in the {split} split"):
        MultiTaskDataModule(TensorSource(splits, num_classes=2), batch_size=2).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"eval_batch_size": 0}, "eval_batch_size"),
        ({"sampler": "balanced"}, "sampler must be a sampler's class, such as BalancedSampler, got 'balanced'"),
        ({"num_workers": -1}, "num_workers"),
        ({"seed": "three"}, "seed must be an integer"),
    ],
)
def test_impossible_options_are_refused(digits: Digits, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiTaskDataModule(digits, **options)


def test_a_source_is_needed() -> None:
    with pytest.raises(ConfigError, match="source must be a Source"):
        MultiTaskDataModule([1, 2, 3])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "sampler").glob("*.yaml")))
def test_the_configs_build_it(name: str, cache: Path) -> None:
    config = OmegaConf.create(
        {
            "data": OmegaConf.load(CONF / "data" / "digits.yaml"),
            "sampler": OmegaConf.load(CONF / "sampler" / f"{name}.yaml"),
            "seed": 7,
            "paths": {"cache": str(cache)},
        }
    )
    data = instantiate(config.data)
    assert (data.seed, data.source.root, data.eval_batch_size) == (7, cache, 256)
    plain = Digits(root=cache)
    assert all(vars(data.source)[key] == vars(plain)[key] for key in ("domains", "num_train", "rotations", "seed"))
    assert data.image_shape == plain.image_shape
    sampler = data.train_dataloader().batch_sampler
    kind = "balanced" if name == "auto" else name
    assert type(sampler).__name__.lower().startswith(kind.replace("_", ""))
    assert (sampler.batch_size, sampler.seed) == (64, 7)


def test_samplers_are_classes_or_partials_of_them(digits: Digits) -> None:
    for given, kind in (
        (BalancedSampler, BalancedSampler),
        (partial(TemperatureSampler, temperature=3.0), TemperatureSampler),
        (auto_sampler, BalancedSampler),
    ):
        data = MultiTaskDataModule(digits, batch_size=16, sampler=given)
        assert isinstance(data.train_dataloader().batch_sampler, kind)


def test_an_epoch_can_be_repeated() -> None:
    data = MultiTaskDataModule(Digits(num_train=40, augment=2), batch_size=32, repeat_epoch=True)
    loader = data.train_dataloader()

    def images(epoch: int) -> torch.Tensor:
        loader.batch_sampler.set_epoch(epoch)
        return torch.cat([batch.images for batch in loader])

    assert torch.equal(images(0), images(3))
