"""What holds for every balancer, or for those that promise it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mola_lightning.balancers import Balancer, GramianBalancer

Make = Callable[..., Balancer]
Combine = Callable[..., Tensor]

CONFLICT = torch.tensor([[4.0, 1.0, 1.0, 0.5], [-3.0, 2.0, 0.5, 1.0], [0.5, -1.0, 3.0, 0.0]])
HARD = [
    CONFLICT,
    torch.tensor([[100.0, -20.0, 5.0, 1.0], [-1.0, 2.0, 1.0, 0.5], [0.05, 0.02, -0.03, 0.04]]),
    torch.tensor([[1.0, 0.01, 0.0, 0.0], [-1.0, 0.01, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),  # nearly opposed
    torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.001], [-1.0, 1.0, 0.0, 0.0]]),  # nearly parallel
]
# The updates are not symmetric in the tasks: order of projections, weights by draw.
BY_DRAW = ("pcgrad", "gradvac", "rlw")
NON_CONFLICTING = {
    "mgda": {},
    "upgrad": {},
    "nash_mtl": {},
    "fairgrad": {},
    "con_fig": {},
    "imtl_g": {},
    "cagrad": {"c": 1.0},
}
DIRECTION_WITHOUT_UNITS = ("imtl_g", "fairgrad", "con_fig", "nash_mtl")
ABSENT = [True, False, True]


def direction(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm()


def test_equal_gradients_give_the_direction_of_the_sum(name: str, make_balancer: Make, combine: Combine) -> None:
    row = torch.tensor([1.0, -2.0, 0.5, 3.0])
    balancer = make_balancer(name)
    for _ in range(3):
        found = combine(balancer, row.repeat(3, 1), losses=[1.0, 1.0, 1.0])
        assert torch.allclose(direction(found), direction(row), atol=1e-5)


def test_an_absent_task_is_as_if_it_did_not_exist(name: str, make_balancer: Make, combine: Combine) -> None:
    three, two = make_balancer(name, 3), make_balancer(name, 2)
    for epoch in range(3):
        jacobian = HARD[0] + 0.2 * epoch
        for balancer in (three, two):
            balancer.start_epoch(epoch)
        found = combine(three, jacobian, losses=[1.0, 0.0, 0.7], present=ABSENT)
        wanted = combine(two, jacobian[[0, 2]], losses=[1.0, 0.7])
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert combine(three, HARD[0]).isfinite().all()  # the task comes back


def test_absence_leaves_no_trace(name: str, make_balancer: Make, combine: Combine) -> None:
    """A task that comes and goes: nothing becomes infinite, and no parameter of its own moves while it is away."""
    balancer = make_balancer(name)
    for step in range(6):
        for parameter in balancer.parameters():
            parameter.grad = None
        assert combine(balancer, HARD[step % 2], present=ABSENT if step % 2 else None).isfinite().all()
        own = [parameter.grad for parameter in balancer.parameters() if parameter.grad is not None]
        assert all(float(gradient[1]) == 0 for gradient in own) or step % 2 == 0
    assert not any(v.isinf().any() for v in balancer.state_dict().values() if isinstance(v, Tensor))


def test_a_batch_without_any_target_does_nothing(name: str, make_balancer: Make) -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    losses = (CONFLICT @ parameter) * 0
    total = make_balancer(name)(losses, torch.zeros(3, dtype=torch.bool), [parameter])
    total.backward()
    assert total.item() == 0
    assert not parameter.grad.any()


def test_the_order_of_tasks_does_not_matter(name: str, make_balancer: Make, combine: Combine) -> None:
    if name in BY_DRAW:
        return
    order = torch.tensor([2, 0, 1])
    for jacobian in HARD[:3]:
        losses = torch.tensor([0.5, 1.0, 2.0])
        found = combine(make_balancer(name), jacobian[order], losses=losses[order].tolist())
        wanted = combine(make_balancer(name), jacobian, losses=losses.tolist())
        assert torch.allclose(found, wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("method", NON_CONFLICTING)
def test_no_task_is_harmed(method: str, make_balancer: Make, combine: Combine) -> None:
    """Up to the solvers' precision, which is relative to the longest gradient. Frank-Wolfe's is low near opposition."""
    for jacobian in HARD[: 2 if method == "mgda" else 3]:
        found = combine(make_balancer(method, **NON_CONFLICTING[method]), jacobian)
        reach = (jacobian @ found) / (jacobian.norm(dim=1).max() * found.norm())
        assert reach.min() > -3e-3, (jacobian, reach)


@pytest.mark.parametrize("pair", [[0, 1], [0, 2], [1, 2]])
def test_gradient_surgery_harms_neither_of_two_tasks(pair: list[int], make_balancer: Make, combine: Combine) -> None:
    """With three it may: what was taken out can come back. And between two there is no order."""
    for jacobian in HARD:
        two = jacobian[pair]
        found = combine(make_balancer("pcgrad", 2), two)
        assert (two @ found).min() > -1e-4 * two.norm(dim=1).max() * found.norm()
        assert torch.allclose(combine(make_balancer("pcgrad", 2), two.flip(0)), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", DIRECTION_WITHOUT_UNITS)
def test_a_tasks_unit_does_not_change_the_direction(method: str, make_balancer: Make, combine: Combine) -> None:
    units = torch.tensor([[1.0], [3.0], [0.5]] if method == "nash_mtl" else [[1.0], [50.0], [0.1]])
    found, wanted = (combine(make_balancer(method), jacobian) for jacobian in (units * CONFLICT, CONFLICT))
    assert torch.allclose(direction(found), direction(wanted), atol=0.02)


def test_the_unit_of_a_loss_does_not_change_si(make_balancer: Make, combine: Combine) -> None:
    units, losses = torch.tensor([1.0, 50.0, 0.1]), torch.tensor([0.5, 1.0, 2.0])
    wanted = combine(make_balancer("si"), CONFLICT, losses=losses.tolist())
    found = combine(make_balancer("si"), units[:, None] * CONFLICT, losses=(units * losses).tolist())
    assert torch.allclose(found, wanted, rtol=1e-5)


SCALE_FREE = ("mgda", "pcgrad", "gradvac", "cagrad", "imtl_g", "aligned_mtl", "upgrad", "sdmgrad")


def test_those_that_claim_to_be_scale_free_are_tested(name: str, make_balancer: Make) -> None:
    balancer = make_balancer(name)
    # FairGrad solves at unit scale, but its weights do depend on the scale: by a factor that it knows.
    claims = isinstance(balancer, GramianBalancer) and balancer.scale_free and name != "fairgrad"
    assert claims == (name in SCALE_FREE)


@pytest.mark.parametrize("method", SCALE_FREE)
def test_tiny_gradients_are_balanced_like_others(method: str, make_balancer: Make, combine: Combine) -> None:
    """Solvers have absolute tolerances: TorchJD's CAGrad gives zero weights below norms of 0.01."""
    found = combine(make_balancer(method), 1e-4 * CONFLICT) / 1e-4
    assert torch.allclose(found, combine(make_balancer(method), CONFLICT), rtol=1e-3, atol=1e-4)


