"""MGDA-UB and Aligned-MTL-UB: where they are defined, against the formula; where not, a refusal with the reason."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd import aggregation

from mola_lightning.architectures import Features
from mola_lightning.core import ConfigError, TaskRows
from mola_lightning.data import Source

Make = Callable[..., Any]
WEIGHTINGS = {"mgda_ub": aggregation.MGDAWeighting(), "aligned_mtl_ub": aggregation.AlignedMTLWeighting()}


@pytest.fixture(params=list(WEIGHTINGS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("method", ["hps", "mola_router"])
def test_shared_parameters_get_the_weighted_gradient(
    name: str, method: str, single_input: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    batch = make_batch(single_input, range(10))
    module = make_module(method, single_input, balancer=make_balancer(name))
    shared = {id(parameter) for parameter in module.architecture.shared_parameters()}
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    rows, gradients = [], []
    for t, task in enumerate(module.tasks):
        output, features = module._predict(batch.images, batch.rows)
        losses, _ = module.task_losses(output, batch.targets)
        feature = features.per_task[task.name]
        found = torch.autograd.grad(losses[t], [feature, *named.values()], allow_unused=True, materialize_grads=True)
        row = torch.zeros(len(batch), feature.shape[1])
        row[batch.rows[task.name]] = found[0]
        rows.append(row.flatten())
        gradients.append(dict(zip(named, found[1:], strict=True)))
    jacobian = torch.stack(rows)
    gramian = jacobian @ jacobian.T
    assert not torch.equal(gramian, gramian.diag().diag())
    weights = WEIGHTINGS[name](gramian)
    module.training_step(batch, 0).backward()
    for n, parameter in named.items():
        scales = weights if id(parameter) in shared else torch.ones(3)
        wanted = sum(scale * gradient[n] for scale, gradient in zip(scales, gradients, strict=True))
        assert parameter.grad is not None or not wanted.any()
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, wanted, rtol=1e-3, atol=1e-5), n


def test_an_epoch(name: str, single_input: Source, make_module: Make, make_balancer: Make, fit: Make) -> None:
    for method in ("hps", "mola_router"):
        module = make_module(method, single_input, balancer=make_balancer(name))
        fit(module, single_input, precision="bf16-mixed" if method == "hps" else "32-true")
        assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_an_absent_task_has_no_say(
    name: str, make_balancer: Make, single_input: Source, make_module: Make, make_batch: Make
) -> None:
    batch = make_batch(single_input, [0, 4, 8, 12])  # none of these has a target for the last task
    assert batch.rows.present == ("a", "b")
    module = make_module("hps", single_input, balancer=make_balancer(name))
    total = module.training_step(batch, 0)
    total.backward()
    grads: list[Tensor] = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in grads)
    assert any(gradient.any() for gradient in grads)


def test_refused_where_each_row_has_one_task(
    name: str, source: Source, make_module: Make, make_balancer: Make, make_batch: Make, fit: Make
) -> None:
    module = make_module("hps", source, balancer=make_balancer(name))
    with pytest.raises(ConfigError, match=r"domains regime each row belongs to one task.*diagonal"):
        fit(module, source)
    untold = make_module("hps", source, balancer=make_balancer(name))
    with pytest.raises(ConfigError, match="each row belongs to one task"):
        untold.training_step(make_batch(source), 0)  # no data module said the regime


def test_refused_where_tasks_have_features_of_their_own(
    name: str, single_input: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    loop = make_module("mola_grad", single_input, balancer=make_balancer(name))
    tile = make_module("mola_grad", single_input, balancer=make_balancer(name), single_input="tile")
    parts = make_module("hps", single_input, balancer=make_balancer(name))

    def one_pass_over_queries(images: Tensor, rows: TaskRows) -> Features:
        """Parts of one tensor, but not the rows of one and the same image."""
        features = parts.architecture.backbone(images[rows.queries[0]]).split(list(rows.counts.values()))
        return Features(dict(zip(rows, features, strict=True)))

    parts.architecture.forward = one_pass_over_queries
    for module in (loop, tile, parts):
        with pytest.raises(ConfigError, match="features of its own"):
            module.training_step(make_batch(single_input, range(8)), 0)
    module = make_module("single_task", single_input, balancer=make_balancer(name))
    module.training_step(make_batch(single_input, range(8)), 0).backward()  # nothing shared: the plain sum
