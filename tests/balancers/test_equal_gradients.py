"""Tasks that want the same: whatever the balancer, the network is moved in the direction of the plain sum."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mola_lightning.core import Batch
from mola_lightning.data import Source
from mola_lightning.training import MultiTaskModule

Make = Callable[..., Any]


def shared_gradient(module: MultiTaskModule, batch: Batch) -> Tensor:
    """Of the second step at the same weights: memories of the first take part."""
    for step in range(2):
        module.zero_grad()
        module.training_step(batch, step).backward()
    return torch.cat([p.grad.flatten() for p in module.architecture.shared_parameters() if p.grad is not None])


@pytest.fixture
def twins(single_input: Source, make_module: Make, make_batch: Make) -> Callable[..., tuple[MultiTaskModule, Batch]]:
    """``twins(method, **settings)``: a module whose three heads and experts are equal, and a batch where all three
    tasks have the same targets for all rows.
    """

    def make(method: str, **settings: Any) -> tuple[MultiTaskModule, Batch]:
        module = make_module(method, single_input, **settings)
        for head in module.heads.values():
            head.load_state_dict(module.heads["a"].state_dict())
        for name, parameter in module.named_parameters():
            if name.endswith(("lora_A", "lora_B")):
                with torch.no_grad():
                    parameter.copy_(parameter[:1].expand_as(parameter))
        batch = make_batch(single_input, [1, 2, 3, 5, 6, 7, 9, 10])
        batch.targets = dict.fromkeys(batch.targets, batch.targets["a"])
        return module, batch

    return make


@pytest.fixture(scope="module")
def wanted() -> dict[str, Tensor]:
    """Method -> the gradient of the plain sum."""
    return {}


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


@pytest.mark.parametrize("method", ["hps", "mola_grad", "mola_router"])
def test_every_balancer_is_the_sum(
    name: str, method: str, twins: Make, make_balancer: Make, wanted: dict[str, Tensor]
) -> None:
    if method not in wanted:
        wanted[method] = shared_gradient(*twins(method))
    found = shared_gradient(*twins(method, balancer=make_balancer(name)))
    assert cosine(found, wanted[method]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", ["hps", "mola_router"])
@pytest.mark.parametrize("balancer", ["mgda_ub", "aligned_mtl_ub"])
def test_balancers_of_features_are_the_sum(
    balancer: str, method: str, twins: Make, make_balancer: Make, wanted: dict[str, Tensor]
) -> None:
    if method not in wanted:
        wanted[method] = shared_gradient(*twins(method))
    found = shared_gradient(*twins(method, balancer=make_balancer(balancer)))
    assert cosine(found, wanted[method]) == pytest.approx(1, abs=1e-5)
