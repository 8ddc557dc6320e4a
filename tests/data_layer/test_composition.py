"""Samplers that prescribe each batch; what they share with all samplers is in test_samplers."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from mola_lightning.core import ConfigError
from mola_lightning.data import (
    EpochSampler,
    InMemoryDataset,
    MultiTaskDataModule,
    OneTaskPerBatch,
    QuotaSampler,
    SqrtSampler,
    TensorSource,
)

SIZES = {"large": 50, "tiny": 3, "small": 11}  # 64 rows


def source(sizes: dict[str, int] = SIZES) -> TensorSource:
    part = {name: (torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.long)) for name, n in sizes.items()}
    return TensorSource({"train": part}, num_classes=2)


def dataset(sizes: dict[str, int] = SIZES) -> InMemoryDataset:
    return source(sizes).dataset("train")


def tasks_of(batch: list[tuple[int, int]], sizes: dict[str, int] = SIZES) -> Counter[str]:
    names = np.repeat(list(sizes), list(sizes.values()))
    return Counter(names[[index for _, index in batch]].tolist())


# --------------------------------------------------------------------------------------------------- one task a batch


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch_size", [4, 7, 8])
def test_each_batch_is_of_one_task_and_each_task_has_one(batch_size: int, drop_last: bool) -> None:
    sampler = OneTaskPerBatch(dataset(), batch_size, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(tasks_of(batch)) == 1 for batch in batches)
    assert set(chain.from_iterable(map(tasks_of, batches))) == set(SIZES)


@pytest.mark.parametrize(("temperature", "expected"), [(1, (12, 1, 3)), (2, (9, 2, 5)), (float("inf"), (6, 5, 5))])
def test_batches_follow_the_temperature(temperature: float, expected: tuple[int, ...]) -> None:
    sampler = OneTaskPerBatch(dataset(), 4, temperature=temperature)
    found = Counter(next(iter(tasks_of(batch))) for batch in sampler)
    assert [found[name] for name in SIZES] == list(expected)


def test_batches_of_a_task_are_not_all_in_a_row() -> None:
    orders = set()
    for epoch in range(5):
        sampler = OneTaskPerBatch(dataset(), 4)
        sampler.set_epoch(epoch)
        orders.add(tuple(next(iter(tasks_of(batch))) for batch in sampler))
    assert len(orders) == 5


def test_devices_work_on_the_same_task() -> None:
    parts = [list(OneTaskPerBatch(dataset(), 8, rank=rank, world_size=2)) for rank in range(2)]
    assert all(len(tasks_of([*a, *b])) == 1 for a, b in zip(*parts, strict=True))


def test_too_few_batches_for_the_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"each of the 3 tasks.*64 rows make only 2 of 32 rows; take batch_size=21"):
        OneTaskPerBatch(dataset(), 32)
    assert len(OneTaskPerBatch(dataset(), 21)) == 3


# -------------------------------------------------------------------------------------------------------------- quotas


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        (None, (3, 3, 2)),
        ({"tiny": 4}, (2, 4, 2)),
        ({"small": 1, "large": 6}, (6, 1, 1)),
        ({"large": 5, "tiny": 1, "small": 2}, (5, 1, 2)),
    ],
)
def test_each_batch_keeps_the_quotas(quotas: dict[str, int] | None, expected: tuple[int, ...]) -> None:
    sampler = QuotaSampler(dataset(), 8, quotas=quotas)
    batches = list(sampler)
    assert len(batches) == 64 // 8
    assert all([tasks_of(batch)[name] for name in SIZES] == list(expected) for batch in batches)
    assert sampler.quotas == dict(zip(SIZES, expected, strict=True))


def test_devices_see_all_tasks() -> None:
    """Their parts of a batch are mixed: batch norm on a device is not of one task."""
    parts = [list(QuotaSampler(dataset(), 16, rank=rank, world_size=2)) for rank in range(2)]
    for part in parts:
        assert set(chain.from_iterable(map(tasks_of, part))) == set(SIZES)


def test_rows_of_a_large_task_are_new_in_each_epoch() -> None:
    sampler, seen = QuotaSampler(dataset(), 8, quotas={"large": 2}), set()
    for epoch in range(12):
        sampler.set_epoch(epoch)
        seen |= {index for batch in sampler for _, index in batch}
    assert seen == set(range(64))


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"huge": 2}, "a task of quotas must be one of 'large', 'tiny', 'small', got 'huge'"),
        ({"tiny": 0}, "the quota of task 'tiny' must be an integer >= 1, got 0"),
        ({"tiny": 0.5}, "the quota of task 'tiny' must be an integer >= 1, got 0.5"),
        ({"tiny": 7}, "take 7 of the 8 rows of a batch, which leaves 1 to the tasks large, small"),
        ({"tiny": 9}, "take 9 of the 8 rows of a batch, which leaves 0 to the tasks large, small"),
        ({"large": 2, "tiny": 2, "small": 2}, "take 6 of the 8 rows of a batch; they must sum to batch_size"),
    ],
)
def test_impossible_quotas_are_refused(quotas: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuotaSampler(dataset(), 8, quotas=quotas)


@pytest.mark.parametrize("sampler", [SqrtSampler, OneTaskPerBatch, QuotaSampler])
def test_samplers_give_full_batches(sampler: type[EpochSampler]) -> None:
    batches = list(MultiTaskDataModule(source(), batch_size=8, sampler=sampler).train_dataloader())
    assert [len(batch) for batch in batches] == [8] * 8
