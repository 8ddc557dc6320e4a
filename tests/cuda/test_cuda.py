"""What only a CUDA device can show. Skipped where there is none."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from mola_lightning.adapters import (
    AdaptedBackbone,
    AdaptedConv2d,
    AdaptedLinear,
    Mixing,
    MixingScope,
    reference_forward,
)
from mola_lightning.adapters.plans import PLANS
from mola_lightning.backbones import create_backbone
from mola_lightning.benchmarks import CASES
from mola_lightning.benchmarks.measure import Speed, TimedStep
from mola_lightning.benchmarks.methods import build_module
from mola_lightning.core import Routing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICE = torch.device("cuda")
EXPERTS = 3


def mixings() -> dict[str, tuple[Mixing, torch.Tensor]]:
    ids = torch.tensor([0, 0, 2, 2, 2], device=DEVICE)
    weights = torch.rand(5, EXPERTS, device=DEVICE, dtype=torch.float64)
    one_hot = nn.functional.one_hot(ids, EXPERTS).double()
    return {
        "soft": (Mixing(EXPERTS, weights=weights), weights),
        "hard": (Mixing(EXPERTS, expert_ids=ids), one_hot),
        "grouped": (Mixing(EXPERTS, expert_ids=ids, group_sizes=(2, 0, 3)), one_hot),
    }


@pytest.mark.parametrize("kind", ["reshaped", "factorised", "full"])
@pytest.mark.parametrize("layer_type", ["conv", "pointwise", "linear"])
def test_every_plan_gives_the_reference(kind: str, layer_type: str) -> None:
    settings = {"num_experts": EXPERTS, "rank": 2, "alpha": 3, "kind": kind, "scope": MixingScope()}
    bases = {"conv": nn.Conv2d(5, 6, 3, 2, 1), "pointwise": nn.Conv2d(5, 6, 1), "linear": nn.Linear(5, 6)}
    base = bases[layer_type].double()
    layer = (AdaptedLinear if layer_type == "linear" else AdaptedConv2d)(base, **settings).to(DEVICE)
    with torch.no_grad():
        (layer.expert_weight if kind == "full" else layer.lora_B).normal_()
    x = torch.randn(5, 7, 5) if layer_type == "linear" else torch.randn(5, 5, 8, 8)
    x = x.to(DEVICE, torch.float64)
    for mixing, weights in mixings().values():
        wanted = reference_forward(layer, x, weights)
        for plan in PLANS:
            if plan.available(layer, mixing):
                torch.testing.assert_close(plan.run(layer, x, mixing), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["plain", "grad", "router"])
def test_a_step_never_waits_for_the_device(method: str) -> None:
    step = TimedStep(build_module(method, CASES["d"]), CASES["d"].batch(), DEVICE, speed=Speed(bf16=True))
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["grad", "router"])
def test_channels_last_mixed_precision_and_compiler_leave_the_loss(method: str) -> None:
    losses = []
    for speed in (Speed(), Speed(channels_last=True), Speed(bf16=True), Speed(True, True, True)):
        step = TimedStep(build_module(method, CASES["d"]), CASES["d"].batch(), DEVICE, speed=speed)
        with speed.autocast(DEVICE):
            losses.append(float(step.module.training_step(step.batch, 0)))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[2] == pytest.approx(losses[0], rel=3e-2)
    assert losses[3] == pytest.approx(losses[0], rel=3e-2)


def test_mixed_batches_equal_merged_networks() -> None:
    backbone = AdaptedBackbone(create_backbone("resnet18"), EXPERTS, rank=2, target_modules=[r"^layer"]).to(DEVICE)
    with torch.no_grad():
        for layer in backbone.adapted.values():
            layer.lora_B.normal_(std=0.02)
    backbone.eval().double()
    images = torch.randn(5, 3, 64, 64, device=DEVICE, dtype=torch.float64)
    ids = torch.tensor([2, 0, 2, 1, 0], device=DEVICE)
    for counts in (None, (2, 1, 2)):
        found = backbone(images, Routing(expert_ids=ids, expert_counts=counts))
        for row, expert in enumerate(ids.tolist()):
            wanted = backbone.merge(expert=expert)(images[row : row + 1])
            torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "more"),
    list(itertools.product(["hps", "mola_grad", "mola_router"], [(), ("trainer.precision=bf16-mixed",)])),
)
def test_a_run_on_the_gpu(method: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mola_lightning.cli.train import main

    monkeypatch.chdir(tmp_path)
    settings = ["trainer=gpu", "trainer.max_epochs=1", "hydra.run.dir=run", "callbacks.fast.channels_last=true", *more]
    monkeypatch.setattr("sys.argv", ["mola-train", f"experiment=digits/{method}", *settings])
    main()
    assert (tmp_path / "run" / "summary.json").exists()
