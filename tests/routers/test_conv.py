"""The routing network, against vectors made with the released implementation of the paper."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mola_lightning.core import ConfigError
from mola_lightning.routers import ConvRouter, HardRouter, TopKRouter

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"


@pytest.fixture(scope="module")
def vectors() -> dict[str, torch.Tensor]:
    with np.load(FIXTURES / "router_net_E4.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]).double() for key in arrays}


@pytest.fixture
def network(vectors: dict[str, torch.Tensor]) -> ConvRouter:
    router = ConvRouter(num_experts=4).double()
    state = {key.removeprefix("sd::"): value for key, value in vectors.items() if key.startswith("sd::")}
    missing, unexpected = router.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return router


def test_published_evaluation(network: ConvRouter, vectors: dict[str, torch.Tensor]) -> None:
    routing = network.eval()(vectors["x"])
    torch.testing.assert_close(routing.logits, vectors["out_eval"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(routing.mixing, vectors["gate_eval"], rtol=1e-9, atol=1e-12)


def test_published_gradients(network: ConvRouter, vectors: dict[str, torch.Tensor]) -> None:
    images = vectors["x"].clone().requires_grad_()
    (network.eval()(images).logits * vectors["G"]).sum().backward()
    torch.testing.assert_close(images.grad, vectors["grad_x"], rtol=1e-7, atol=1e-10)
    norms = json.loads((FIXTURES / "router_net_E4.json").read_text())["grad_norms"]
    found = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters()}
    assert found == pytest.approx(norms, rel=1e-7)


def test_published_training_mode(network: ConvRouter, vectors: dict[str, torch.Tensor]) -> None:
    logits = network.train()(vectors["x"]).logits
    torch.testing.assert_close(logits, vectors["out_train"], rtol=1e-9, atol=1e-12)


def test_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in ConvRouter(num_experts=4).parameters()) == 269_332


@pytest.mark.parametrize("size", [(32, 32), (33, 20), (5, 1)])
def test_any_image_size(size: tuple[int, int]) -> None:
    assert ConvRouter(num_experts=2)(torch.randn(2, 3, *size)).mixing.shape == (2, 2)


def test_temperature_interpolates_between_uniform_and_hard() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    cold = ConvRouter(3, temperature=1e-3, blocks=1).decide(logits).mixing
    hot = ConvRouter(3, temperature=1e4, blocks=1).decide(logits).mixing
    torch.testing.assert_close(cold, torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(hot, torch.full((1, 3), 1 / 3), rtol=1e-3, atol=0)


def test_a_batch_is_routed_row_by_row() -> None:
    router = ConvRouter(num_experts=3, blocks=1).double().eval()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    alone = torch.cat([router(images[b : b + 1]).mixing for b in range(4)])
    torch.testing.assert_close(router(images).mixing, alone)


class TestInputSize:
    def test_routes_the_shrunken_image(self) -> None:
        full = ConvRouter(num_experts=3, blocks=1).eval()
        small = ConvRouter(num_experts=3, blocks=1, input_size=8).eval()
        small.load_state_dict(full.state_dict())
        images = torch.randn(2, 3, 32, 24)
        shrunken = F.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
        torch.testing.assert_close(small(images).logits, full(shrunken).logits)

    def test_the_same_size_changes_nothing(self) -> None:
        full = ConvRouter(num_experts=3, blocks=1).eval()
        same = ConvRouter(num_experts=3, blocks=1, input_size=16).eval()
        same.load_state_dict(full.state_dict())
        images = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(same(images).logits, full(images).logits)

    def test_sees_a_pattern_finer_than_its_pixels_as_grey(self) -> None:
        router = ConvRouter(num_experts=3, blocks=1, input_size=4).eval()
        board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float().expand(1, 3, 32, 32)
        torch.testing.assert_close(router(board).logits, router(torch.full_like(board, 0.5)).logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("build", [ConvRouter, HardRouter, TopKRouter])
def test_export_with_a_dynamic_batch(build: type[ConvRouter]) -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = build(num_experts=3, widths=(4, 8), blocks=1, input_size=8).eval()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            routing = self.router(images)
            return routing.expert_ids if routing.hard else routing.mixing

    model = Weights()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(4, 3, 16, 16),), dynamic_shapes={"images": {0: batch}})
    images = torch.randn(7, 3, 16, 16)
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (32, 16)}, "widths must be non-decreasing"),
        ({"widths": ()}, "widths must be non-decreasing"),
        ({"widths": (0, 16)}, "each entry of widths must be an integer >= 1, got 0"),
        ({"blocks": 0}, "blocks must be an integer >= 1, got 0"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be > 0, got nan"),
        ({"input_size": 0}, "input_size"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_refuses(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConvRouter(num_experts=3, **options)
