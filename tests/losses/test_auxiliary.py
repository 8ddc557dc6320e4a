"""Auxiliary losses read what they need from a model's output, and say so when it is not there."""

import pytest
import torch
from torch.nn import functional as F

from mola_lightning.core import ConfigError, ModelOutput, Routing, TaskRows
from mola_lightning.losses import AuxiliaryLoss, TaskCrossEntropy, TwDLoss

IDS = torch.tensor([0, 2, 2, 0, 1])
NAMES = ["a", "b", "c"]
BOTH = pytest.mark.parametrize("build", [TwDLoss, TaskCrossEntropy])


def output_of(logits: torch.Tensor, rows: TaskRows | None = None) -> ModelOutput:
    rows = TaskRows.from_task_ids(IDS[: len(logits)], NAMES) if rows is None else rows
    return ModelOutput({}, rows, Routing(mixing=logits.softmax(dim=1), logits=logits))


def test_twd_is_unweighted_and_reads_task_ids() -> None:
    loss = TwDLoss(num_experts=4, num_tasks=3, weight=0.25)
    logits = torch.randn(5, 4)
    torch.testing.assert_close(loss(output_of(logits)), loss.decorrelation(logits, IDS))
    assert loss.weight == 0.25


def test_task_cross_entropy_is_that_of_a_linear_classifier() -> None:
    loss = TaskCrossEntropy(num_experts=4, num_tasks=3)
    logits = torch.randn(5, 4)
    expected = F.cross_entropy(logits @ loss.projection.weight.T + loss.projection.bias, IDS)
    torch.testing.assert_close(loss(output_of(logits)), expected)


def test_an_empty_batch_has_no_task_to_predict() -> None:
    loss = TaskCrossEntropy(num_experts=4, num_tasks=3)(output_of(torch.randn(0, 4)))
    assert loss.item() == 0.0


@BOTH
def test_trains_router_and_projection(build: type[AuxiliaryLoss]) -> None:
    loss = build(num_experts=4, num_tasks=3)
    logits = torch.randn(5, 4, requires_grad=True)
    loss(output_of(logits)).backward()
    for tensor in (logits, *loss.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@BOTH
@pytest.mark.parametrize("routing", [None, Routing(expert_ids=IDS)])
def test_needs_logits(build: type[AuxiliaryLoss], routing: Routing | None) -> None:
    output = ModelOutput({}, TaskRows.from_task_ids(IDS, NAMES), routing)
    with pytest.raises(ConfigError, match=r"needs a router with logits \(router=conv\|hard\|top_k\).*auxiliary=none"):
        build(num_experts=4, num_tasks=3)(output)


@BOTH
def test_needs_one_task_a_row(build: type[AuxiliaryLoss]) -> None:
    output = output_of(torch.randn(5, 4), TaskRows.all_rows(5, NAMES))
    with pytest.raises(ConfigError, match=r"exactly one task for each image.*auxiliary=none"):
        build(num_experts=4, num_tasks=3)(output)


@BOTH
@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_refuses_weights(build: type[AuxiliaryLoss], weight: float) -> None:
    with pytest.raises(ConfigError, match="weight of an auxiliary loss"):
        build(num_experts=4, num_tasks=3, weight=weight)
