"""One training step, taken apart: what it adds up, what it steps, and what it refuses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.architectures import HPS, SingleTask
from mola_lightning.core import Batch, ConfigError, Regime
from mola_lightning.data import BalancedSampler
from mola_lightning.losses import TwDLoss
from mola_lightning.training import MultiTaskModule

Make = Callable[..., Any]
METHODS = ["hps", "single_task", "mola_grad", "mola_router"]
REGIMES = ["domains", "multi_input", "single_input"]


def task_losses(module: MultiTaskModule, batch: Batch) -> dict[str, Tensor]:
    """The mean cross-entropy of each task that is present, by a loop."""
    predictions = module(batch.images, batch.rows).predictions
    return {name: F.cross_entropy(predictions[name], batch.targets[name]) for name in batch.rows.present}


def mixed_rows(source: Any, count: int) -> list[int]:
    """Rows from all over the training split, so that each task has some."""
    size = len(source.dataset("train"))
    return [1, 2, *range(0, size, size // count)]


# ------------------------------------------------------------------------------------------------------- the total loss


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("method", METHODS[:3])
def test_the_loss_is_the_sum_of_the_tasks_means(
    regime: str, method: str, make_source: Make, make_module: Make, make_batch: Make
) -> None:
    source = make_source(regime)
    module, batch = make_module(method, source), make_batch(source, "train", mixed_rows(source, 11))
    assert len(set(batch.rows.counts.values())) > 1  # else a mean over all rows would pass too
    total = module.training_step(batch, 0)
    torch.testing.assert_close(total, sum(task_losses(module, batch).values()))


@pytest.mark.parametrize("weight", [0.1, 0.7])
def test_twd_comes_on_top_once(weight: float, make_source: Make, make_module: Make, make_batch: Make) -> None:
    source = make_source("domains")
    module, batch = make_module("mola_router", source, twd_weight=weight), make_batch(source, "train", range(0, 140, 9))
    total = module.training_step(batch, 0)
    output = module(batch.images, batch.rows)
    twd = module.auxiliary["twd"].decorrelation(output.routing.logits, batch.rows.task_ids)
    losses, _ = module.task_losses(output, batch.targets)
    assert twd > 0
    assert torch.equal(total, losses.sum() + weight * twd)
    logged = module.meters["train_"].compute()
    torch.testing.assert_close(logged["aux/twd"], twd)  # logged as it is, without its weight
    torch.testing.assert_close(logged["loss"], total)


def test_mola_router_weighs_twd_by_a_tenth(make_source: Make, make_module: Make) -> None:
    assert make_module("mola_router", make_source("domains")).auxiliary["twd"].weight == 0.1
    assert not make_module("mola_router", make_source("domains"), twd_weight=0).auxiliary
    assert not make_module("mola_grad", make_source("domains")).auxiliary


def linear_backbone(**_: Any) -> nn.Module:
    """Features that depend on each image alone: no batch normalisation that would tell architectures apart."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
    net.num_features = 6
    return net


@pytest.mark.parametrize("regime", REGIMES)
def test_the_loss_does_not_depend_on_the_sharing_scheme(regime: str, make_source: Make, make_batch: Make) -> None:
    source, net = make_source(regime), linear_backbone()
    batch = make_batch(source, "train", mixed_rows(source, 17))
    modules = [
        MultiTaskModule(source.tasks, scheme(source.tasks, net, source.image_shape)) for scheme in (HPS, SingleTask)
    ]
    modules[1].heads.load_state_dict(modules[0].heads.state_dict())
    shared, single = (module.training_step(batch, 0) for module in modules)
    torch.testing.assert_close(shared, single)


# ------------------------------------------------------------------------------------------------ batches of all shapes


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("method", METHODS)
def test_an_absent_task_adds_nothing(
    regime: str, method: str, make_source: Make, make_module: Make, make_batch: Make
) -> None:
    source = make_source(regime)
    # Task c: missing from the first rows of images with one task each, and from the last of those with several.
    size = len(source.dataset("train"))
    rows = range(8) if regime != "single_input" else range(size - 9, size)
    module, batch = make_module(method, source), make_batch(source, "train", rows)
    assert "c" not in batch.rows.present
    total = module.training_step(batch, 0)
    total.backward()
    assert total.isfinite()
    expected = sum(task_losses(module, batch).values())
    if module.auxiliary:
        expected = expected + 0.1 * module.meters["train_"].compute()["aux/twd"]
    torch.testing.assert_close(total, expected)
    assert "c/loss" not in module.meters["train_"].compute()
    for name, parameter in module.named_parameters():
        if name.startswith(("heads.c", "architecture.backbones.c")):
            assert parameter.grad is None or not parameter.grad.any(), name
        elif name.endswith("lora_A") and method == "mola_grad":
            assert not parameter.grad[2].any(), f"the expert of task c moved: {name}"
            assert parameter.grad[0].any() or name.endswith("lora_A")


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_image(regime: str, method: str, make_source: Make, make_module: Make, make_batch: Make) -> None:
    source = make_source(regime)
    module = make_module(method, source)
    total = module.training_step(make_batch(source, "train", [0]), 0)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_predictions_answer_the_rows(make_source: Make, make_module: Make, make_batch: Make) -> None:
    source = make_source("single_input")
    batch = make_batch(source, "val", range(9))
    for method in METHODS:
        output = make_module(method, source).eval().predict_step(batch, 0)
        for task in source.tasks:
            assert output.predictions[task.name].shape == (batch.rows.counts[task.name], task.num_outputs)


