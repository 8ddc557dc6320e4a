"""Adapted layers, every option of the layer types they replace, against the definition written as loops."""

import copy
import itertools

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mola_lightning.adapters import AdaptedConv2d, AdaptedConv2dSame, AdaptedLayer, AdaptedLinear, Mixing, MixingScope
from mola_lightning.adapters.plan import Plan
from mola_lightning.adapters.plans import PLANS

EXPERTS = 3
FORMS = ("soft", "hard", "grouped", "even")  # even: sorted, two rows for each expert
CONVS = {
    "bias": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "unequal strides": {"kernel_size": 3, "stride": (1, 2), "padding": (0, 2)},
    "dilation": {"kernel_size": 3, "dilation": (2, 1), "padding": 2},
    "1 x 3": {"kernel_size": (1, 3), "padding": (0, 1)},
    "3 x 1": {"kernel_size": (3, 1), "padding": (1, 0)},
    "5 x 3": {"kernel_size": (5, 3), "padding": (2, 1), "stride": (2, 1)},
    "1 x 1": {"kernel_size": 1},
    "1 x 1 stride and padding": {"kernel_size": 1, "stride": 2, "padding": (1, 2)},
    "1 x 1 circular": {"kernel_size": 1, "padding": 1, "padding_mode": "circular"},
    "even": {"kernel_size": 2, "stride": 2},
    "even same": {"kernel_size": 2, "padding": "same"},
    "circular": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": (3, 5), "padding": (1, 2), "padding_mode": "replicate"},
    "same": {"kernel_size": (5, 3), "padding": "same", "dilation": (1, 2)},
    "same reflect": {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
    "same even circular": {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
    "1 x 1 same": {"kernel_size": 1, "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "groups 1 x 1": {"kernel_size": 1, "groups": 2},
}


def adapt(base: nn.Module, kind: str = "reshaped", num_experts: int = EXPERTS, **settings: object) -> AdaptedLayer:
    """``base`` in float64 with random experts; base itself stays usable."""
    kinds = {nn.Conv2d: AdaptedConv2d, Conv2dSame: AdaptedConv2dSame, nn.Linear: AdaptedLinear}
    options = {"rank": 2, "alpha": 3, **settings}
    layer = kinds[type(base)](
        copy.deepcopy(base).double(), num_experts=num_experts, kind=kind, scope=MixingScope(), **options
    )
    with torch.no_grad():
        (layer.expert_weight if kind == "full" else layer.lora_B).normal_()
    return layer


def delta_by_definition(layer: AdaptedLayer, expert: int) -> Tensor:
    """Delta_e entry by entry, from the kinds' formulas."""
    if layer.kind_name == "full":
        return layer.expert_weight[expert] * layer.alpha / layer.rank
    a, b, shape = layer.lora_A[expert], layer.lora_B[expert], layer.weight.shape
    delta = torch.zeros(shape, dtype=layer.weight.dtype)
    if layer.weight.ndim == 2:
        for o, i in itertools.product(*map(range, shape)):
            delta[o, i] = sum(b[o, q] * a[q, i] for q in range(layer.rank))
    elif layer.kind_name == "factorised":
        for o, i, y, x in itertools.product(*map(range, shape)):
            delta[o, i, y, x] = sum(b[o, q] * a[q, i, y, x] for q in range(layer.rank))
    else:
        (_, inner, kh, kw), length = shape, shape[1] * shape[3]
        for o, i, y, x in itertools.product(*map(range, shape)):
            flat = (i * kh + y) * kw + x
            block, column = divmod(flat, length)
            row = o * kh + block
            delta[o, i, y, x] = sum(b[row, q] * a[q, column] for q in range(layer.rank * kh))
        assert length == inner * kw
    return delta * layer.alpha / layer.rank


def by_definition(base: nn.Module, layer: AdaptedLayer, x: Tensor, weights: Tensor) -> Tensor:
    """Each row through the layer type that was replaced, with a weight of its own."""
    plain, rows = copy.deepcopy(base).double(), []
    deltas = torch.stack([delta_by_definition(layer, e) for e in range(layer.num_experts)])
    for b in range(len(x)):
        plain.weight.data = layer.weight + sum(w * d for w, d in zip(weights[b], deltas, strict=True))
        rows.append(plain(x[b : b + 1]))
    return torch.cat(rows) if rows else plain(x)


def mixing_of(form: str, rows: int, num_experts: int = EXPERTS) -> tuple[Mixing, Tensor]:
    """A mixing, and the weights (B, E) that it means."""
    if form == "soft":
        weights = torch.randn(rows, num_experts, dtype=torch.float64)
        return Mixing(num_experts, weights=weights), weights
    ids = torch.arange(rows) // 2 if form == "even" else torch.randint(num_experts, (rows,)).sort().values
    sizes = tuple(torch.bincount(ids, minlength=num_experts).tolist()) if form in ("grouped", "even") else None
    one_hot = nn.functional.one_hot(ids, num_experts).double()
    return Mixing(num_experts, expert_ids=ids, group_sizes=sizes), one_hot


def rows_of(form: str, rows: int, num_experts: int = EXPERTS) -> int:
    """``rows``, or where the form says how many."""
    return 2 * num_experts if form == "even" else rows


def run(layer: AdaptedLayer, x: Tensor, mixing: Mixing) -> Tensor:
    with layer.scope.bind(mixing):
        return layer(x)


@torch.no_grad()
def check(base: nn.Module, layer: AdaptedLayer, x: Tensor) -> None:
    """``forward``, and every plan that says it is available, in all forms of mixing."""
    given = x
    for form in FORMS:
        rows = rows_of(form, len(given), layer.num_experts)
        x = given if rows == len(given) else torch.randn(rows, *given.shape[1:]).to(given)
        mixing, weights = mixing_of(form, rows, layer.num_experts)
        wanted = by_definition(base, layer, x, weights)
        torch.testing.assert_close(run(layer, x, mixing), wanted, rtol=1e-10, atol=1e-10)
        for plan in PLANS:
            if plan.available(layer, mixing):
                found = plan.run(layer, layer.prepare(x), mixing)
                torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10, msg=lambda m, p=plan: f"{p}: {m}")


@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize("option", CONVS)
def test_conv(option: str, kind: str) -> None:
    base = nn.Conv2d(4, 6, **CONVS[option])
    layer = adapt(base, kind)
    x = torch.randn(4, 4, 7, 6).double()
    check(base, layer, x)
    assert layer.positions(layer.prepare(x)) == len(x) * base(x.float())[0, 0].numel()


def test_channels_that_the_kernel_does_not_divide() -> None:
    """The blocks of the reshaped delta then end inside a channel's kernel."""
    base = nn.Conv2d(5, 2, 3)
    check(base, adapt(base), torch.randn(3, 5, 5, 5).double())


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3, "stride": 2}, {"kernel_size": 2}, {"kernel_size": 1, "stride": 2}]
)
@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize("size", [(6, 7), (5, 5)])
def test_conv_same(options: dict, kind: str, size: tuple[int, int]) -> None:
    base = Conv2dSame(4, 6, **options)
    check(base, adapt(base, kind), torch.randn(3, 4, *size).double())


