"""What each rule makes of known gradients: TorchJD's own answer, or a closed form."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation, scalarization

from mola_lightning.balancers import GramianBalancer
from mola_lightning.balancers.draws import Draws
from mola_lightning.balancers.gradient import gramian_of

Make = Callable[..., GramianBalancer]
Combine = Callable[..., Tensor]

MATRICES = {
    "conflicting": torch.tensor([[4.0, 1.0, 1.0, 0.5], [-3.0, 2.0, 0.5, 1.0], [0.5, -1.0, 3.0, 0.0]]),
    "agreeing": torch.tensor([[1.0, 0.2, 0.1, 0.0], [0.9, 0.5, 0.3, 0.1], [0.7, 0.1, 0.8, 0.2]]),
    "orthogonal": torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]]),
    "uneven": torch.tensor([[100.0, -20.0, 5.0, 1.0], [-1.0, 2.0, 1.0, 0.5], [0.05, 0.02, -0.03, 0.04]]),
}
# What TorchJD has for the same method, on the gradients themselves.
AGGREGATORS = {
    "mgda": aggregation.MGDA,
    "pcgrad": aggregation.PCGrad,
    "gradvac": aggregation.GradVac,
    "cagrad": partial(aggregation.CAGrad, c=0.5),
    "nash_mtl": partial(aggregation.NashMTL, n_tasks=3),
    "imtl_g": aggregation.IMTLG,
    "aligned_mtl": aggregation.AlignedMTL,
    "upgrad": aggregation.UPGrad,
    "fairgrad": partial(aggregation.FairGrad, alpha=1.0),
    "excess_mtl": partial(aggregation.ExcessMTL, robust_step_size=0.01),
    "graddrop": aggregation.GradDrop,
    "con_fig": aggregation.ConFIG,
}
SCALARIZERS = {
    "rlw": scalarization.Random,
    "uw": partial(scalarization.UW, 3),
    "imtl_l": partial(scalarization.IMTLL, 3),
    "stch": partial(scalarization.STCH, 0.1),
    "famo": partial(scalarization.FAMO, 3),
}


WITHOUT_TORCHJD = {"equal", "ls", "si", "dwa", "sdmgrad", "gradnorm"}  # a test of each by its own formula
OF_FEATURES = {"mgda_ub", "aligned_mtl_ub"}  # test_feature_level.py

# Three bowls L_t = x_t^2 / 2, each along an axis of its own: at x = (1, 2, 3) the gradients are orthogonal and of the
# lengths x. What each rule makes of them in its first step, by hand.
X = torch.tensor([1.0, 2.0, 3.0])
LOSSES = X**2 / 2
ONES = torch.ones(3)
BY_HAND = {
    "equal": X,
    "ls": X,
    "dwa": X,  # no rates yet
    "gradnorm": X,  # no weights yet
    "imtl_l": X,  # exp(0)
    "uw": X / 2,  # exp(-0) / 2
    "si": X / LOSSES,
    "stch": (LOSSES / (3 * 0.1)).softmax(0) / 3 * X,
    "famo": X / LOSSES / (1 / LOSSES).sum(),  # of log L, scaled to weights of sum 1
    "pcgrad": X,  # nothing conflicts
    "gradvac": X,  # cosines of 0 are what it expects
    "graddrop": X,  # each entry has one sign only
    "upgrad": X / 3,
    "excess_mtl": (0.01 * X).softmax(0) * X,  # the distances are the gradients' lengths so far
    "mgda": (1 / X) / (1 / X**2).sum(),  # the foot of the perpendicular on the triangle
    "imtl_g": ONES / (1 / X).sum(),
    "aligned_mtl": X.min() * ONES / 3,
    "nash_mtl": ONES / 3**0.5,  # G w = 1 / w, cut to norm 1
    "fairgrad": ONES,  # the same, not cut
    "con_fig": ONES * X.sum() / 3,  # equal cosines, as long as the projections together
    "cagrad": X / 3 + 0.5 * (X / 3).norm() * torch.tensor([1.0, 0.0, 0.0]),  # helps the shortest gradient alone
    "sdmgrad": (1 / X) / (1 / X**2).sum(),  # as mgda: the mean that it is drawn to has no conflict to add
}
CONVERGED = {"sdmgrad": {"lr": 0.5, "n_iter": 200}}  # at the paper's rate its search does not settle here


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((found - wanted).norm() <= tolerance * wanted.norm() + 1e-7)


def test_every_balancer_has_a_rule_here() -> None:
    known = {path.stem for path in (Path(__file__).parents[2] / "conf" / "balancer").glob("*.yaml")}
    assert {*AGGREGATORS, *SCALARIZERS, *WITHOUT_TORCHJD, *OF_FEATURES} == known
    assert {*BY_HAND, "rlw", *OF_FEATURES} == known


def test_orthogonal_bowls(name: str, make_balancer: Make, combine: Combine) -> None:
    found = combine(make_balancer(name, **CONVERGED.get(name, {})), X.diag(), losses=LOSSES.tolist())
    if name == "rlw":
        assert (found / X).sum().item() == pytest.approx(1, abs=1e-5)
        assert (found > 0).all()
    else:
        torch.testing.assert_close(found, BY_HAND[name], rtol=1e-2 if name == "mgda" else 1e-3, atol=1e-4)


@pytest.mark.parametrize("method", AGGREGATORS)
def test_gradients_combine_as_in_torchjd(method: str, make_balancer: Make, combine: Combine) -> None:
    """Over several steps, so that memories count too; draws are those of the seed and the step."""
    balancer, aggregator, draws = make_balancer(method), AGGREGATORS[method](), Draws(0)
    for jacobian in (*MATRICES.values(), MATRICES["conflicting"] + 0.1):
        with warnings.catch_warnings(), draws.next(jacobian.device):
            warnings.simplefilter("ignore", UserWarning)  # cvxpy's
            wanted = aggregator(jacobian)
        assert close(combine(balancer, jacobian), wanted)


def test_sdmgrad_is_torchjds_weighting_of_the_gramian(make_balancer: Make, combine: Combine) -> None:
    balancer, weighting = make_balancer("sdmgrad"), aggregation.SDMGradWeighting()
    for jacobian in MATRICES.values():
        assert close(combine(balancer, jacobian), weighting(jacobian @ jacobian.T) @ jacobian)


@pytest.mark.parametrize("method", SCALARIZERS)
def test_losses_combine_as_in_torchjd(method: str, make_balancer: Make, combine: Combine) -> None:
    balancer, scalarizer, draws = make_balancer(method), SCALARIZERS[method](), Draws(0)
    values = torch.tensor([0.7, 2.0, 1.1])
    for jacobian in MATRICES.values():
        parameter = nn.Parameter(torch.zeros(4))
        with draws.next(values.device):
            scalar = scalarizer(jacobian @ parameter + values)
        scalar.backward()
        found = combine(balancer, jacobian, losses=values.tolist())
        assert close(found, parameter.grad, 1e-5)
        own = {n: p.grad for n, p in balancer.named_parameters() if p.grad is not None}
        learned = {} if method == "famo" else {f"scalarizer.{n}": p.grad for n, p in scalarizer.named_parameters()}
        assert own.keys() == learned.keys()
        assert all(torch.allclose(own[n], gradient) for n, gradient in learned.items())
        if method == "famo":
            after = jacobian @ (-0.01 * found) + values
            scalarizer.update(after.clamp(min=0.1))
            assert torch.allclose(balancer.scalarizer._w, scalarizer._w, atol=1e-6)


def test_scale_invariant_loss_is_the_sum_of_logarithms(make_balancer: Make, combine: Combine) -> None:
    jacobian, values = MATRICES["conflicting"], torch.tensor([0.5, 2.0, 4.0])
    assert close(combine(make_balancer("si"), jacobian, losses=values.tolist()), (jacobian / values[:, None]).sum(0))


@pytest.mark.parametrize("method", ["ls", "equal"])
def test_equal_weights_are_the_sum(method: str, make_balancer: Make, combine: Combine) -> None:
    assert close(combine(make_balancer(method), MATRICES["conflicting"]), MATRICES["conflicting"].sum(0))


def test_dynamic_weight_average_over_epochs(make_balancer: Make, combine: Combine) -> None:
    """Epoch 2 onwards: weights 3 softmax(rate / 2), the rate being the ratio of the last two epochs' mean losses."""
    balancer, jacobian = make_balancer("dwa"), torch.eye(3)
    epochs = [[[1.0, 2.0, 4.0], [3.0, 2.0, 2.0]], [[1.0, 1.5, 2.0]], [[5.0, 5.0, 5.0]], [[1.0, 1.0, 1.0]]]
    found = []
    for epoch, batches in enumerate(epochs):
        balancer.start_epoch(epoch)
        balancer.start_epoch(epoch)  # as a resume in the middle of an epoch does
        found.append([combine(balancer, jacobian, losses=values) for values in batches])
    assert all(torch.equal(weights, torch.ones(3)) for weights in (*found[0], *found[1]))
    rates = torch.tensor([1 / 2, 1.5 / 2, 2 / 3])
    assert torch.allclose(found[2][0], 3 * torch.softmax(rates / 2, 0))
    assert torch.allclose(found[3][0], 3 * torch.softmax(torch.tensor([5 / 1, 5 / 1.5, 5 / 2]) / 2, 0))


