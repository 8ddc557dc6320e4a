"""Whole MoLA models against recorded outputs and gradients of the released code, in float64.

The records hold pooled features, losses, and for every parameter the norm of its gradient and six of its entries;
weights and images are functions of names (``tests/data/formula_weights.py``). Ours are a timm ResNet with experts
injected by name, our routers, heads and TwD. What holds: outputs and gradients to 1e-9 relative, with four digits to
spare; gradients that the record has at zero are exactly zero, or there are none.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from mola_lightning.adapters import AdaptedBackbone, AdaptedLayer
from mola_lightning.architectures import Features, MoLA
from mola_lightning.core import ModelOutput, Task, TaskRows
from mola_lightning.heads import LinearHead
from mola_lightning.losses import TwDLoss
from mola_lightning.routers import ConvRouter, TaskIdRouter

DATA = Path(__file__).parents[1] / "data"
RELATIVE = 1e-9
VLCS = {"V": 5, "L": 5, "C": 5, "S": 5}
MEDMNIST = {str(t): classes for t, classes in enumerate([9, 4, 11, 8, 2, 7, 11, 11, 2])}


def _formula_weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("formula_weights", DATA / "formula_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


formula = _formula_weights()


@dataclass
class Model:
    """The three parts that the recorded model has, and its record."""

    info: dict
    record: dict[str, np.ndarray]
    mola: MoLA
    heads: nn.ModuleDict
    twd: TwDLoss | None
    tasks: list[Task]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.mola.named_parameters()
        yield from ((f"heads.{name}", p) for name, p in self.heads.named_parameters())
        if self.twd is not None:
            yield from ((f"twd.{name}", p) for name, p in self.twd.named_parameters())


def adapter_settings(info: dict) -> dict:
    """Which convolutions have experts, and of which rank, in the released code's models."""
    learned = info["kind"] == "model_router"
    stages = range(4) if info["lora_layer"] is None else info["lora_layer"]
    ranks = [info["gamma"]] * 4 if info["lora_rank"] is None else info["lora_rank"]
    leaf = r"(conv\d|downsample\.0)$" if learned else r"conv\d$"
    targets = [rf"^layer{stage + 1}\.\d+\.{leaf}" for stage in stages]
    pattern = {rf"^layer{stage + 1}\.": ranks[stage] for stage in stages}
    if not learned:  # the stem has experts too, of a rank of its own
        targets, pattern = [r"^conv1$", *targets], {r"^conv1$": info["gamma"], **pattern}
    return {"target_modules": targets, "rank_pattern": pattern, "alpha": info["lora_alpha"]}


def build(name: str, plan: str) -> Model:
    info = json.loads((DATA / "fixtures" / f"{name}.json").read_text())
    with np.load(DATA / "fixtures" / f"{name}.npz") as arrays:
        record = dict(arrays)
    widths = MEDMNIST if info["depth"] == 18 else VLCS
    tasks = [Task(task, classes) for task, classes in widths.items()]
    net = ResNet(Bottleneck if info["depth"] == 50 else BasicBlock, info["layers"], num_classes=0)
    learned = info["kind"] == "model_router"
    mola = MoLA(
        tasks,
        net,
        ConvRouter if learned else TaskIdRouter,
        partial(AdaptedBackbone, plan=plan, **adapter_settings(info)),
        num_experts=info["n_expert"],
    )
    heads = nn.ModuleDict({task.name: LinearHead(mola.num_features, task) for task in tasks})
    twd = TwDLoss(info["n_expert"]) if learned else None
    model = Model(info, record, mola, heads, twd, tasks)
    for part in (mola, heads, twd):
        if part is not None:
            part.double().eval()
    fill(model)
    return model


def official_name(model: Model, name: str) -> str:
    """The released code's name of one of our parameters or buffers; of a stacked one without the expert's index."""
    part, _, rest = name.partition(".")
    if part == "heads":
        return f"decoders.{rest}"
    if part == "twd":
        return rest.replace("decorrelation.projection", "encoder.map_to_high_dim")
    if part == "router":  # recorded under the first layer that holds it
        return f"encoder.{next(iter(model.mola.backbone.adapted))}.router.{rest}"
    rest = rest.removeprefix("net.")
    path, _, leaf = rest.rpartition(".")
    if leaf in ("lora_A", "lora_B"):
        return f"encoder.{path}.{leaf}_list"
    wrapped = model.info["kind"] == "model_grad" and path in model.mola.backbone.adapted
    return f"encoder.{path}.conv.{leaf}" if wrapped else f"encoder.{rest}"


@torch.no_grad()
def fill(model: Model) -> None:
    salt = model.info["salt"]
    last_bn = ("bn2",) if model.info["depth"] == 18 else ("bn3",)

    def set_values(tensor: Tensor, name: str, salt: str, last_bn: tuple[str, ...]) -> None:
        tensor.copy_(torch.from_numpy(np.asarray(formula.value(name, tuple(tensor.shape), salt, last_bn))))

    buffers = [(name, b) for name, b in model.mola.named_buffers() if "num_batches" not in name]
    for name, tensor in [*model.parameters(), *buffers]:
        official = official_name(model, name)
        if name.startswith("router."):
            set_values(tensor, name.removeprefix("router."), f"{salt}router/", ("bn2",))
        elif official.endswith("_list"):
            for e in range(model.info["n_expert"]):
                set_values(tensor[e], f"{official}.{e}", salt, last_bn)
        else:
            set_values(tensor, official, salt, last_bn)