# --------------------------------------------------------------------------------------------------------- optimisation


class Watch(Callback):
    """Parameters and gradients at each optimiser step."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = dict(pl_module.named_parameters())
        self.before.append({name: p.detach().clone() for name, p in named.items()})
        self.gradients.append({name: p.grad.clone() for name, p in named.items() if p.grad is not None})


@pytest.mark.parametrize("method", METHODS)
def test_each_parameter_is_stepped_once(method: str, make_source: Make, make_module: Make, fit: Make) -> None:
    source, watch, lr = make_source("domains"), Watch(), 0.25
    module = make_module(method, source, optimizer=partial(torch.optim.SGD, lr=lr))
    trainer = fit(
        module, source, sampler=BalancedSampler, limit_train_batches=1, limit_val_batches=0, callbacks=[watch]
    )
    (optimizer,) = trainer.optimizers
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert len(watch.before) == 1
    for name, parameter in module.named_parameters():
        gradient = watch.gradients[0][name]
        assert torch.equal(parameter, watch.before[0][name].add(gradient, alpha=-lr)), name
        if not name.endswith("lora_A"):  # with B = 0 there is no gradient to A in the first step
            assert gradient.any(), f"no gradient for {name}"


@pytest.mark.parametrize("method", ["hps", "mola_router"])
def test_accumulation_takes_the_mean_gradient(method: str, make_source: Make, make_module: Make, fit: Make) -> None:
    source, watch = make_source("domains"), Watch()
    sgd = partial(torch.optim.SGD, lr=0.1)
    module = make_module(method, source, optimizer=sgd)
    batches: list[Batch] = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            batches.append(batch)

    fit(
        module, source, accumulate_grad_batches=2, limit_train_batches=2, limit_val_batches=0, callbacks=[watch, Keep()]
    )
    assert len(watch.before) == 1
    again = make_module(method, source, optimizer=sgd)
    sum(again.training_step(batch, 0) for batch in batches).backward()
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, watch.before[0][name])
        torch.testing.assert_close(watch.gradients[0][name], parameter.grad / 2, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_their_norm(make_source: Make, make_module: Make, fit: Make) -> None:
    source, watch, bound = make_source("domains"), Watch(), 1e-2
    module = make_module("mola_router", source, optimizer=partial(torch.optim.SGD, lr=1.0))
    fit(module, source, gradient_clip_val=bound, limit_train_batches=1, limit_val_batches=0, callbacks=[watch])
    moved = [p.detach() - watch.before[0][name] for name, p in module.named_parameters()]
    torch.testing.assert_close(torch.cat([m.flatten() for m in moved]).norm().item(), bound, rtol=1e-2, atol=0)


def test_a_schedule_steps_by_epoch(make_source: Make, make_module: Make, fit: Make) -> None:
    source = make_source("domains", {"train": 12, "val": 4})
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    module = make_module("hps", source, scheduler=schedule)
    assert fit(module, source, max_epochs=2).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**2)


# ----------------------------------------------------------------------------------------------------- parameter groups


def test_options_by_parameter_name(make_source: Make, make_module: Make) -> None:
    patterns = {r"lora_[AB]$": {"lr": 0.5}, r"^heads\.b": {"lr": 0.25, "weight_decay": 0.0}}
    module = make_module("mola_grad", make_source("domains"), parameter_groups=patterns)
    optimizer = module.configure_optimizers()["optimizer"]
    names = {id(p): name for name, p in module.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == len(names)
    for name, lr in found.items():
        expected = 0.5 if "lora_" in name else 0.25 if name.startswith("heads.b") else 0.01
        assert lr == expected, name


def test_the_first_pattern_wins(make_source: Make, make_module: Make) -> None:
    patterns = {"lora_A": {"lr": 1.0}, "lora_": {"lr": 2.0}, "": {"lr": 3.0}}
    module = make_module("mola_grad", make_source("domains"), parameter_groups=patterns)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["lr"] for group in groups] == [1.0, 2.0, 3.0]  # the last takes all that is left


@pytest.mark.parametrize("patterns", [{"nothing": {"lr": 1}}, {"lora_": {"lr": 1}, "lora_A": {"lr": 2}}])
def test_a_pattern_without_a_parameter_is_refused(
    patterns: dict[str, Any], make_source: Make, make_module: Make
) -> None:
    module = make_module("mola_grad", make_source("domains"), parameter_groups=patterns)
    with pytest.raises(ConfigError, match=f"{list(patterns)[-1]}.*no trainable parameter.*architecture"):
        module.configure_optimizers()


# -------------------------------------------------------------------------------------------- what cannot work together


@pytest.mark.parametrize("method", METHODS[:3])
def test_twd_needs_logits(method: str, make_source: Make, make_module: Make) -> None:
    with pytest.raises(ConfigError, match=f"'twd'.*{method}.*auxiliary=none"):
        make_module(method, make_source("domains"), auxiliary={"twd": partial(TwDLoss, weight=0.1)})


def test_a_scheme_is_refused_on_a_regime_it_is_not_defined_for(make_source: Make, make_module: Make, fit: Make) -> None:
    source = make_source("multi_input")
    module = make_module("hps", source)
    module.architecture.regimes = frozenset({Regime.DOMAINS})
    with pytest.raises(ConfigError, match="HPS is not defined for the multi_input regime.*domains"):
        fit(module, source)
