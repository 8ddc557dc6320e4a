"""Experts whose weight changes are built by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone
from mola_lightning.analysis.spectra import (
    effective_rank,
    expert_spectra,
    model_distances,
    principal_angles,
    stage_shares,
)
from mola_lightning.core import ConfigError

KINDS = ["reshaped", "factorised", "full"]


def linear_experts(deltas: list[Tensor], kind: str = "factorised", rank: int = 2) -> AdaptedBackbone:
    """A linear layer (O, I) whose experts have these weight changes, each of rank ``rank`` at most."""
    out, inner = deltas[0].shape
    backbone = AdaptedBackbone(
        nn.Sequential(nn.Linear(inner, out)), num_experts=len(deltas), rank=rank, alpha=rank, kind=kind
    )
    layer = backbone.adapted["0"]
    with torch.no_grad():
        for e, delta in enumerate(deltas):
            if kind == "full":
                layer.expert_weight[e] = delta
            else:
                u, s, v = torch.linalg.svd(delta, full_matrices=False)
                layer.lora_B[e] = (u * s)[:, :rank]
                layer.lora_A[e] = v[:rank].reshape(layer.lora_A[e].shape)
    return backbone


def diagonal(*values: float) -> Tensor:
    delta = torch.zeros(6, 5)
    for i, value in enumerate(values):
        delta[i, i] = value
    return delta


def test_effective_rank() -> None:
    assert effective_rank(torch.tensor([3.0, 3.0, 0.0])) == pytest.approx(2)
    assert effective_rank(torch.tensor([0.5, 0.0])) == pytest.approx(1)
    assert 1 < effective_rank(torch.tensor([3.0, 1.0])) < 2
    assert math.isnan(effective_rank(torch.zeros(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_with_two_equal_singular_values(kind: str) -> None:
    backbone = linear_experts([diagonal(2.0, 2.0), diagonal(1.0)], kind)
    found = expert_spectra(backbone.adapted, {"0": "output"})
    assert found.table["effective_rank"].tolist() == pytest.approx([2, 1])
    assert found.table["norm"].tolist() == pytest.approx([8**0.5, 1])
    assert found.table["largest_rank"].tolist() == [5, 5] if kind == "full" else [2, 2]
    np.testing.assert_allclose(found.singular_values["0"][:, :3], [[2, 2, 0], [1, 0, 0]], atol=1e-6)
    assert found.table["stage"].tolist() == ["output", "output"]


def test_principal_angles() -> None:
    eye = torch.eye(4)
    torch.testing.assert_close(principal_angles(eye[:, :2], eye[:, 2:]), torch.tensor([90.0, 90.0]).double())
    turned = torch.stack([eye[:, 0], (eye[:, 1] + eye[:, 2]) / 2**0.5], dim=1)
    found = principal_angles(eye[:, :2], turned)
    torch.testing.assert_close(found, torch.tensor([0.0, 45.0]).double(), atol=1e-2, rtol=0)


def test_experts_with_the_same_and_with_orthogonal_columns() -> None:
    deltas = [diagonal(1.0, 2.0), diagonal(3.0, 1.0), torch.roll(diagonal(1.0, 1.0), 3, dims=0), torch.zeros(6, 5)]
    found = expert_spectra(linear_experts(deltas).adapted, {})
    angles = found.angles
    assert angles[0, 1] == pytest.approx(0, abs=0.1)
    assert angles[0, 2] == angles[1, 2] == pytest.approx(90, abs=0.1)
    assert np.isnan(angles[3]).all(), "an expert that is zero has no columns"


def test_random_subspaces_have_the_angle_of_chance() -> None:
    deltas = [torch.randn(200, 3) @ torch.randn(3, 50) for _ in range(5)]
    found = expert_spectra(linear_experts(deltas, "full").adapted, {})
    others = found.angles[~np.eye(5, dtype=bool)]
    assert found.random_angle == pytest.approx(math.degrees(math.acos((3 / 200) ** 0.5)))
    assert others.mean() == pytest.approx(found.random_angle, abs=2)


def test_a_reshaped_convolution_keeps_its_bound() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3))
    backbone = AdaptedBackbone(net, num_experts=2, rank=2, alpha=3)
    layer = backbone.adapted["0"]
    nn.init.normal_(layer.lora_B)
    found = expert_spectra(backbone.adapted, {"0": "stem"})
    assert found.table["largest_rank"].tolist() == [6, 6]
    assert (found.singular_values["0"] > 1e-5).sum(axis=1).tolist() == [6, 6]
    norms = [float(layer.delta(e).detach().norm()) for e in (0, 1)]
    assert found.table["norm"].tolist() == pytest.approx(norms)
    assert found.table["relative_norm"].tolist() == pytest.approx(
        [n / float(layer.weight.detach().norm()) for n in norms]
    )


def test_distances_of_merged_models_against_merging_them() -> None:
    backbone = linear_experts([torch.randn(6, 2) @ torch.randn(2, 5) for _ in range(3)])
    mixing = torch.rand(4, 3)
    found = expert_spectra(backbone.adapted, {})
    distances = model_distances(found.inner, mixing.double().numpy(), found.weight_norm)
    merged = torch.stack([backbone.merge(mixing=weights)[0].weight.detach() for weights in mixing])
    expected = (merged[:, None] - merged[None]).flatten(2).norm(dim=2) / backbone.adapted["0"].weight.norm()
    np.testing.assert_allclose(distances, expected.detach(), atol=1e-4)


def test_shares_of_the_stages() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    backbone = AdaptedBackbone(net, num_experts=2, rank=1, alpha=1, kind="full")
    with torch.no_grad():
        backbone.adapted["0"].expert_weight[0, 0, 0] = 3.0
        backbone.adapted["1"].expert_weight[0, 0, 0] = 4.0
        backbone.adapted["1"].expert_weight[1, 0, 0] = 1.0
    shares = stage_shares(expert_spectra(backbone.adapted, {"0": "stem", "1": "output"}).table)
    assert list(shares.columns) == ["stem", "output"]
    np.testing.assert_allclose(shares, [[9 / 25, 16 / 25], [0, 1]])


def test_nothing_to_look_at() -> None:
    with pytest.raises(ConfigError, match="no adapted layer"):
        expert_spectra({}, {})
