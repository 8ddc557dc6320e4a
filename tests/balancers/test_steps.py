"""Balancers inside a training step: gradients of a network against ones that were taken task by task."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torchjd import aggregation

from mola_lightning.adapters.kinds import ADAPTER_PARAMETERS
from mola_lightning.balancers import MGDA, UW, EqualWeights, Step
from mola_lightning.core import Batch
from mola_lightning.data import Source
from mola_lightning.training import MultiTaskModule

Make = Callable[..., Any]
METHODS = ["hps", "mola_grad"]


class Gradients(Callback):
    """Keeps each step's gradients, before and after clipping."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.norms: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: MultiTaskModule, optimizer: object) -> None:
        named = module.named_parameters()
        self.before.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    def on_before_zero_grad(self, trainer: pl.Trainer, module: MultiTaskModule, optimizer: object) -> None:
        grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.cat(grads).norm())


def task_by_task(module: MultiTaskModule, batch: Batch) -> list[dict[str, Tensor]]:
    """Gradients of each task's loss, each from a forward and a backward pass of its own."""
    found = []
    for t in range(len(module.tasks)):
        module.zero_grad()
        losses, _ = module.task_losses(module(batch.images, batch.rows), batch.targets)
        losses[t].backward()
        found.append(
            {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}
        )
    module.zero_grad()
    return found


def shared_names(module: MultiTaskModule) -> list[str]:
    shared = {id(parameter) for parameter in module.architecture.shared_parameters()}
    return [n for n, parameter in module.named_parameters() if id(parameter) in shared]