def run(model: Model) -> tuple[Features, dict[str, Tensor], TaskRows]:
    """Features, losses per task and of TwD, and the rows of each task."""
    info = model.info
    size = (info["batch"], 3, info["size"], info["size"])
    images = torch.from_numpy(formula.u("x", size, info["salt"]) * 1.7)
    task_ids, labels = torch.tensor(info["tasks"]), torch.from_numpy(model.record["y"]).flatten()
    names = [task.name for task in model.tasks]
    if info["depth"] == 18:  # recorded labels are offset by the classes of the tasks before
        labels = labels - torch.tensor([0, *MEDMNIST.values()]).cumsum(0)[task_ids]
    rows = TaskRows.from_task_ids(task_ids, names)
    features = model.mola(images, rows)
    losses = {}
    for task in model.tasks:
        outputs = model.heads[task.name](features.per_task[task.name])
        total, count = task.criterion(outputs, labels[rows[task.name]])
        # the released code weighs tasks by their rows on this benchmark alone
        units = info["batch"] if info["depth"] == 18 else count
        if rows.counts[task.name]:
            losses[task.name] = total / units
    if "scl" in info["losses"]:
        losses["scl"] = model.twd.weight * model.twd(ModelOutput({}, rows, features.routing))
    return features, losses, rows


def compare(found: Tensor, wanted: np.ndarray | float, what: str, scale: float | None = None) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    scale = float(wanted.abs().max()) if scale is None else scale
    error = float((found.detach() - wanted).abs().max())
    assert error <= RELATIVE * scale, f"{what}: relative error {error / max(scale, 1e-300):.1e}"


def recorded_gradients(model: Model) -> Iterator[tuple[str, Tensor]]:
    """The released code's parameter names with the gradient of ours, zeros where there is none."""
    for name, parameter in model.parameters():
        official = official_name(model, name)
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if official.endswith("_list"):
            yield from ((f"{official}.{e}", gradient[e]) for e in range(len(gradient)))
        else:
            yield official, gradient


CASES = [
    ("model_r50lite_grad", "auto"),
    ("model_r50lite_grad", "merged"),
    ("model_r50lite_grad", "low_rank"),
    ("model_r50lite_grad_missing_task", "auto"),
    ("model_r50lite_grad_missing_task", "merged"),
    ("model_r50lite_router", "auto"),
    ("model_r50lite_router", "dense"),
    ("model_r18_router", "auto"),
    ("model_r50_grad_full", "auto"),
]


@pytest.mark.parametrize(("name", "plan"), CASES, ids=[f"{name}-{plan}" for name, plan in CASES])
def test_model(name: str, plan: str) -> None:
    model = build(name, plan)
    info, record = model.info, model.record
    features, losses, rows = run(model)
    pooled = torch.empty(info["batch"], model.mola.num_features, dtype=torch.float64)
    for task in rows:
        pooled[rows[task]] = features.per_task[task].detach()
    compare(pooled, record["pooled_features"], "pooled features")
    if "scores" in record:
        logits = features.routing.logits
        compare(logits, record["scores"], "logits")
        compare(features.routing.mixing, record["gates"], "mixing weights")
        compare(model.twd.decorrelation.projection(logits), record["high_dim"], "projected logits")
    assert set(losses) == set(info["losses"])
    for task, loss in losses.items():
        compare(loss, info["losses"][task], f"loss {task}")
    total = sum(losses.values())
    compare(total, info["total_loss"], "total loss")

    total.backward()
    gradients = dict(recorded_gradients(model))
    assert set(gradients) == set(info["param_names"])
    for official, norm, samples in zip(info["param_names"], record["grad_norms"], record["grad_samples"], strict=True):
        gradient = gradients[official].flatten()
        compare(gradient.norm(), norm, f"gradient norm of {official}", scale=norm)
        places = torch.linspace(0, len(gradient) - 1, 6).long()
        compare(gradient[places], samples, f"gradient of {official}", scale=norm)


@pytest.mark.parametrize(
    ("name", "adapted"),
    [("model_r50lite_grad", 7), ("model_r50_grad_full", 22), ("model_r50lite_router", 12), ("model_r18_router", 19)],
)
def test_as_many_layers_and_parameters(name: str, adapted: int) -> None:
    """The same layers get experts of the same rank: no parameter more or fewer than in the released code's model."""
    model = build(name, "auto")
    assert len(model.mola.backbone.adapted) == adapted
    assert all(isinstance(layer, AdaptedLayer) for layer in model.mola.backbone.adapted.values())
    assert sum(p.numel() for _, p in model.parameters()) == model.info["n_params_total"]