def test_gradnorm_equalises_the_norms(make_balancer: Make, combine: Combine) -> None:
    """With alpha 0 the norms of the weighted gradients become equal; weights keep their sum."""
    balancer, jacobian = make_balancer("gradnorm", alpha=0.0, lr=0.02), MATRICES["orthogonal"]
    assert close(combine(balancer, jacobian), jacobian.sum(0))  # the first step has equal weights
    for _ in range(200):
        combine(balancer, jacobian)
    assert torch.allclose(balancer.weights, 3 * torch.tensor([6.0, 3.0, 2.0]) / 11, atol=0.1)
    assert float(balancer.weights.sum()) == pytest.approx(3)


def test_gradnorm_pushes_the_slow_task(make_balancer: Make, combine: Combine) -> None:
    """One step by hand: equal norms, so weights move with the sign of the training rate against the mean alone."""
    balancer, jacobian = make_balancer("gradnorm", alpha=1.5, lr=0.1), torch.eye(3)
    combine(balancer, jacobian, losses=[2.0, 2.0, 2.0])
    assert torch.equal(balancer.weights, torch.ones(3))
    combine(balancer, jacobian, losses=[2.0, 1.0, 0.6])  # rates 5/3, 5/6 and 1/2 of the mean
    moved = torch.tensor([0.1, -0.1, -0.1]).exp()
    assert torch.allclose(balancer.weights, 3 * moved / moved.sum())


