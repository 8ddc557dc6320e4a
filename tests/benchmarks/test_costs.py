"""Costs beside a reference: passes, arithmetic and memory are what the methods need by their definition."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mola_lightning.architectures import HPS, Architecture, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.benchmarks import Passes, Reference, TimedStep, noise_data, whole_batch
from mola_lightning.benchmarks.arithmetic import MultiplyAdds
from mola_lightning.benchmarks.costs import count_passes
from mola_lightning.core import ConfigError, Regime
from mola_lightning.training import MultiTaskModule

CONF = Path(__file__).parents[2] / "conf" / "balancer"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
TASKS, SIZE, ROWS = 3, 8, 6
ALL_TASKS_ON_ALL_ROWS = ("aligned_mtl_ub", "mgda_ub")
# Of the losses alone, or of the gradients of features: one backward pass. The others want a gradient of each task.
ONE_BACKWARD = ("equal", "ls", "si", "rlw", "dwa", "uw", "imtl_l", "stch", "famo", *ALL_TASKS_ON_ALL_ROWS)
TWO_FORWARD = ("famo",)  # the losses before and after the optimiser's step

MakeStep = Callable[..., TimedStep]


def needed(name: str) -> Passes:
    """The passes of a step by the method's definition."""
    return Passes(2 if name in TWO_FORWARD else 1, 1 if name in ONE_BACKWARD else TASKS)


def regime_of(name: str) -> Regime:
    return Regime.SINGLE_INPUT if name in ALL_TASKS_ON_ALL_ROWS else Regime.DOMAINS


@pytest.fixture(scope="module")
def make_step() -> MakeStep:
    """``make_step("pcgrad")``: three tasks, hard sharing."""

    def make(
        balancer: str = "equal", architecture: type[Architecture] = HPS, regime: Regime | None = None
    ) -> TimedStep:
        torch.manual_seed(0)
        data = noise_data(regime or regime_of(balancer), TASKS, SIZE, ROWS)
        config = OmegaConf.create({"seed": 0, "balancer": OmegaConf.load(CONF / f"{balancer}.yaml")})
        backbone = partial(create_small_resnet, widths=(4, 8), blocks=(1, 1))
        module = MultiTaskModule(
            data.tasks,
            architecture(data.tasks, backbone),
            balancer=instantiate(config.balancer, _convert_="all"),
            optimizer=partial(torch.optim.AdamW, lr=1e-6),
        )
        module.check_regime(data.regime)
        return TimedStep(module, whole_batch(data), torch.device("cpu"))

    return make


# ------------------------------------------------------------------------------------------------------------ balancers


@pytest.mark.parametrize("name", NAMES)
def test_no_balancer_runs_the_network_more_often_than_it_needs(name: str, make_step: MakeStep) -> None:
    step = make_step(name)
    step()  # what a first step does once does not count
    assert count_passes(step) == needed(name)


@pytest.mark.parametrize("name", NAMES)
def test_no_balancer_computes_more_than_it_needs(name: str, make_step: MakeStep) -> None:
    """Its passes, and for gradients of all tasks their Gramian and one weighted sum of them."""
    equal, step = make_step(regime=regime_of(name)), make_step(name)
    with MultiplyAdds() as forward, torch.no_grad():
        equal.module(equal.batch.images, equal.batch.rows)
    backward = equal.multiply_adds() - forward.total
    shared = sum(p.numel() for p in equal.module.architecture.parameters())
    passes = needed(name)
    allowed = passes.forward * forward.total + passes.backward * backward
    if passes.backward > 1 or name in ALL_TASKS_ON_ALL_ROWS:
        allowed += TASKS * (TASKS + 1) * shared
    assert TASKS * (TASKS + 1) * shared < backward / 2  # else a pass too many could hide in it
    for _ in range(2):
        assert step.multiply_adds() <= allowed


def test_state_that_a_balancer_keeps_is_counted(make_step: MakeStep) -> None:
    """ExcessMTL keeps T numbers for each shared parameter, which no parameter or buffer holds."""
    step, equal = make_step("excess_mtl"), make_step("equal")
    shared = sum(p.numel() for p in step.module.architecture.parameters())
    step()
    equal()
    more = step.resident_bytes() - equal.resident_bytes()
    assert more == pytest.approx(4 * TASKS * shared, abs=200)


# --------------------------------------------------------------------------------------------------------------- passes


def test_passes_of_hard_sharing(make_step: MakeStep) -> None:
    assert count_passes(make_step()) == (1, 1)


def test_counting_leaves_no_hook(make_step: MakeStep) -> None:
    step = make_step()
    count_passes(step)
    assert not any(module._forward_hooks for module in step.module.modules())


# ---------------------------------------------------------------------------------------------------------------- costs


def test_a_step_beside_itself_costs_the_same(make_step: MakeStep) -> None:
    cost = Reference(make_step()).cost(make_step(), rounds=3)
    assert len(cost.own.seconds) == len(cost.reference.seconds) == 3
    assert cost.parameters == 1
    assert cost.own.peak_bytes == cost.reference.peak_bytes
    assert cost.own.multiply_adds == cost.reference.multiply_adds


def test_each_rival_is_timed_beside_its_own_rounds_of_the_reference(make_step: MakeStep) -> None:
    reference = Reference(make_step())
    first, second = (reference.cost(make_step(), rounds) for rounds in (1, 2))
    assert (len(first.reference.seconds), len(second.reference.seconds)) == (1, 2)
    assert first.reference.seconds[0] not in second.reference.seconds


def test_a_backbone_for_each_task_has_more_parameters_and_the_same_arithmetic(make_step: MakeStep) -> None:
    single, shared = make_step(architecture=SingleTask), make_step()
    cost = Reference(shared).cost(single, rounds=1)
    backbone = sum(p.numel() for p in shared.module.architecture.parameters())
    heads = sum(p.numel() for p in shared.module.heads.parameters())
    assert cost.parameters == pytest.approx((TASKS * backbone + heads) / (backbone + heads))
    assert cost.own.multiply_adds == cost.reference.multiply_adds


# ---------------------------------------------------------------------------------------------------------------- noise


def test_domains_share_the_rows_in_mixed_order() -> None:
    data = noise_data(Regime.DOMAINS, 3, 8, 9)
    batch = whole_batch(data)
    assert data.regime is Regime.DOMAINS
    assert batch.images.shape == (9, 3, 8, 8)
    assert batch.rows.disjoint
    assert set(batch.rows.counts.values()) == {3}
    assert batch.rows.task_ids.diff().min() < 0
    assert torch.equal(batch.images, whole_batch(noise_data(Regime.DOMAINS, 3, 8, 9)).images)


def test_single_input_rows_have_all_targets() -> None:
    data = noise_data(Regime.SINGLE_INPUT, 3, 8, 4)
    batch = whole_batch(data)
    assert data.regime is Regime.SINGLE_INPUT
    assert batch.rows.counts == {"task0": 4, "task1": 4, "task2": 4}


def test_noise_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="rows"):
        noise_data(Regime.DOMAINS, 3, 8, 0)
    with pytest.raises(ConfigError, match="regime"):
        noise_data(Regime.MULTI_INPUT, 3, 8, 4)