@pytest.mark.parametrize("base", [nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)])
def test_depthwise_with_full_experts(base: nn.Conv2d) -> None:
    check(base, adapt(base, "full"), torch.randn(3, 4, 5, 5).double())


@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5), (4, 2, 3, 5), (1, 5), (4, 1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], kind: str, bias: bool) -> None:
    base = nn.Linear(5, 6, bias=bias)
    check(base, adapt(base, kind), torch.randn(shape).double())


@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize(
    ("rows", "size", "num_experts", "out"),
    [(1, 5, 3, 6), (3, 1, 3, 6), (1, 1, 3, 6), (3, 5, 1, 6), (3, 5, 3, 1), (1, 1, 1, 1), (0, 5, 3, 6)],
    ids=["one row", "one pixel", "both", "one expert", "one output channel", "all of it", "no row"],
)
def test_where_dimensions_vanish(rows: int, size: int, num_experts: int, out: int, kind: str) -> None:
    for base in (nn.Conv2d(4, out, 3, padding=1), nn.Conv2d(4, out, 1, bias=False)):
        layer = adapt(base, kind, num_experts)
        check(base, layer, torch.randn(rows, 4, size, size).double())


@pytest.mark.parametrize("form", FORMS[:3])
def test_no_row_trains(form: str) -> None:
    """An empty batch gives zero gradients, not NaN."""
    for base, x in (
        (nn.Conv2d(4, 6, 3), torch.zeros(0, 4, 5, 5).double()),
        (nn.Linear(4, 6), torch.zeros(0, 3, 4).double()),
    ):
        layer = adapt(base)
        out = run(layer, x.requires_grad_(), mixing_of(form, 0)[0])
        out.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_a_linear_layer_sees_each_row_several_times() -> None:
    """Tokens folded into the batch, row-major: each mixes as the row that it came from."""
    base = nn.Linear(5, 6)
    layer = adapt(base)
    for form in FORMS:
        x = torch.randn(rows_of(form, 4), 3, 5).double()
        mixing, _ = mixing_of(form, len(x))
        torch.testing.assert_close(run(layer, x.flatten(0, 1), mixing), run(layer, x, mixing).flatten(0, 1))


