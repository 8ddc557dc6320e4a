"""Gradient cosines with known answers."""

import json

import numpy as np
import pytest
import torch

from mola_lightning.analysis import conflict_statistics, cosine_matrix, magnitude_similarity, task_gradients
from mola_lightning.core import ConfigError


def test_gradients_of_each_task_and_no_side_effect() -> None:
    w, v = torch.randn(3, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    losses = {"a": (w**2).sum(), "b": (v**3).sum() + w[0], "c": torch.tensor(1.0), "d": (w.detach() * 2).sum()}
    gradients = task_gradients(losses, [w, v])
    assert gradients.shape == (4, 7)
    torch.testing.assert_close(gradients[0], torch.cat([2 * w, torch.zeros(4)]))
    torch.testing.assert_close(gradients[1], torch.cat([torch.eye(3)[0], (3 * v**2).flatten()]))
    assert not gradients[2:].any(), "losses without a graph"
    assert w.grad is None
    sum(losses.values()).backward()  # the graphs were kept


def test_known_angles() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
    expected = torch.tensor([[1, 0, -1, 0.5**0.5], [0, 1, 0, 0.5**0.5], [-1, 0, 1, -(0.5**0.5)]], dtype=torch.float64)
    torch.testing.assert_close(cosine_matrix(rows)[:3], expected)


def test_agrees_with_torch_and_does_not_see_scale() -> None:
    rows = torch.randn(5, 40)
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).double()
    torch.testing.assert_close(cosine_matrix(rows * torch.logspace(-30, 30, 5)[:, None]), expected, atol=1e-5, rtol=0)


def test_a_task_without_gradient_is_left_out() -> None:
    found = conflict_statistics(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.1], [1.0, 0.1]]), ["a", "b", "c", "d"])
    assert found["cosine"][0][1] is None
    assert found["cosine"][1][1] is None
    assert found["share_negative"] == pytest.approx(2 / 3)
    assert found["mean_cosine"] == pytest.approx(np.mean([-1 / 1.01**0.5, 1 / 1.01**0.5, -0.99 / 1.01]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_lengths_of_gradients() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 9.0], [0.0, 0.0]])
    found = magnitude_similarity(rows)
    assert found[0].tolist()[:3] == pytest.approx([1, 1, 2 * 3 * 9 / (9 + 81)])
    assert found[3].isnan().all()
    tiny = magnitude_similarity(rows * 1e-30)
    torch.testing.assert_close(tiny, found, equal_nan=True)
    assert conflict_statistics(rows, list("abcd"))["mean_magnitude_similarity"] == pytest.approx((1 + 0.6 + 0.6) / 3)


def test_orthogonal_and_opposed_gradients() -> None:
    w = torch.zeros(2, requires_grad=True)
    orthogonal = task_gradients({"a": w[0], "b": w[1]}, [w])
    opposed = task_gradients({"a": w.sum(), "b": -2 * w.sum()}, [w])
    assert conflict_statistics(orthogonal, ["a", "b"])["mean_cosine"] == 0
    found = conflict_statistics(opposed, ["a", "b"])
    assert found["mean_cosine"] == pytest.approx(-1)
    assert found["share_negative"] == 1
    assert found["mean_magnitude_similarity"] == pytest.approx(0.8)


def test_no_pair_at_all() -> None:
    found = conflict_statistics(torch.zeros(2, 3), ["a", "b"])
    assert found["share_negative"] is None
    assert found["mean_cosine"] is None


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="at least one loss"):
        task_gradients({"a": torch.tensor(1.0, requires_grad=True)}, [])
    with pytest.raises(ConfigError, match="3 tasks"):
        conflict_statistics(torch.zeros(2, 3), ["a", "b", "c"])
