"""What all routers promise, whichever they are."""

import copy

import pytest
import torch

from mola_lightning.core import ConfigError, DataError, Routing, TaskRows
from mola_lightning.routers import ConvRouter, HardRouter, Router, TaskIdRouter, TopKRouter, UniformRouter

SMALL = {"widths": (4, 8), "blocks": 1}
OPTIONS = {
    "conv": (ConvRouter, SMALL),
    "hard": (HardRouter, SMALL),
    "top_k": (TopKRouter, {**SMALL, "k": 1}),
    "task_id": (TaskIdRouter, {}),
    "uniform": (UniformRouter, {}),
}
LEARNED = ["conv", "hard", "top_k"]


def make(name: str, num_experts: int, in_channels: int = 3, **options: object) -> Router:
    build, defaults = OPTIONS[name]
    return build(num_experts=num_experts, in_channels=in_channels, **{**defaults, **options})


def rows_of(ids: list[int], num_tasks: int) -> TaskRows:
    return TaskRows.from_task_ids(torch.tensor(ids, dtype=torch.long), [f"task{t}" for t in range(num_tasks)])


def weights(routing: Routing, num_experts: int) -> torch.Tensor:
    if routing.mixing is not None:
        return routing.mixing
    return torch.nn.functional.one_hot(routing.expert_ids, num_experts).float()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("batch_size", "num_experts"), [(1, 1), (1, 3), (5, 1), (5, 3)])
def test_shapes(name: str, training: bool, batch_size: int, num_experts: int) -> None:
    router = make(name, num_experts, in_channels=2).train(training)
    routing = router(torch.randn(batch_size, 2, 9, 7), rows_of([0] * batch_size, num_experts))
    assert weights(routing, num_experts).shape == (batch_size, num_experts)
    assert routing.hard == (routing.mixing is None)
    assert (routing.logits is not None) == router.learned_logits
    if routing.logits is not None:
        assert routing.logits.shape == (batch_size, num_experts)
    if routing.hard:
        assert routing.expert_ids.dtype == torch.int64


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_are_a_distribution(name: str) -> None:
    router = make(name, 3, **({"mode": "mean"} if name == "uniform" else {}))
    mixing = weights(router(torch.randn(6, 3, 8, 8), rows_of([0, 1, 2, 2, 1, 0], 3)), 3)
    assert (mixing >= 0).all()
    torch.testing.assert_close(mixing.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("name", LEARNED)
def test_does_not_read_the_tasks(name: str) -> None:
    router = make(name, 3).eval()
    assert not router.needs_task_ids
    images = torch.randn(4, 3, 8, 8)
    alone, told = router(images), router(images, rows_of([0, 1, 2, 0], 3))
    torch.testing.assert_close(alone.logits, told.logits, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "training"), [*((name, True) for name in OPTIONS), ("hard", False)])
