"""The linear head."""

import pytest
import torch

from mola_lightning.core import ConfigError, Task
from mola_lightning.heads import HeadFactory, LinearHead

FACTORY: HeadFactory = LinearHead


@pytest.mark.parametrize("n", [0, 1, 4])
def test_one_row_of_outputs_per_row_of_features(n: int) -> None:
    head = FACTORY(6, Task("digits", 10))
    features = torch.randn(n, 6, requires_grad=True)
    outputs = head(features)
    assert outputs.shape == (n, 10)
    outputs.sum().backward()
    assert features.grad.shape == (n, 6)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_is_affine() -> None:
    head = LinearHead(6, Task("digits", 10)).double()
    x, y = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(head(x) - head(y), (x - y) @ head.weight.T)


def test_refuses_a_feature_map() -> None:
    head = LinearHead(6, Task("digits", 10))
    with pytest.raises(ConfigError, match=r"pooled features \(n, 6\), got shape \(2, 6, 4, 4\)"):
        head(torch.randn(2, 6, 4, 4))
