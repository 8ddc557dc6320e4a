"""Images from files: the same batches for any number of workers, and a word about each that is left out."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from mola_lightning.cli.errors import explain
from mola_lightning.core import Batch, Collate, ConfigError, DataError, Regime, Sample, Task
from mola_lightning.data import (
    BalancedSampler,
    ImageTransforms,
    Manifest,
    ManifestDataset,
    ManifestSource,
    MultiTaskDataModule,
    make_task,
)
from mola_lightning.data.decode import ImageError, read_image
from mola_lightning.data.seeded import generators_restored

TASKS = (make_task("a", num_outputs=3), make_task("b", num_outputs=2))
SIZES = [(20, 12), (16, 16), (9, 30), (8, 8)]  # width, height
AUGMENTED = ImageTransforms(
    8, train=[v2.RandomResizedCrop(8, scale=(0.5, 1)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.4)]
)


class Folder(ManifestSource):
    """Twelve images of each of two tasks; validation is cut from them."""

    expects = "It is made by a test."

    def manifests(self) -> dict:
        names = [f"image {i}.png" for i in range(12)]
        items = {
            "a": ([f"a/{n}" for n in names], np.arange(12) % 3),
            "b": ([f"b/{n}" for n in names], np.arange(12) % 2),
        }
        return {"train": Manifest.of_domains(items, self.root)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, image_files: ModuleType) -> Path:
    root = tmp_path_factory.mktemp("images")
    for t, task in enumerate("ab"):
        for i in range(12):
            image_files.write_picture(root / task / f"image {i}.png", *SIZES[i % 4], seed=100 * t + i)
    return root


@pytest.fixture
def source(folder: Path) -> Folder:
    return Folder(TASKS, Regime.MULTI_INPUT, folder, AUGMENTED, val_fraction=0.25)


def manifest(folder: Path) -> Manifest:
    """Four images of both tasks: row 1 has both targets, row 3 a vector."""
    paths = [f"a/image {i}.png" for i in range(4)]
    targets = {
        "label": (np.array([0, 1, 2]), np.array([2, 0, 1])),
        "vector": (np.array([1, 3]), np.array([[1.0, 2], [3, 4]])),
    }
    return Manifest(paths, targets, folder)


def test_samples_have_the_pixels_and_targets_of_their_files(folder: Path) -> None:
    tasks = (make_task("label", num_outputs=3), make_task("vector", "regression", 2), make_task("other", num_outputs=2))
    transforms = ImageTransforms(8)
    dataset = ManifestDataset(tasks, manifest(folder), transforms)
    assert (len(dataset), dataset.image_shape, dataset.task_ids()) == (4, (3, 8, 8), None)
    assert dataset.task_sizes() == {"label": 3, "vector": 2, "other": 0}
    assert dataset.labels()["label"].tolist() == [2, 0, 1]
    assert dataset.bad() == []
    keys = [3, (0, 1), 0]
    samples = dataset.__getitems__(keys)
    for key, sample in zip(keys, samples, strict=True):
        row = key[1] if isinstance(key, tuple) else key
        pixels = transforms.eval(read_image(folder / f"a/image {row}.png"))
        assert torch.equal(sample.image, transforms.normalize(pixels[None])[0])
        assert torch.equal(sample.image, dataset[key].image)
    assert [sorted(sample.targets) for sample in samples] == [["vector"], ["label", "vector"], ["label"]]
    batch = Collate(tasks)(samples)
    assert (batch.targets["label"].tolist(), batch.targets["label"].dtype) == ([0, 2], torch.int64)
    assert (batch.targets["vector"].tolist(), batch.targets["vector"].dtype) == ([[3, 4], [1, 2]], torch.float32)


def test_only_training_rows_with_their_epoch_are_augmented(folder: Path) -> None:
    tasks = (make_task("label", num_outputs=3), make_task("vector", "regression", 2))
    plain, training = (ManifestDataset(tasks, manifest(folder), AUGMENTED, training=t) for t in (False, True))
    assert torch.equal(plain[(5, 2)].image, plain[2].image)
    assert torch.equal(training[2].image, plain[2].image)
    assert not torch.equal(training[(5, 2)].image, plain[2].image)
    assert torch.equal(training[(5, 2)].image, training.__getitems__([(5, 0), (5, 2)])[1].image)
    with generators_restored():
        pixels = AUGMENTED.augment(read_image(folder / "a/image 2.png"), seed=0, epoch=5, index=2)
    assert torch.equal(training[(5, 2)].image, AUGMENTED.normalize(pixels[None])[0])


def equal(a: Batch, b: Batch) -> bool:
    same_targets = all(torch.equal(a.targets[name], b.targets[name]) for name in a.targets)
    return torch.equal(a.images, b.images) and same_targets and a.rows.counts == b.rows.counts


@pytest.mark.parametrize("cache", [None, "disk", "ram"])
def test_any_number_of_workers_loads_the_same_batches(cache: str | None, folder: Path, tmp_path: Path) -> None:
    def batches(num_workers: int) -> list[Batch]:
        source = Folder(TASKS, Regime.MULTI_INPUT, folder, AUGMENTED, 0.25, cache=cache, cache_root=tmp_path)
        data = MultiTaskDataModule(source, batch_size=4, sampler=BalancedSampler, num_workers=num_workers, seed=3)
        data.prepare_data()
        loader, middle = data.train_dataloader(), data.train_dataloader()
        middle.load_state_dict({"epoch": 1, "batch": 2})
        found = list(loader)
        loader.batch_sampler.set_epoch(1)
        return [*found, *loader, *middle, *data.val_dataloader()]

    here = batches(0)
    if cache is None:
        assert all(equal(a, b) for a, b in zip(here, batches(2), strict=True))
        assert all(equal(a, b) for a, b in zip(here[6:8], here[8:10], strict=True))  # resumed in mid-epoch
        assert not equal(here[0], here[4])
    else:  # and with a cache
        data = MultiTaskDataModule(
            Folder(TASKS, Regime.MULTI_INPUT, folder, AUGMENTED, 0.25), 4, sampler=BalancedSampler, seed=3
        )
        assert all(equal(a, b) for a, b in zip(here, data.train_dataloader(), strict=False))
        assert all(equal(a, b) for a, b in zip(here, batches(2), strict=True))


def test_loading_leaves_the_global_generators_alone(source: Folder) -> None:
    before = torch.get_rng_state()
    list(MultiTaskDataModule(source, batch_size=4).train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_transforms_of_each_task(folder: Path) -> None:
    items = {"b": (["b/image 0.png"], np.array([1])), "a": (["a/image 0.png", "a/image 1.png"], np.array([0, 2]))}
    both = {"a": ImageTransforms(8), "b": ImageTransforms(8, mean=0.0, std=1.0)}
    dataset = ManifestDataset(TASKS, Manifest.of_domains(items, folder), both)
    assert dataset.task_ids().tolist() == [1, 0, 0]  # in the order of the tasks, whatever that of the manifest
    images = [sample.image for sample in dataset.__getitems__([1, 0, 2])]
    paths, which = ["a/image 0.png", "b/image 0.png", "a/image 1.png"], "aba"
    for image, path, task in zip(images, paths, which, strict=True):
        pixels = both[task].eval(read_image(folder / path))
        assert torch.equal(image, both[task].normalize(pixels[None])[0])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: {"label": ImageTransforms(8)},
            ConfigError,
            r"given for \['label'\], the tasks are \['label', 'vector'\]",
        ),
        (lambda: {"label": ImageTransforms(8), "vector": ImageTransforms(9)}, ConfigError, "images of one shape"),
        (lambda: {"label": ImageTransforms(8), "vector": ImageTransforms(8)}, ConfigError, "images of one task each"),
        (lambda: [v2.Resize(8)], ConfigError, "transforms must be ImageTransforms, or task name"),
    ],
)
def test_transforms_that_do_not_fit(make: Callable, error: type[Exception], message: str, folder: Path) -> None:
    tasks = (make_task("label", num_outputs=3), make_task("vector", "regression", 2))
    with pytest.raises(error, match=message):
        ManifestDataset(tasks, manifest(folder), make())


def test_targets_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(DataError, match=r"unknown tasks \['vector'\]"):
        ManifestDataset((Task("label", 3),), manifest(folder), ImageTransforms(8))
    bare = Manifest(["p", "q"], {"label": (np.array([1]), np.array([0]))})
    with pytest.raises(DataError, match="1 of 2 images carry no target"):
        ManifestDataset((Task("label", 3),), bare, ImageTransforms(8))


# ---------------------------------------------------------------------------------------------------- unreadable images


@pytest.fixture
def broken(tmp_path: Path, image_files: ModuleType) -> Path:
    """The folder again, with two training images of task a that cannot be read."""
    for t, task in enumerate("ab"):
        for i in range(12):
            image_files.write_picture(tmp_path / task / f"image {i}.png", *SIZES[i % 4], seed=100 * t + i)
    (tmp_path / "a/image 3.png").unlink()
    (tmp_path / "a/image 4.png").write_bytes(b"")
    return tmp_path


def test_a_bad_image_stops_the_run_with_its_name(broken: Path) -> None:
    for num_workers in (0, 1):
        source = Folder(TASKS, Regime.MULTI_INPUT, broken, AUGMENTED, 0.25)
        loader = MultiTaskDataModule(source, batch_size=18, num_workers=num_workers).train_dataloader()
        with pytest.raises(ImageError, match=r"a/image [34]\.png: (missing|empty)") as caught:
            next(iter(loader))
        message = explain(caught.value) or ""
        assert message.startswith("cannot read the image")  # also where torch puts a worker's traceback before it
        assert message.endswith("on_bad_image=skip.")


class Counts(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows = 0

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.rows += len(batch)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cache", [None, "disk"])
def test_bad_images_are_left_out_and_told(
    num_workers: int, cache: str | None, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Folder(
        TASKS,
        Regime.MULTI_INPUT,
        broken,
        AUGMENTED,
        0.25,
        on_bad_image="skip",
        cache=cache,
        cache_root=broken / "cache",
    )
    data = MultiTaskDataModule(source, batch_size=6, num_workers=num_workers)
    model = Counts()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=broken,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="mola_lightning"):
        trainer.fit(model, data)
    dataset = data.dataset("train")
    paths = [str(dataset.manifest.path(row)) for row in range(len(dataset))]
    expected = {str(broken / "a/image 3.png"): "missing", str(broken / "a/image 4.png"): "empty"}
    bad = {path: reason for path, reason in expected.items() if path in paths}
    assert bad
    assert len(dataset) == 18
    assert dict(dataset.bad()) == bad
    assert model.rows == 2 * (18 - len(bad))
    told = [message for message in caplog.messages if "of the train split could not be read" in message]
    listed = ", ".join(f"{path} ({reason})" for path, reason in dataset.bad())
    assert told == [f"{len(bad)} of 18 images of the train split could not be read and were left out: {listed}"]


def test_a_batch_without_an_image_is_an_error(broken: Path) -> None:
    items = {"a": (["a/image 3.png", "a/image 4.png", "a/image 5.png"], np.array([0, 1, 2]))}
    dataset = ManifestDataset(TASKS[:1], Manifest.of_domains(items, broken), AUGMENTED, True, on_bad_image="skip")
    kept: list[Sample] = dataset.__getitems__([(0, 0), (0, 2)])
    assert [sample.targets["a"].item() for sample in kept] == [2]
    with pytest.raises(DataError, match=r"none of the 2 images of a batch.*a/image 3\.png \(missing\)"):
        dataset.__getitems__([(0, 0), (0, 1)])


def test_many_bad_images_are_counted(broken: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (broken / "b").iterdir():
        path.write_bytes(b"no image")
    source = Folder(TASKS, Regime.MULTI_INPUT, broken, AUGMENTED, 0.1, on_bad_image="skip")
    data = MultiTaskDataModule(source, batch_size=19)
    batches = list(data.train_dataloader())
    data.teardown("fit")
    bad = data.dataset("train").bad()
    assert sum(len(batch) for batch in batches) + len(bad) <= len(data.dataset("train"))
    assert caplog.messages[0].endswith("left out, as further such images will be")
    assert caplog.messages[-1].startswith(f"{len(bad)} of {len(data.dataset('train'))} images of the train split")
    assert caplog.messages[-1].endswith(f"(not an image) and {len(bad) - 10} more")