def test_compiles_to_one_graph(name: str, training: bool) -> None:
    router = make(name, 3).train(training)
    images, rows = torch.randn(4, 3, 8, 8), rows_of([0, 1, 2, 0], 3)
    assert rows.disjoint  # known on the host, as in every batch that was brought to its device
    expected = weights(copy.deepcopy(router)(images, rows), 3)
    compiled = torch.compile(router, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(weights(compiled(images, rows), 3), expected)


@pytest.mark.parametrize("name", LEARNED)
def test_autocast(name: str) -> None:
    router = make(name, 3, **({"k": 2} if name == "top_k" else {}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(torch.randn(4, 3, 8, 8))
    weights(routing, 3).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in router.parameters())


@pytest.mark.parametrize("name", OPTIONS)
def test_refuses_no_experts(name: str) -> None:
    with pytest.raises(ConfigError, match="num_experts must be an integer >= 1, got 0"):
        make(name, 0)


class TestTaskId:
    def test_each_row_gets_the_expert_of_its_task(self) -> None:
        ids = [2, 0, 1, 1, 2]
        router = TaskIdRouter(num_experts=3)
        routing = router(torch.zeros(5, 3, 4, 4), rows_of(ids, 3))
        assert routing.expert_ids.tolist() == ids
        assert routing.mixing is None
        assert router.needs_task_ids
        assert not list(router.parameters())

    def test_a_task_without_expert(self) -> None:
        with pytest.raises(ConfigError, match="task2 would have no expert; set num_experts to 3"):
            TaskIdRouter(num_experts=2)(torch.zeros(2, 3, 4, 4), rows_of([0, 2], 3))

    def test_an_absent_task_needs_no_expert(self) -> None:
        routing = TaskIdRouter(num_experts=2)(torch.zeros(2, 3, 4, 4), rows_of([1, 0], 3))
        assert routing.expert_ids.tolist() == [1, 0]

    def test_needs_rows(self) -> None:
        with pytest.raises(ConfigError, match="router=conv"):
            TaskIdRouter(num_experts=2)(torch.zeros(2, 3, 4, 4))

    def test_rows_of_several_tasks(self) -> None:
        with pytest.raises(DataError, match="exactly one task"):
            TaskIdRouter(num_experts=2)(torch.zeros(2, 3, 4, 4), TaskRows.all_rows(2, ["a", "b"]))

    def test_asks_nothing_of_the_device(self) -> None:
        """Meta tensors hold no values, so anything that reads one raises."""
        rows = rows_of([0, 1, 1], 2).to("meta")
        assert TaskIdRouter(num_experts=2)(torch.zeros(3, 3, 4, 4, device="meta"), rows).expert_ids.shape == (3,)


class TestHard:
    def test_value_is_one_hot_and_gradient_is_identity(self) -> None:
        router = HardRouter(num_experts=4, **SMALL)
        logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        mixing = router.decide(logits).mixing
        assert mixing.sort(dim=1).values.tolist() == [[0.0, 0.0, 0.0, 1.0]] * 6
        assert torch.equal(mixing.argmax(dim=1), logits.argmax(dim=1))
        upstream = torch.randn(6, 4, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(mixing, logits, upstream)
        assert torch.equal(gradient, upstream)

    @pytest.mark.parametrize("how", ["eval", "no_grad", "inference_mode"])
    def test_one_expert_path_outside_training(self, how: str) -> None:
        router = HardRouter(num_experts=4, **SMALL)
        images = torch.randn(6, 3, 8, 8)
        if how == "eval":
            routing = router.eval()(images)
        else:
            with getattr(torch, how)():
                routing = router(images)
        assert routing.hard
        assert routing.mixing is None
        assert torch.equal(routing.expert_ids, routing.logits.argmax(dim=1))

    def test_task_losses_train_the_network(self) -> None:
        router = HardRouter(num_experts=4, **SMALL)
        (router(torch.randn(6, 3, 8, 8)).mixing * torch.randn(6, 4)).sum().backward()
        assert all(p.grad is not None for p in router.parameters())
        assert router.conv1.weight.grad.abs().sum() > 0

    def test_shares_the_conv_routers_weights(self) -> None:
        soft = ConvRouter(num_experts=4, **SMALL).eval()
        hard = HardRouter(num_experts=4, **SMALL).eval()
        hard.load_state_dict(soft.state_dict())
        images = torch.randn(6, 3, 8, 8)
        assert torch.equal(hard(images).expert_ids, soft(images).mixing.argmax(dim=1))


class TestUniform:
    @pytest.mark.parametrize(("mode", "weight"), [("sum", 1.0), ("mean", 0.25)])
    def test_constant(self, mode: str, weight: float) -> None:
        images = torch.zeros(3, 3, 4, 4, dtype=torch.float64)
        routing = UniformRouter(num_experts=4, mode=mode)(images)
        assert torch.equal(routing.mixing, torch.full((3, 4), weight, dtype=torch.float64))

    def test_other_modes(self) -> None:
        with pytest.raises(ConfigError, match="mode must be one of 'sum', 'mean', got 'max'"):
            UniformRouter(num_experts=4, mode="max")


class TestTopK:
    @pytest.mark.parametrize("k", [1, 2, 3, 5])
    def test_softmax_restricted_to_the_best(self, k: int) -> None:
        router = TopKRouter(num_experts=5, k=k, temperature=0.7, **SMALL)
        logits = torch.randn(8, 5, dtype=torch.float64)
        mixing = router.decide(logits).mixing
        for row, scores in zip(mixing.tolist(), logits.tolist(), strict=True):
            best = sorted(range(5), key=lambda e: -scores[e])[:k]
            total = sum(torch.tensor(scores[e] / 0.7).exp().item() for e in best)
            for e in range(5):
                expected = torch.tensor(scores[e] / 0.7).exp().item() / total if e in best else 0.0
                assert row[e] == (pytest.approx(expected, rel=1e-5) if e in best else 0.0)

    def test_all_experts_is_the_soft_router(self) -> None:
        logits = torch.randn(8, 5)
        soft = ConvRouter(num_experts=5, **SMALL).decide(logits).mixing
        torch.testing.assert_close(TopKRouter(num_experts=5, k=5, **SMALL).decide(logits).mixing, soft)

    def test_gradient(self) -> None:
        router = TopKRouter(num_experts=4, k=2, **SMALL)
        logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: router.decide(x).mixing, logits)

    @pytest.mark.parametrize(("k", "message"), [(5, "k must be at most num_experts=4, got k=5"), (0, "k must be")])
    def test_refuses(self, k: int, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            TopKRouter(num_experts=4, k=k)