def flat(gradients: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([gradients[n].flatten() for n in names])


def step(module: MultiTaskModule, batch: Batch) -> dict[str, Tensor]:
    module.zero_grad()
    module.training_step(batch, 0).backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "rule"),
    [("imtl_g", aggregation.IMTLG()), ("upgrad", aggregation.UPGrad()), ("con_fig", aggregation.ConFIG())],
)
def test_shared_parameters_get_the_combined_gradient_others_the_sum(
    method: str, name: str, rule: Any, source: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    batch = make_batch(source)
    module = make_module(method, source, balancer=make_balancer(name))
    each, shared = task_by_task(module, batch), shared_names(module)
    found = step(module, batch)
    wanted = rule(torch.stack([flat(gradients, shared) for gradients in each]))
    assert float(wanted.norm()) > 0.1
    assert torch.allclose(flat(found, shared), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    own = [n for n in found if n not in shared]
    assert any(n.startswith("heads") for n in own)
    assert any(n.rpartition(".")[2] in ADAPTER_PARAMETERS for n in own) == (method == "mola_grad")
    for n in own:
        assert torch.allclose(found[n], sum(gradients[n] for gradients in each), rtol=1e-4, atol=1e-6), n


@pytest.mark.parametrize("method", METHODS)
def test_one_backward_pass_a_present_task(
    method: str, source: Source, make_module: Make, make_balancer: Make, make_batch: Make, monkeypatch: Any
) -> None:
    calls: list[Tensor] = []  # the first parameter that each pass is for
    entered: list[Tensor] = []
    grad = torch.autograd.grad

    def counted(term: Tensor, inputs: list[Tensor], **kwargs: Any) -> Any:
        calls.append(inputs[0])
        return grad(term, inputs, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    for name, rows, passes in (("mgda", range(48), 3), ("gradnorm", range(48), 3), ("mgda", range(16, 48), 2)):
        module = make_module(method, source, balancer=make_balancer(name))
        calls.clear()
        entered.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: entered.append(t) or t):
            total = module.training_step(make_batch(source, rows), 0)
        before = len(entered)
        total.backward()
        shared = module.architecture.shared_parameters()
        assert sum(any(first is p for p in shared) for first in calls) == passes
        assert before > 0
        assert len(entered) == before  # the last backward reads nothing of the network


def test_an_absent_tasks_head_gets_zeros_as_under_the_sum(
    source: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    """Momentum goes on and weights decay alike, whatever the balancer."""
    batch = make_batch(source, range(16, 48))
    assert batch.rows.present == ("b", "c")
    for name in ("mgda", "graddrop", "gradnorm", "uw"):
        found = step(make_module("hps", source, balancer=make_balancer(name)), batch)
        assert not found["heads.a.weight"].any()


def test_separate_passes_are_not_run_through_for_other_tasks(
    single_input: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    """MoLA-Grad makes a pass a task of single-input data: the backward of a loss visits one of them, not three."""
    batch, visits = make_batch(single_input, range(8)), []
    module = make_module("mola_grad", single_input, balancer=make_balancer("mgda"))
    for head in module.heads.values():
        head.register_full_backward_hook(lambda *_: visits.append(1))
    module.training_step(batch, 0)
    assert len(visits) == 3


def test_activation_checkpointing_changes_nothing(
    source: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    """Blocks are recomputed in each of the T backward passes, each time with their own mixing weights."""
    found = []
    for blocks in ((), (r"^layer\d$",)):
        settings = {"adapter": {"checkpoint_modules": blocks}}
        module = make_module("mola_grad", source, balancer=make_balancer("imtl_g"), **settings)
        found.append(step(module, make_batch(source)))
    assert found[0].keys() == {n.replace(".inner", "") for n in found[1]}
    for n, gradient in found[1].items():
        assert torch.allclose(gradient, found[0][n.replace(".inner", "")], atol=1e-6), n


def test_accumulation_is_the_mean_of_the_steps(
    source: Source, make_module: Make, make_balancer: Make, fit: Make
) -> None:
    alone, together = Gradients(), Gradients()
    # learning rate 0: both micro-batches see the same weights
    settings = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0)}
    for callback, accumulate in ((alone, 1), (together, 2)):
        module = make_module("hps", source, balancer=make_balancer("imtl_g"), **settings)
        fit(module, source, callbacks=[callback], accumulate_grad_batches=accumulate, max_epochs=1)
    assert (len(alone.before), len(together.before)) == (2, 1)
    for n, gradient in together.before[0].items():
        wanted = (alone.before[0][n] + alone.before[1][n]) / 2
        assert torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-6), n


def test_clipping_acts_on_the_combined_gradient(
    source: Source, make_module: Make, make_balancer: Make, fit: Make
) -> None:
    seen = Gradients()
    module = make_module("mola_grad", source, balancer=make_balancer("graddrop"))
    fit(module, source, callbacks=[seen], gradient_clip_val=0.05, max_epochs=1)
    raw = torch.cat([gradient.flatten() for gradient in seen.before[0].values()]).norm()
    assert raw > 0.1
    assert all(float(norm) == pytest.approx(0.05, rel=1e-3) for norm in seen.norms)


@pytest.mark.parametrize("name", ["imtl_g", "upgrad", "aligned_mtl", "con_fig", "famo", "gradnorm"])
def test_bfloat16(name: str, source: Source, make_module: Make, make_balancer: Make, fit: Make) -> None:
    """The solvers see float32; the shared gradient is exactly that combination of the tasks' gradients."""
    module = make_module("mola_grad", source, balancer=make_balancer(name))
    fit(module, source, precision="bf16-mixed")
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in module.parameters())


def test_float16_with_a_scaler_gives_the_gradient_of_float32(
    source: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    """The scaler's factor goes in before the tasks' gradients are taken, and comes out once."""
    batch, found = make_batch(source), []
    for scale in (1.0, 1024.0):
        module = make_module("hps", source, balancer=make_balancer("imtl_g"))
        losses, units = module.task_losses(module(batch.images, batch.rows), batch.targets)
        terms, shared = losses.unbind(), module.architecture.shared_parameters()
        scaled = Step(terms, own=list(module.heads.parameters()), scale=scale)
        (module.balancer(losses, units > 0, shared, step=scaled) * scale).backward()
        found.append({n: p.grad / scale for n, p in module.named_parameters() if p.grad is not None})
    for n, gradient in found[0].items():
        assert torch.allclose(found[1][n], gradient, rtol=1e-4, atol=1e-7), n


@pytest.mark.parametrize("scale", [2.0**10, 2.0**60])
def test_float16(scale: float, source: Source, make_module: Make, make_balancer: Make, fit: Make) -> None:
    """At the larger scale gradients overflow: the scaler skips each step, and the balancer's memory stands."""
    module = make_module("hps", source, balancer=make_balancer("gradvac"))
    before = module.state_dict()["heads.a.weight"].clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    fit(module, source, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], max_epochs=1)
    skipped = scale > 2.0**20
    assert (scaler.get_scale() < scale) == skipped
    assert torch.equal(module.state_dict()["heads.a.weight"], before) == skipped
    assert module.balancer.cosines.any() != skipped
    assert all(value.isfinite().all() for value in module.parameters())


@pytest.mark.parametrize("name", ["gradnorm", "mgda", "gradvac", "con_fig", "excess_mtl"])
def test_nothing_shared_means_the_plain_sum(
    name: str, source: Source, make_module: Make, make_balancer: Make, make_batch: Make
) -> None:
    """Gradient balancers have nothing to combine in single-task learning."""
    module = make_module("single_task", source, balancer=make_balancer(name))
    found = step(module, make_batch(source, range(48)))
    wanted = step(make_module("single_task", source), make_batch(source, range(48)))
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_whose_parameters_the_optimiser_trains(source: Source, make_module: Make, make_balancer: Make) -> None:
    trained = {}
    for name in ("uw", "imtl_l", "famo", "gradnorm", "mgda"):
        module = make_module("hps", source, balancer=make_balancer(name))
        given = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
        trained[name] = [n for n, p in module.balancer.named_parameters() if id(p) in given]
    assert trained == {
        "uw": ["scalarizer.log_var"],
        "imtl_l": ["scalarizer.log_scale"],
        "famo": [],
        "gradnorm": [],
        "mgda": [],
    }


def test_famo_looks_twice_and_leaves_no_trace(
    source: Source, make_module: Make, make_balancer: Make, fit: Make
) -> None:
    counts, weights = {}, {}
    for name in ("equal", "famo"):
        module = make_module("hps", source, balancer=make_balancer(name))
        fit(module, source)
        state = module.state_dict()
        counts[name] = [int(v) for n, v in state.items() if n.endswith("num_batches_tracked")]
        weights[name] = state
    assert counts["famo"] == counts["equal"]
    assert weights["famo"]["balancer.scalarizer._w"].abs().max() > 0.01


def test_dwa_counts_epochs_of_the_trainer(source: Source, make_module: Make, make_balancer: Make, fit: Make) -> None:
    module = make_module("hps", source, balancer=make_balancer("dwa"))
    fit(module, source, max_epochs=3)
    assert int(module.balancer.epoch) == 2
    assert not torch.equal(module.balancer.rates, torch.ones(3))


def test_factories_are_told_the_number_of_tasks(source: Source, make_module: Make) -> None:
    assert make_module("hps", source, balancer=UW).balancer.scalarizer.log_var.shape == (3,)
    assert isinstance(make_module("hps", source, balancer=MGDA).balancer, MGDA)
    assert isinstance(make_module("hps", source).balancer, EqualWeights)