def test_state_goes_through_a_checkpoint(name: str, make_balancer: Make, combine: Combine, tmp_path: object) -> None:
    """Saved in the middle, loaded strictly and safely into a fresh object: the next steps are the same to the bit."""

    def steps(balancer: Balancer, numbers: range) -> list[Tensor]:
        found = []
        for step in numbers:
            balancer.start_epoch(step // 2)
            present = ABSENT if step % 3 == 1 else None
            found.append(combine(balancer, HARD[0] + 0.1 * step, losses=[1.0, 2.0 - 0.1 * step, 0.7], present=present))
        return found

    balancer = make_balancer(name)
    steps(balancer, range(5))
    path = f"{tmp_path}/balancer.ckpt"
    torch.save(balancer.state_dict(), path)
    again = make_balancer(name)
    again.load_state_dict(torch.load(path, weights_only=True), strict=True)
    torch.manual_seed(99)  # draws must not depend on the global generator
    wanted = steps(balancer, range(5, 9))
    torch.manual_seed(7)
    found = steps(again, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_draws_leave_the_global_generator_alone(name: str, make_balancer: Make, combine: Combine) -> None:
    before = torch.random.get_rng_state()
    combine(make_balancer(name), CONFLICT)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", ["pcgrad", "rlw", "graddrop"])
def test_another_seed_draws_otherwise(method: str, make_balancer: Make, combine: Combine) -> None:
    found = [combine(make_balancer(method, seed=seed), HARD[0]) for seed in range(8)]
    assert any(not torch.allclose(found[0], other) for other in found[1:])


@pytest.mark.parametrize("method", [*SCALE_FREE, "con_fig", "excess_mtl", "gradnorm", "nash_mtl"])
def test_an_overflow_passes_without_a_trace(method: str, make_balancer: Make, combine: Combine) -> None:
    """In float16 gradients overflow now and then; the scaler skips the step when it sees it."""
    struck, spared = make_balancer(method), make_balancer(method)
    for balancer in (struck, spared):
        combine(balancer, CONFLICT)
    assert not combine(struck, CONFLICT * torch.tensor([1.0, torch.inf, 1.0, 1.0])).isfinite().all()
    assert torch.allclose(combine(struck, HARD[1]), combine(spared, HARD[1]), rtol=1e-5)