PLANS_AND_FORMS = [
    ("low_rank", "soft"),
    ("low_rank", "hard"),
    ("low_rank", "grouped"),
    ("low_rank", "even"),
    ("merged", "soft"),
    ("merged", "grouped"),
    ("merged", "even"),
    ("dense", "soft"),
    ("dense", "hard"),
]


@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize(("plan", "form"), PLANS_AND_FORMS)
@pytest.mark.parametrize("layer_type", ["conv 3 x 3", "conv 1 x 1", "linear", "groups"])
def test_gradients(layer_type: str, plan: str, form: str, kind: str) -> None:
    """Autograd against finite differences: to the input, the weight, the bias, the experts and the mixing weights."""
    if plan == "low_rank" and (kind == "full" or layer_type == "groups"):
        plan = "auto"
    bases = {
        "conv 3 x 3": (nn.Conv2d(2, 2, 3, padding=1), (2, 2, 3, 2)),
        "conv 1 x 1": (nn.Conv2d(2, 2, 1, stride=2), (2, 2, 3, 3)),
        "linear": (nn.Linear(2, 3), (2, 2, 2)),
        "groups": (nn.Conv2d(4, 2, (1, 2), groups=2), (2, 4, 2, 2)),
    }
    base, shape = bases[layer_type]
    layer = adapt(base, kind, num_experts=2, rank=1, plan=plan)
    shape = (rows_of(form, shape[0], 2), *shape[1:])
    mixing, _ = mixing_of(form, shape[0], 2)
    names = [name for name, _ in layer.named_parameters()]
    weights = [mixing.weights.requires_grad_()] if form == "soft" else []

    def function(x: Tensor, *tensors: Tensor) -> Tensor:
        if form == "soft":
            mixing.weights, *tensors = tensors
        with layer.scope.bind(mixing):
            return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, *weights, *layer.parameters()))


LAYERS = {
    "conv 3 x 3": (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 7)),
    "conv 2 x 3, stride": (nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(0, 1), bias=False), (4, 5, 6)),
    "conv 1 x 1": (nn.Conv2d(4, 6, 1), (4, 3, 3)),
    "linear": (nn.Linear(4, 6), (5, 4)),
}
EACH_PLAN = [
    (plan, name, form)
    for plan in PLANS
    for name, (base, _) in LAYERS.items()
    for form in FORMS
    if plan.available(adapt(base), mixing_of(form, rows_of(form, 4))[0])
]


