"""Routing statistics with known answers, and against scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from mola_lightning.analysis import (
    dead_experts,
    effective_experts,
    entropy,
    mean_mixing,
    mutual_information,
    normalised_mutual_information,
    routing_statistics,
)
from mola_lightning.analysis.routing import row_entropy, silhouette
from mola_lightning.core import DataError

TASK_IDS = torch.arange(4).repeat(5)


def test_one_expert_per_task_tells_the_task() -> None:
    mixing = torch.eye(4)[TASK_IDS]
    assert mutual_information(mixing, TASK_IDS) == pytest.approx(2.0)
    assert normalised_mutual_information(mixing, TASK_IDS) == pytest.approx(1.0)
    assert effective_experts(mixing) == pytest.approx(4.0)
    assert mean_mixing(mixing, TASK_IDS) == pytest.approx(np.eye(4))
    assert dead_experts(mixing) == []


@pytest.mark.parametrize("mixing", [torch.full((20, 4), 0.25), torch.eye(4)[[1]].repeat(20, 1), torch.ones(20, 4)])
def test_the_same_mixture_for_all_tells_nothing(mixing: torch.Tensor) -> None:
    assert mutual_information(mixing, TASK_IDS) == pytest.approx(0.0, abs=1e-12)
    assert normalised_mutual_information(mixing, TASK_IDS) == pytest.approx(0.0, abs=1e-12)


def test_two_tasks_sharing_an_expert_cost_half_a_bit() -> None:
    mixing = torch.eye(4)[torch.tensor([0, 1, 2, 2])[TASK_IDS]]
    assert mutual_information(mixing, TASK_IDS) == pytest.approx(1.5)
    assert normalised_mutual_information(mixing, TASK_IDS) == pytest.approx(0.75)
    assert dead_experts(mixing) == [3]
    assert effective_experts(mixing) == pytest.approx(2**1.5)


def test_hard_routing_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    tasks = rng.integers(0, 3, 500)
    experts = (tasks + rng.integers(0, 2, 500)) % 5
    expected = mutual_info_score(tasks, experts) / np.log(2)
    assert mutual_information(np.eye(5)[experts], tasks) == pytest.approx(expected)


def test_soft_routing_agrees_with_a_loop() -> None:
    rng = np.random.default_rng(1)
    mixing, tasks = rng.dirichlet(np.full(3, 0.3), 200), rng.integers(0, 4, 200)
    joint = np.zeros((4, 3))
    for row, task in zip(mixing, tasks, strict=True):
        joint[task] += row / 200
    expected = sum(
        joint[t, e] * np.log2(joint[t, e] / joint[t].sum() / joint[:, e].sum()) for t in range(4) for e in range(3)
    )
    assert mutual_information(mixing, tasks) == pytest.approx(expected)
    assert entropy(mixing.mean(axis=0)) <= np.log2(3)


def test_a_dead_expert_is_found() -> None:
    mixing = torch.tensor([[0.7, 0.0, 0.3], [0.4, 0.001, 0.599]])
    assert dead_experts(mixing) == [1]
    assert dead_experts(mixing, threshold=0.0) == []


def test_tasks_in_the_space_of_mixtures() -> None:
    ids = np.arange(40) % 2
    rng = np.random.default_rng(0)
    apart = np.where(ids[:, None] == 0, [0.95, 0.05], [0.05, 0.95]) + rng.uniform(0, 0.01, (40, 2))
    assert silhouette(apart, ids) > 0.95
    assert abs(silhouette(rng.dirichlet([5, 5, 5], 400), np.arange(400) % 2)) < 0.05
    assert np.isnan(silhouette(apart, np.zeros(40, dtype=int))), "one task only"


def test_the_mixture_of_a_row() -> None:
    assert row_entropy([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).tolist() == [0, 2]


def test_entropy() -> None:
    assert entropy(np.array([0.5, 0.25, 0.25])) == pytest.approx(1.5)
    assert entropy(np.array([1.0, 0.0])) == 0.0


def test_the_summary_entry_is_plain_json() -> None:
    mixing = torch.tensor([[0.1, 0.9], [0.5, 0.5]], dtype=torch.bfloat16)
    found = routing_statistics(mixing, torch.tensor([0, 2]), num_tasks=3)
    keys = "mutual_information_bits normalised_mutual_information entropy_bits effective_experts mixing"
    assert set(found) == set(keys.split())
    back = json.loads(json.dumps(found, allow_nan=False))
    assert back["mixing"][0] == pytest.approx([0.1, 0.9], abs=2e-3)
    assert back["mixing"][1] == [None, None], "a task without samples"
    assert back["effective_experts"] == pytest.approx(2 ** back["entropy_bits"])


def test_one_task_has_nothing_to_tell() -> None:
    assert normalised_mutual_information(torch.eye(2), torch.zeros(2, dtype=torch.long)) == 0.0


@pytest.mark.parametrize(
    ("mixing", "ids"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.ones(4), torch.zeros(4, dtype=torch.long)),
        (torch.ones(4, 2), torch.zeros(3, dtype=torch.long)),
        (torch.full((4, 2), torch.nan), torch.zeros(4, dtype=torch.long)),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)),
        (torch.ones(4, 2), -torch.ones(4, dtype=torch.long)),
    ],
)
def test_what_is_no_mixing_is_refused(mixing: torch.Tensor, ids: torch.Tensor) -> None:
    with pytest.raises(DataError):
        routing_statistics(mixing, ids)
