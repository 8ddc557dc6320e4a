import pytest
import torch
from torch.nn import functional as F

from mola_lightning.core import ConfigError, DataError, Regime, Task
from mola_lightning.data import InMemoryDataset, MultiTaskDataModule, Normalize, RandomShift, TensorSource


def pair(n: int, base: float, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that hold their own number, so that a mixed-up row is seen."""
    values = base + torch.arange(n, dtype=torch.float32)
    return values[:, None, None, None].expand(n, 1, 4, 4).clone(), torch.arange(n) % classes


def test_rows_keep_their_task_image_and_label() -> None:
    source = TensorSource({"train": {"a": pair(5, 0), "b": pair(4, 100)}}, num_classes=3)
    assert (source.regime, source.image_shape) == (Regime.DOMAINS, (1, 4, 4))
    dataset = source.dataset("train")
    assert dataset.task_ids().tolist() == [0] * 5 + [1] * 4
    order = [7, 0, 8, 4]
    for index, sample in zip(order, dataset.__getitems__(order), strict=True):
        name, base, row = ("a", 0, index) if index < 5 else ("b", 100, index - 5)
        assert sample.image[0, 0, 0] == base + row
        assert {key: int(value) for key, value in sample.targets.items()} == {name: row % 3}
        alone = dataset[index]
        assert torch.equal(alone.image, sample.image)
        assert alone.targets == sample.targets


def test_tasks_may_have_label_spaces_of_their_own() -> None:
    source = TensorSource({"train": {"a": pair(5, 0), "b": pair(4, 9, 2)}}, num_classes={"a": 3, "b": 2})
    assert source.regime is Regime.MULTI_INPUT
    assert [task.num_outputs for task in source.tasks] == [3, 2]


def test_a_split_may_lack_a_task() -> None:
    both = {"a": pair(5, 0), "b": pair(4, 9)}
    source = TensorSource({"train": both, "val": {"b": pair(3, 7)}, "test": both}, num_classes=3)
    data = MultiTaskDataModule(source, batch_size=4)
    assert data.sizes() == {"a": {"train": 5, "val": 0, "test": 5}, "b": {"train": 4, "val": 3, "test": 4}}
    assert next(iter(data.val_dataloader())).rows.present == ("b",)


def test_partially_annotated_rows() -> None:
    tasks = [Task("classes", 3), Task("depth", 1, discrete=False)]
    depth = torch.rand(6, 1, 4, 4)
    known = torch.tensor([True, False, True, True, False, True])
    targets = {"classes": torch.arange(6) % 3, "depth": depth}
    pictures = {"train": pair(6, 0)[0], "test": pair(6, 0)[0]}
    source = TensorSource.single_input(
        pictures, {"train": targets, "test": {"depth": depth}}, tasks, {"train": {"depth": known}}
    )
    assert source.regime is Regime.SINGLE_INPUT
    dataset = source.dataset("train")
    assert dataset.task_ids() is None
    assert dataset.task_sizes() == {"classes": 6, "depth": 4}
    data = MultiTaskDataModule(source, batch_size=6)
    batch = next(iter(data.train_dataloader()))
    row_ids = batch.images[:, 0, 0, 0].long()
    assert torch.equal(batch.targets["classes"], row_ids[batch.rows["classes"]] % 3)
    assert torch.equal(batch.targets["depth"], depth[row_ids[batch.rows["depth"]]])
    assert known[row_ids[batch.rows["depth"]]].all()
    assert source.dataset("test").task_sizes() == {"classes": 0, "depth": 6}


def test_bytes_become_floats_and_labels_become_int64() -> None:
    raw = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    source = TensorSource({"train": {"a": (raw, torch.tensor([0, 1, 0], dtype=torch.uint8))}}, num_classes=2)
    samples = source.dataset("train").__getitems__([0, 1, 2])
    assert torch.stack([s.image for s in samples]).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert {s.targets["a"].dtype for s in samples} == {torch.int64}


def test_normalize() -> None:
    normalize = Normalize(mean=[0.1, 0.5], std=[0.2, 0.25])
    raw = torch.randint(256, (3, 2, 5, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.5]).reshape(2, 1, 1), torch.tensor([0.2, 0.25]).reshape(2, 1, 1)
    assert torch.allclose(normalize(raw), (raw / 255 - mean) / std, atol=1e-6)
    assert torch.allclose(normalize(raw / 255), (raw / 255 - mean) / std, atol=1e-6)
    with pytest.raises(DataError, match="2 channels, the images have 3"):
        normalize(torch.zeros(1, 3, 5, 5))
    with pytest.raises(ConfigError, match="std must be positive"):
        Normalize(std=0.0)


def test_shift_moves_and_repeats_the_border() -> None:
    shift = RandomShift(2)
    images = torch.rand(40, 2, 6, 7)
    keys = [(0, i) for i in range(40)]
    offsets = shift.offsets(1, keys)
    assert set(offsets.unique().tolist()) == {-2, -1, 0, 1, 2}
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    for image, wide, (down, right) in zip(shift(images, 1, keys), padded, offsets.tolist(), strict=True):
        assert torch.equal(image, wide[:, 2 - down : 8 - down, 2 - right : 9 - right])


def test_augmentation_is_a_function_of_seed_epoch_and_index() -> None:
    train = {"a": (torch.rand(30, 1, 8, 8), torch.zeros(30, dtype=torch.long))}
    source = TensorSource({"train": train, "val": train}, num_classes=1, augment=2)
    dataset = source.dataset("train")

    def look(seed: int, epoch: int, order: list[int]) -> torch.Tensor:
        dataset.seed = seed
        return torch.stack([s.image for s in dataset.__getitems__([(epoch, i) for i in order])])

    rows = list(range(30))
    first = look(0, 0, rows)
    assert torch.equal(first.flip(0), look(0, 0, rows[::-1]))  # not of the place in the batch
    assert torch.equal(first[7], dataset[(0, 7)].image)
    assert not torch.equal(first, look(0, 1, rows))
    assert not torch.equal(first, look(1, 0, rows))
    assert not torch.equal(first, train["a"][0])
    plain = source.dataset("val")
    assert torch.equal(plain[(0, 7)].image, train["a"][0][7])
    assert torch.equal(dataset[7].image, train["a"][0][7])  # without an epoch: as it is


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a train split"):
        TensorSource({"val": {"a": pair(2, 0)}}, num_classes=3)
    with pytest.raises(ConfigError, match="split must be one of"):
        TensorSource({"train": {"a": pair(2, 0)}, "valid": {"a": pair(2, 0)}}, num_classes=3)
    with pytest.raises(ConfigError, match="lacks the tasks"):
        TensorSource({"train": {"a": pair(2, 0)}}, num_classes={"b": 3})
    with pytest.raises(DataError, match="which the train split lacks"):
        TensorSource({"train": {"a": pair(2, 0)}, "val": {"b": pair(2, 0)}}, num_classes=3)
    with pytest.raises(DataError, match="one shape"):
        TensorSource({"train": {"a": pair(2, 0), "b": (torch.zeros(2, 1, 5, 5), torch.zeros(2))}}, num_classes=3)
    with pytest.raises(DataError, match="one shape in all splits"):
        TensorSource(
            {"train": {"a": pair(2, 0)}, "val": {"a": (torch.zeros(2, 3, 4, 4), torch.zeros(2))}}, num_classes=3
        )
    with pytest.raises(DataError, match="2 images but 3 targets"):
        TensorSource({"train": {"a": (pair(2, 0)[0], torch.zeros(3).long())}}, num_classes=3).dataset("train")
    with pytest.raises(DataError, match="must be integers"):
        TensorSource({"train": {"a": (pair(2, 0)[0], torch.zeros(2))}}, num_classes=3).dataset("train")
    with pytest.raises(DataError, match="has no test split"):
        TensorSource({"train": {"a": pair(2, 0)}}, num_classes=3).dataset("test")


def test_wrong_annotations_are_refused() -> None:
    tasks = [Task("a", 2)]
    pictures, labels = {"train": pair(4, 0)[0]}, torch.zeros(4, dtype=torch.long)
    with pytest.raises(DataError, match="4 images need 4 targets"):
        TensorSource.single_input(pictures, {"train": {"a": labels[:3]}}, tasks)
    with pytest.raises(DataError, match="no targets of the train split"):
        TensorSource.single_input(pictures, {"val": {"a": labels}}, tasks)
    with pytest.raises(DataError, match="unknown tasks"):
        TensorSource.single_input(pictures, {"train": {"b": labels}}, tasks).dataset("train")
    mask = {"train": {"a": torch.tensor([True, True, False, True])}}
    with pytest.raises(DataError, match="1 of 4 rows carry no target"):
        TensorSource.single_input(pictures, {"train": {"a": labels}}, tasks, mask).dataset("train")


def test_a_batch_asks_with_or_without_epoch() -> None:
    dataset = InMemoryDataset(
        [Task("a", 1)], torch.rand(3, 1, 4, 4), {"a": (torch.arange(3), torch.zeros(3).long())}, shift=RandomShift(1)
    )
    with pytest.raises(DataError, match="all with their epoch or all without"):
        dataset.__getitems__([(0, 1), 2])