@pytest.mark.parametrize(
    ("plan", "name", "form"), EACH_PLAN, ids=lambda part: part if isinstance(part, str) else type(part).__name__
)
def test_every_plan_has_the_gradients_of_the_definition(plan: Plan, name: str, form: str) -> None:
    """To all that it depends on; first and second ones, by one loss and by several at once."""
    base, shape = LAYERS[name]
    layer = adapt(base)
    x = torch.randn(rows_of(form, 4), *shape).double().requires_grad_()
    mixing, weights = mixing_of(form, len(x))
    inputs = [x, *layer.parameters()]
    if form == "soft":
        inputs.append(weights.requires_grad_())

    def defined() -> Tensor:
        rows = []
        for row, own in zip(x, weights, strict=True):
            weight = layer.weight + torch.einsum("e,e...->...", own, layer.delta())
            rows.append(layer.run(row[None], weight, layer.bias))
        return torch.cat(rows)

    out, wanted = plan.run(layer, x, mixing), defined()
    towards = torch.randn(2, *out.shape).double()
    several = torch.autograd.grad(out, inputs, towards, retain_graph=True, is_grads_batched=True)
    found, known = (torch.autograd.grad(y, inputs, towards[0], create_graph=True) for y in (out, wanted))
    for one, batched, other in zip(found, several, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(batched[0], other, rtol=1e-10, atol=1e-10)
    twice, expected = (
        torch.autograd.grad(sum((g * g).sum() for g in first), inputs, allow_unused=True) for first in (found, known)
    )
    for one, other in zip(twice, expected, strict=True):
        torch.testing.assert_close(torch.zeros(()) if one is None else one, torch.zeros(()) if other is None else other)


@pytest.mark.parametrize(
    ("plan", "name", "form"), EACH_PLAN, ids=lambda part: part if isinstance(part, str) else type(part).__name__
)
def test_every_plan_in_any_precision_and_layout(plan: Plan, name: str, form: str) -> None:
    """As the reference; in bfloat16 as close as that is; float64 stays what it is; channels stay where they lie."""
    base, shape = LAYERS[name]
    layer, x = adapt(base), torch.randn(rows_of(form, 4), *shape).double()
    mixing, weights = mixing_of(form, len(x))
    wanted = by_definition(base, layer, x, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert plan.run(layer, x, mixing).dtype == torch.float64
        if mixing.weights is not None:
            mixing.weights = mixing.weights.float()
        found = plan.run(copy.deepcopy(layer).float(), x.float(), mixing)
    assert found.dtype == torch.bfloat16
    assert (found.double() - wanted).norm() < 0.03 * wanted.norm()
    if x.ndim == 4:
        mixing, _ = mixing_of(form, len(x))
        last = plan.run(layer, x.to(memory_format=torch.channels_last), mixing)
        torch.testing.assert_close(last, plan.run(layer, x, mixing))


@pytest.mark.parametrize(("rows", "experts"), [(1, 1), (1, 3), (2, 1), (4, 3), (16, 1), (16, 8)])
@pytest.mark.parametrize("name", ["conv 64, 8 px", "conv 128, 4 px", "conv 256, 14 px", "conv 1 x 1", "linear"])
def test_an_expert_more_changes_no_bit(name: str, rows: int, experts: int) -> None:
    """Of rows in groups that do not use it: neither in what a plan computes nor by the choice of another."""
    base, shape = {
        "conv 64, 8 px": (nn.Conv2d(64, 64, 3, padding=1), (64, 8, 8)),
        "conv 128, 4 px": (nn.Conv2d(128, 128, 3, padding=1), (128, 4, 4)),
        "conv 256, 14 px": (nn.Conv2d(256, 256, 3, padding=1), (256, 14, 14)),
        "conv 1 x 1": (nn.Conv2d(64, 128, 1), (64, 8, 8)),
        "linear": (nn.Linear(64, 32), (10, 64)),
    }[name]
    few, more = (adapt(base, num_experts=count).float() for count in (experts, experts + 1))
    for parameter in ("lora_A", "lora_B"):
        getattr(more, parameter).data[:experts] = getattr(few, parameter).data
    ids = torch.randint(experts, (rows,)).sort().values
    x, outputs = torch.randn(rows, *shape), []
    for layer in (few, more):
        sizes = tuple(torch.bincount(ids, minlength=layer.num_experts).tolist())
        outputs.append(run(layer, x, Mixing(layer.num_experts, expert_ids=ids, group_sizes=sizes)))
    assert torch.equal(*outputs)


def test_no_gradient_of_images_is_made() -> None:
    """Where a grouped product is the first layer, its backward pass ends with the weights."""
    ids = torch.arange(4) // 2
    mixing = Mixing(2, expert_ids=ids, group_sizes=(2, 2))
    for base, shape in ((nn.Conv2d(3, 4, 3), (4, 3, 6, 6)), (nn.Linear(3, 4), (4, 5, 3))):
        layer, counted = adapt(base, num_experts=2, plan="merged").float(), []
        for wanted in (True, False):
            x = torch.randn(shape, requires_grad=wanted)
            layer.zero_grad()
            with FlopCounterMode(display=False) as counter:
                run(layer, x, mixing).sum().backward()
            counted.append(counter.get_total_flops())
            assert all(p.grad is not None for p in layer.parameters())
        assert counted[1] < counted[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_derivatives(name: str, form: str) -> None:
    """Whatever plan is chosen, a derivative by torch.func.jvp is the one of finite differences."""
    base, shape = LAYERS[name]
    layer, x = adapt(base), torch.randn(rows_of(form, 4), *shape).double()
    mixing, _ = mixing_of(form, len(x))
    along, step = torch.randn_like(x), 1e-6
    _, found = torch.func.jvp(lambda x: run(layer, x, mixing), (x,), (along,))
    wanted = (run(layer, x + step * along, mixing) - run(layer, x - step * along, mixing)) / (2 * step)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("plan", "form"), PLANS_AND_FORMS)
@pytest.mark.parametrize("base", [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 8)], ids=str)
def test_autocast(base: nn.Module, plan: str, form: str) -> None:
    """Runs in bfloat16, forward and backward, and stays as close to float64 as its 8 bits allow."""
    layer = adapt(base, plan=plan)
    rows = rows_of(form, 4)
    x = torch.randn(rows, 8, 5, 5) if isinstance(base, nn.Conv2d) else torch.randn(rows, 5, 8)
    mixing, _ = mixing_of(form, rows)
    wanted = run(layer, x.double(), mixing)
    layer.float()
    if mixing.weights is not None:
        mixing.weights = mixing.weights.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = run(layer, x, mixing)
        found.float().square().mean().backward()
    assert found.dtype == torch.bfloat16
    assert (found.double() - wanted).norm() < 0.03 * wanted.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(("plan", "form"), PLANS_AND_FORMS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last(kernel: int, plan: str, form: str) -> None:
    layer = adapt(nn.Conv2d(8, 6, kernel, padding=kernel // 2), plan=plan)
    x, gradients = torch.randn(rows_of(form, 4), 8, 5, 7).double(), []
    mixing, _ = mixing_of(form, len(x))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer.zero_grad()
        out = run(layer.to(memory_format=memory_format), x.to(memory_format=memory_format), mixing)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        gradients.append([out.detach(), *(p.grad.clone() for p in layer.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
def test_gradients_of_several_losses_at_once(kernel: int, memory_format: torch.memory_format) -> None:
    layer = adapt(nn.Conv2d(4, 6, kernel, padding=kernel // 2), plan="merged").to(memory_format=memory_format)
    x = torch.randn(6, 4, 5, 5).double().to(memory_format=memory_format)
    out = run(layer, x, mixing_of("even", 6)[0])
    towards = torch.randn(3, *out.shape).double()
    parameters = list(layer.parameters())
    together = torch.autograd.grad(out, parameters, towards, retain_graph=True, is_grads_batched=True)
    for i, direction in enumerate(towards):
        for found, wanted in zip(
            together, torch.autograd.grad(out, parameters, direction, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(found[i], wanted, rtol=1e-10, atol=1e-10)


def test_delta() -> None:
    layer = adapt(nn.Conv2d(4, 6, 3))
    assert layer.delta().shape == (EXPERTS, 6, 4, 3, 3)
    for e in range(EXPERTS):
        torch.testing.assert_close(layer.delta(e), delta_by_definition(layer, e), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.delta(e), layer.delta()[e], rtol=0, atol=0)
