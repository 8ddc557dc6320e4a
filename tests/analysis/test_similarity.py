"""CKA of representations whose likeness is known."""

import math

import numpy as np
import pytest
import torch

from mola_lightning.analysis.similarity import cka_between_tasks, cka_matrix, linear_cka
from mola_lightning.core import DataError


def test_a_rotation_scale_and_shift_change_nothing() -> None:
    features = torch.randn(100, 12)
    rotation = torch.linalg.qr(torch.randn(12, 12)).Q
    assert linear_cka(features, 3 * features @ rotation + 5) == pytest.approx(1)


@pytest.mark.parametrize("width", [5, 1000], ids=["narrow", "wider than there are images"])
def test_independent_noise_is_near_zero(width: int) -> None:
    found = [linear_cka(torch.randn(200, width), torch.randn(200, width)) for _ in range(5)]
    assert abs(np.mean(found)) < 0.05


def test_a_shared_half_is_between() -> None:
    shared = torch.randn(400, 10)
    first = torch.cat([shared, torch.randn(400, 10)], dim=1)
    second = torch.cat([shared, torch.randn(400, 10)], dim=1)
    assert linear_cka(first, second) == pytest.approx(0.5, abs=0.06)


def test_the_number_of_images_does_not_matter() -> None:
    weights = torch.randn(20, 300)
    values = []
    for n in (40, 1200):
        base = torch.randn(n, 20)
        values.append(linear_cka(base @ weights, base[:, :10] @ weights[:10]))
    assert values[0] == pytest.approx(values[1], abs=0.15)


def test_a_representation_that_is_the_same_for_all_images() -> None:
    assert math.isnan(linear_cka(torch.ones(10, 3) * 0.3, torch.randn(10, 3)))


def test_refusals() -> None:
    with pytest.raises(DataError, match="four at least; got 3 and 3"):
        linear_cka(torch.randn(3, 2), torch.randn(3, 2))
    with pytest.raises(DataError, match="got 8 and 9"):
        linear_cka(torch.randn(8, 2), torch.randn(9, 2))


def test_matrices() -> None:
    a, b = torch.randn(50, 4), torch.randn(50, 6)
    np.testing.assert_allclose(cka_matrix([a, b], [a, b, a])[0, [0, 2]], 1)
    found = cka_between_tasks({"stem": [a, a], "output": [a, b]})
    np.testing.assert_allclose(found["stem"], 1)
    assert found["output"][0, 1] == found["output"][1, 0] == pytest.approx(linear_cka(a, b))