def test_weights_of_a_quadratic_with_a_known_pareto_set(make_balancer: Make, combine: Combine) -> None:
    """Three bowls around points: MGDA stops on the triangle between them, UPGrad never leaves it once inside."""
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    for method in ("mgda", "upgrad"):
        balancer, point = make_balancer(method), torch.tensor([6.0, 5.0])
        for _ in range(120):
            jacobian = point - centres
            losses = 0.5 * jacobian.pow(2).sum(1)
            point = point - 0.1 * combine(balancer, jacobian, losses=losses.tolist())
        inside = point.min() > -0.05 and point.sum() < 4.05
        assert inside, (method, point)


def test_fairgrad_solves_its_equation_at_any_scale(make_balancer: Make) -> None:
    jacobian = MATRICES["conflicting"]
    for scale in (1e-4, 1.0, 1e3):
        gramian = (scale * jacobian) @ (scale * jacobian).T
        for alpha in (0.5, 1.0, 2.0):
            weights = make_balancer("fairgrad", alpha=alpha).weights(gramian, torch.arange(3))
            assert close(gramian @ weights, weights ** (-1 / alpha), 1e-3)


def test_nash_mtl_between_solutions(make_balancer: Make, combine: Combine) -> None:
    """The weights stand, and the combined gradient is cut to its norm all the same."""
    balancer = make_balancer("nash_mtl", update_every=3, max_norm=0.5)
    solutions = []
    for step in range(4):
        found = combine(balancer, MATRICES["conflicting"] + 0.3 * step)
        assert float(found.norm()) == pytest.approx(0.5, rel=1e-3)
        solutions.append(balancer.solution.clone())
    assert torch.equal(solutions[0], solutions[2])
    assert not torch.equal(solutions[2], solutions[3])


def test_inner_products_do_not_follow_the_precision_of_products() -> None:
    """TF32 and the like, which users allow for speed, would cost the solvers the small eigenvalues."""
    jacobian, chosen = torch.randn(4, 1000), torch.tensor([0, 2, 3])
    wanted = gramian_of(jacobian, chosen)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = gramian_of(jacobian, chosen)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
