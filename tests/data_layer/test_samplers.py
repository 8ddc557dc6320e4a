from collections import Counter
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch

from mola_lightning.core import ConfigError, Task
from mola_lightning.data import (
    BalancedSampler,
    EpochSampler,
    InMemoryDataset,
    OneTaskPerBatch,
    ProportionalSampler,
    QuotaSampler,
    RankShare,
    SqrtSampler,
    TemperatureSampler,
    TensorSource,
    auto_sampler,
)

SIZES = (50, 7, 23)  # 80 rows
SAMPLERS = [
    ProportionalSampler,
    BalancedSampler,
    TemperatureSampler,
    partial(TemperatureSampler, temperature=float("inf")),
    SqrtSampler,
    OneTaskPerBatch,
    partial(OneTaskPerBatch, temperature=float("inf")),
    QuotaSampler,
    partial(QuotaSampler, quotas={"t1": 3}),
]


def make_dataset(sizes: tuple[int, ...] = SIZES) -> InMemoryDataset:
    part = {f"t{i}": (torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.long)) for i, n in enumerate(sizes)}
    return TensorSource({"train": part}, num_classes=2).dataset("train")


def rows_of(sampler: EpochSampler) -> list[int]:
    return [index for batch in sampler for _, index in batch]


def tasks_of(rows: list[int], sizes: tuple[int, ...] = SIZES) -> list[int]:
    return [
        sum(counts) for counts in np.bincount(np.repeat(range(len(sizes)), sizes)[rows], minlength=len(sizes))[:, None]
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_is_a_function_of_seed_and_epoch(sampler) -> None:
    one, two = (sampler(make_dataset(), batch_size=8, seed=5) for _ in range(2))
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    first = list(one)
    np.random.seed(2)  # noqa: NPY002
    two.set_epoch(4)
    fifth = list(two)
    two.set_epoch(0)
    assert list(two) == first == list(one)
    one.set_epoch(4)
    assert list(one) == fifth
    assert [[i for _, i in batch] for batch in fifth] != [[i for _, i in batch] for batch in first]
    assert {epoch for batch in fifth for epoch, _ in batch} == {4}
    assert rows_of(sampler(make_dataset(), batch_size=8, seed=6)) != rows_of(
        sampler(make_dataset(), batch_size=8, seed=5)
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", [0, 1, 7, 10])
def test_resuming_gives_the_rest_of_the_epoch(sampler, start: int) -> None:
    whole = sampler(make_dataset(), batch_size=8, seed=5)
    whole.set_epoch(2)
    resumed = sampler(make_dataset(), batch_size=8, seed=5)
    resumed.epoch, resumed.start = 2, start
    resumed.set_epoch(2)  # as Lightning does after a resume
    assert list(resumed) == list(whole)[start:]
    assert len(resumed) == len(whole) == 10
    resumed.set_epoch(3)
    assert len(list(resumed)) == 10


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_global_batches(sampler, world_size: int) -> None:
    whole = list(sampler(make_dataset(), batch_size=12, seed=5))
    parts = [
        list(sampler(make_dataset(), batch_size=12, seed=5, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    assert [list(chain.from_iterable(part[i] for part in parts)) for i in range(len(whole))] == whole
    assert {len(batch) for part in parts for batch in part} == {12 // world_size}


def test_proportional_visits_each_row_once() -> None:
    rows = rows_of(ProportionalSampler(make_dataset(), batch_size=9, drop_last=False))
    assert sorted(rows) == list(range(80))
    dropped = rows_of(ProportionalSampler(make_dataset(), batch_size=9))
    assert len(dropped) == len(set(dropped)) == 72


def test_keeping_the_last_batch_gives_all_ranks_as_many_batches() -> None:
    for world_size in (2, 4):
        make = partial(ProportionalSampler, make_dataset(), batch_size=12, drop_last=False, world_size=world_size)
        parts = [list(make(rank=rank)) for rank in range(world_size)]
        assert {len(part) for part in parts} == {7}
        assert sorted(index for part in parts for batch in part for _, index in batch) == list(range(80))


def test_balanced_visits_tasks_equally_often_in_each_batch() -> None:
    sampler = BalancedSampler(make_dataset(), batch_size=8, seed=1)
    for batch in sampler:
        counts = tasks_of([index for _, index in batch])
        assert max(counts) - min(counts) <= 2
    whole = tasks_of(rows_of(sampler))
    assert sum(whole) == 80
    assert max(whole) - min(whole) <= 1


def test_small_tasks_are_cycled_through_in_full() -> None:
    visits = Counter(rows_of(BalancedSampler(make_dataset(), batch_size=8)))
    small = [visits[row] for row in range(50, 57)]
    assert min(small) >= 3  # 26 or 27 places for 7 rows
    assert max(small) - min(small) <= 1
    assert all(visits[row] <= 1 for row in range(50))


def test_large_tasks_show_another_part_each_epoch() -> None:
    sampler = BalancedSampler(make_dataset(), batch_size=8)
    seen = set()
    for epoch in range(12):
        sampler.set_epoch(epoch)
        seen |= {row for row in rows_of(sampler) if row < 50}
    assert seen == set(range(50))


@pytest.mark.parametrize(("temperature", "shares"), [(1, SIZES), (float("inf"), (27, 27, 26)), (2, (39, 15, 26))])
def test_temperature_interpolates(temperature: float, shares: tuple[int, ...]) -> None:
    expected = np.array(SIZES) ** (1 / temperature)
    found = tasks_of(rows_of(TemperatureSampler(make_dataset(), batch_size=8, temperature=temperature)))
    assert found == list(shares)
    assert np.abs(np.array(found) - 80 * expected / expected.sum()).max() < 1


def test_no_temperature_starves_a_task() -> None:
    sizes = (1000, 3, 1)
    for temperature in (0.05, 0.5, 1, 2, float("inf")):
        sampler = TemperatureSampler(make_dataset(sizes), batch_size=8, temperature=temperature)
        shares = sampler.shares(1004)
        assert shares.sum() == 1004
        assert shares.min() >= 1
        assert np.bincount(np.repeat(range(3), sizes)[rows_of(sampler)], minlength=3).sum() == 1000


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_leaving_out_the_last_batch_leaves_out_nothing_for_good(sampler) -> None:
    """The smallest task, of a single row, is met within a few epochs by whatever sampler."""
    made = sampler(make_dataset((12, 1, 8)), batch_size=6)
    seen: set[int] = set()
    for epoch in range(40):
        made.set_epoch(epoch)
        seen |= set(rows_of(made))
    assert seen == set(range(21))


def test_sqrt_is_temperature_two() -> None:
    assert list(SqrtSampler(make_dataset(), 8, seed=3)) == list(
        TemperatureSampler(make_dataset(), 8, seed=3, temperature=2)
    )


def test_temperature_one_visits_each_row_once() -> None:
    assert sorted(rows_of(TemperatureSampler(make_dataset(), batch_size=8, temperature=1))) == list(range(80))


def test_evaluation_shares_cover_each_row_once() -> None:
    for world_size in (1, 2, 3, 7):
        shares = [list(RankShare(17, rank, world_size)) for rank in range(world_size)]
        assert sorted(chain.from_iterable(shares)) == list(range(17))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 81}, "batch_size is 81 but the training split has only 80 rows"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"batch_size": 9, "world_size": 2}, "multiple of their number.*take 10"),
        ({"batch_size": 8, "rank": 2, "world_size": 2}, r"rank must lie in 0\.\.1"),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_impossible_settings_are_refused(sampler, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampler(make_dataset(), **options)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), ".inf"])
def test_temperature_must_be_positive(temperature: object) -> None:
    with pytest.raises(ConfigError, match="temperature must be positive"):
        TemperatureSampler(make_dataset(), batch_size=8, temperature=temperature)


def test_a_replaced_sampler_is_refused() -> None:
    replaced = torch.utils.data.DistributedSampler(make_dataset(), num_replicas=2, rank=0)
    with pytest.raises(ConfigError, match="use_distributed_sampler=False"):
        ProportionalSampler(replaced, batch_size=8)  # type: ignore[arg-type]


def test_rows_of_several_tasks_cannot_be_balanced() -> None:
    tasks = [Task("a", 2), Task("b", 2)]
    labels = torch.zeros(8, dtype=torch.long)
    dataset = InMemoryDataset(tasks, torch.zeros(8, 1, 2, 2), {t.name: (torch.arange(8), labels) for t in tasks})
    assert len(rows_of(ProportionalSampler(dataset, batch_size=4))) == 8
    assert isinstance(auto_sampler(dataset, batch_size=4), ProportionalSampler)
    for sampler in SAMPLERS[1:]:
        with pytest.raises(ConfigError, match="several tasks.*sampler=proportional"):
            sampler(dataset, batch_size=4)
