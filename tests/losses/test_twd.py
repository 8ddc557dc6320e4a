"""Task-wise decorrelation, against the formula written as loops and vectors made with the released implementation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mola_lightning.core import ConfigError
from mola_lightning.losses import TaskwiseDecorrelation

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
PAIRWISE = ["b2", "b32", "balanced8", "one_pair", "single_class", "tau05", "unbalanced"]
pairwise = TaskwiseDecorrelation.pairwise


def load(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"twd_{name}.npz") as arrays:
        vectors = {key: torch.from_numpy(arrays[key]) for key in arrays}
    return {key: value.double() if value.is_floating_point() else value for key, value in vectors.items()}


def slow(z: list[list[float]], ids: list[int], temperature: float) -> float:
    """The loss as the paper writes it, one pair at a time."""
    norms = [max(math.sqrt(sum(v * v for v in row)), 1e-12) for row in z]
    f = [[v / norm for v in row] for row, norm in zip(z, norms, strict=True)]
    n = len(z)

    def s(j: int, i: int) -> float:
        return math.exp(sum(a * b for a, b in zip(f[j], f[i], strict=True)) / temperature)

    terms = []
    for i in range(n):
        total = sum(s(j, i) for j in range(n) if j != i)
        terms += [-math.log(s(j, i) / total) for j in range(n) if j != i and ids[j] == ids[i]]
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("name", PAIRWISE)
def test_published_values_and_gradients(name: str) -> None:
    vectors = load(name)
    temperature = json.loads((FIXTURES / f"twd_{name}.json").read_text())["tau"]
    z = vectors["z"].requires_grad_()
    loss = pairwise(z, vectors["labels"], temperature)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(loss, vectors["loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, vectors["grad_z"], rtol=1e-9, atol=1e-14)


def test_published_chain_from_logits() -> None:
    vectors = load("chain")
    module = TaskwiseDecorrelation(num_experts=4, projection_dim=32).double()
    module.projection.load_state_dict({"weight": vectors["lin_weight"], "bias": vectors["lin_bias"]})
    logits = vectors["scores"].requires_grad_()
    loss = 0.1 * module(logits, vectors["labels"])
    loss.backward()
    torch.testing.assert_close(loss, vectors["loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(logits.grad, vectors["grad_scores"], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(module.projection.weight.grad, vectors["grad_lin_weight"], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(module.projection.bias.grad, vectors["grad_lin_bias"], rtol=1e-9, atol=1e-14)


def test_no_pair_gives_zero_where_the_released_code_fails() -> None:
    vectors = load("no_positive")
    z = vectors["z"].requires_grad_()
    loss = pairwise(z, vectors["labels"])
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros_like(z))


@pytest.mark.parametrize("batch_size", [0, 1, 3])
def test_zero_reaches_every_parameter(batch_size: int) -> None:
    module = TaskwiseDecorrelation(num_experts=4)
    logits = torch.randn(batch_size, 4, requires_grad=True)
    loss = module(logits, torch.arange(batch_size))
    loss.backward()
    assert loss.item() == 0.0
    for tensor in (logits, *module.parameters()):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("ids", [[0, 0], [0, 1, 0], [0, 0, 1, 1, 2], [3, 3, 3, 3], [0, 1, 2, 1, 1, 0, 5]])
def test_equals_the_loops(ids: list[int], temperature: float) -> None:
    z = torch.randn(len(ids), 6, dtype=torch.float64)
    expected = slow(z.tolist(), ids, temperature)
    assert pairwise(z, torch.tensor(ids), temperature).item() == pytest.approx(expected, rel=1e-12)


def test_gradient() -> None:
    z = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2, 1, 1, 3])
    assert torch.autograd.gradcheck(lambda x: pairwise(x, ids, 0.5), z)


def test_order_of_rows_does_not_matter() -> None:
    z, ids = torch.randn(9, 5, dtype=torch.float64), torch.randint(3, (9,))
    shuffled = torch.randperm(9)
    torch.testing.assert_close(pairwise(z[shuffled], ids[shuffled]), pairwise(z, ids), rtol=1e-12, atol=0)


def test_names_of_tasks_and_lengths_of_embeddings_do_not_matter() -> None:
    z, ids = torch.randn(9, 5, dtype=torch.float64), torch.randint(3, (9,))
    renamed = torch.tensor([7, 0, 3])[ids]
    scaled = z * torch.rand(9, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(pairwise(scaled, renamed), pairwise(z, ids), rtol=1e-12, atol=0)


def test_separated_tasks_score_better_than_mixed_ones() -> None:
    centres = torch.eye(3)
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    assert pairwise(centres[ids], ids, 0.1) < pairwise(centres[ids.roll(1)], ids, 0.1)


def test_large_similarities_do_not_overflow() -> None:
    z = torch.ones(4, 3, requires_grad=True)
    loss = pairwise(z, torch.tensor([0, 0, 1, 1]), temperature=1e-3)  # exp(1000) is inf in every float type
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-3)
    assert z.grad.isfinite().all()


def test_autocast_computes_in_single_precision() -> None:
    z, ids = torch.randn(8, 5), torch.randint(2, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pairwise(z, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pairwise(z, ids), rtol=0, atol=0)


def test_compiles_to_one_graph() -> None:
    module = TaskwiseDecorrelation(num_experts=4)
    logits, ids = torch.randn(6, 4), torch.tensor([0, 1, 1, 0, 2, 2])
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, ids), module(logits, ids))


@pytest.mark.parametrize("options", [{"projection_dim": 0}, {"temperature": 0.0}, {"num_experts": 0}])
def test_refuses(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TaskwiseDecorrelation(**{"num_experts": 4, **options})
