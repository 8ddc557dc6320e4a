"""Every layer-level vector of the method, by every plan and in both forms of mixing, in float64 to 1e-9 relative."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedConv2d, AdaptedLayer, AdaptedLinear, Mixing, MixingScope, reference_forward

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
CONVS = sorted(p.stem for p in FIXTURES.glob("*.json") if json.loads(p.read_text()).get("kind") == "conv_adapter")
LINEARS = sorted(p.stem for p in FIXTURES.glob("linear_*.json"))
RELATIVE = 1e-9


def load(name: str) -> tuple[dict, dict[str, Tensor]]:
    arrays = np.load(FIXTURES / f"{name}.npz")
    tensors = {k: torch.from_numpy(arrays[k]) for k in arrays}
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
    return json.loads((FIXTURES / f"{name}.json").read_text()), doubled


def build_conv(info: dict, data: dict[str, Tensor], plan: str) -> AdaptedConv2d:
    base = nn.Conv2d(
        info["Cin"], info["Cout"], info["k"], info["stride"], info["padding"], info["dilation"], bias=False
    ).double()
    base.weight.data = data["weight"].clone()
    kind = "full" if "experts" in data else "reshaped"
    layer = AdaptedConv2d(
        base,
        num_experts=info["n_expert"],
        rank=info["r"],
        alpha=info["lora_alpha"],
        kind=kind,
        scope=MixingScope(),
        plan=plan,
    )
    if kind == "full":
        layer.expert_weight.data = data["experts"].reshape(layer.expert_weight.shape).clone()
    else:
        layer.lora_A.data, layer.lora_B.data = data["A"].clone(), data["B"].clone()
    return layer


def mixing_weights(info: dict, data: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """(weights (B, E), the leaf whose gradient the fixture stores, or None)."""
    if info["gate"] in ("mix", "expert"):
        return torch.ones(info["batch"], info["n_expert"], dtype=torch.float64), None
    if info["gate"] == "softmax(scores)":
        leaf = data["scores"].clone().requires_grad_()
        return leaf.softmax(1), leaf
    if info["gate"] == "hard":
        leaf = data["scores"].clone().requires_grad_()
        return nn.functional.one_hot(leaf.argmax(1), info["n_expert"]) + leaf - leaf.detach(), leaf
    leaf = data["alphas"].double().requires_grad_()
    return leaf, leaf


def compare(found: Tensor, wanted: Tensor, what: str) -> None:
    scale = wanted.abs().max().clamp(min=1e-12)
    error = (found - wanted.reshape(found.shape)).abs().max() / scale
    assert error < RELATIVE, f"{what}: relative error {error:.1e}"


def check(layer: AdaptedLayer, data: dict[str, Tensor], x: Tensor, out: Tensor, leaf: Tensor | None) -> None:
    (out * data["G"]).sum().backward()
    compare(out.detach(), data["out"], "out")
    compare(x.grad, data["grad_x"], "grad_x")
    compare(layer.weight.grad, data["grad_weight"], "grad_weight")
    for name, key in (("lora_A", "grad_A"), ("lora_B", "grad_B"), ("expert_weight", "grad_experts")):
        if key in data:
            compare(getattr(layer, name).grad, data[key], key)
    for key in ("grad_scores", "grad_alphas"):
        if key in data and leaf is not None:
            compare(leaf.grad, data[key], key)


@pytest.mark.parametrize("plan", ["auto", "low_rank", "merged", "dense", "reference"])
@pytest.mark.parametrize("name", CONVS)
def test_conv_soft(name: str, plan: str) -> None:
    info, data = load(name)
    if plan == "low_rank" and "experts" in data:
        plan = "auto"  # full-rank experts have no factors
    layer = build_conv(info, data, "auto" if plan == "reference" else plan)
    x = data["x"].clone().requires_grad_()
    weights, leaf = mixing_weights(info, data)
    if plan == "reference":
        out = reference_forward(layer, x, weights)
    else:
        with layer.scope.bind(Mixing(info["n_expert"], weights=weights)):
            out = layer(x)
    check(layer, data, x, out, leaf)


@pytest.mark.parametrize("plan", ["auto", "low_rank", "merged", "dense", "low_rank ungrouped", "dense ungrouped"])
@pytest.mark.parametrize(
    "name", [n for n in CONVS if json.loads((FIXTURES / f"{n}.json").read_text())["gate"] == "onehot"]
)
def test_conv_hard(name: str, plan: str) -> None:
    """Expert ids instead of one-hot weights; grouped plans see rows sorted by expert."""
    info, data = load(name)
    layer = build_conv(info, data, plan.split()[0])
    x = data["x"].clone().requires_grad_()
    ids = data["alphas"].argmax(1)
    if plan.endswith("ungrouped"):
        order, sizes = torch.arange(len(ids)), None
    else:
        order, sizes = ids.argsort(stable=True), tuple(torch.bincount(ids, minlength=info["n_expert"]).tolist())
    with layer.scope.bind(Mixing(info["n_expert"], expert_ids=ids[order], group_sizes=sizes)):
        out = layer(x[order])
    check(layer, data, x, out[order.argsort()], None)


@pytest.mark.parametrize("mode", ["soft", "hard", "merged", "dense"])
@pytest.mark.parametrize("name", LINEARS)
def test_linear(name: str, mode: str) -> None:
    """The consistent answer, scaled by alpha / rank: the released code forgets the scaling before merging."""
    info, data = load(name)
    base = nn.Linear(info["fin"], info["fout"], bias="bias" in data).double()
    base.weight.data = data["weight"].clone()
    if base.bias is not None:
        base.bias.data = data["bias"].clone()
    plan = mode if mode in ("dense", "merged") else "auto"
    layer = AdaptedLinear(base, num_experts=1, rank=info["r"], alpha=info["lora_alpha"], scope=MixingScope(), plan=plan)
    layer.lora_A.data, layer.lora_B.data = data["A"][None].clone(), data["B"][None].clone()
    x = data["x"].clone().requires_grad_()
    rows = len(x)
    hard = Mixing(1, expert_ids=torch.zeros(rows, dtype=torch.long), group_sizes=(rows,))
    soft = Mixing(1, weights=torch.ones(rows, 1, dtype=torch.float64))
    with layer.scope.bind(hard if mode == "hard" else soft):
        out = layer(x)
    compare(out.detach(), data["out_scaled_reference"], "out")
    (out * data["G"]).sum().backward()
    # gradients from the definition: y = W x + b + s B A x
    s, a, b = info["scaling"], data["A"], data["B"]
    compare(layer.lora_A.grad, s * (data["G"] @ b).T @ data["x"], "grad_A")
    compare(layer.lora_B.grad, s * data["G"].T @ (data["x"] @ a.T), "grad_B")
    compare(x.grad, data["G"] @ (data["weight"] + s * b @ a), "grad_x")
    if layer.bias is not None:
        compare(layer.bias.grad, data["grad_bias"], "grad_bias")
