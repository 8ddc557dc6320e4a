"""What holds for every sharing scheme, in every regime that it declares."""

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mola_lightning.architectures import (
    CGC,
    HPS,
    LTB,
    MTAN,
    PLE,
    Architecture,
    CrossStitch,
    DSelectK,
    HPSDomainNorm,
    HPSWide,
    MMoE,
    SingleTask,
)
from mola_lightning.backbones import create_small_resnet
from mola_lightning.core import Batch, ConfigError, Regime, Task, TaskRows
from mola_lightning.training import MultiTaskModule

SHAPE = (3, 12, 12)
NAMES = ("a", "b", "c")
TASKS = tuple(Task(name, outputs) for name, outputs in zip(NAMES, (3, 4, 2), strict=True))
BACKBONE = partial(create_small_resnet, widths=(4, 6), blocks=(2, 1))

SCHEMES: dict[str, Callable[..., Architecture]] = {
    "hps": HPS,
    "single_task": SingleTask,
    "cross_stitch": CrossStitch,
    "mmoe": MMoE,
    "mmoe_trunk": partial(MMoE, num_experts=2, share_until=2),
    "dselect_k": DSelectK,
    "dselect_k_complete": partial(DSelectK, num_experts=4, num_selected=3, share_until=1),
    "cgc": CGC,
    "cgc_several": partial(CGC, num_shared=2, num_specific=2, share_until=2),
    "ple": PLE,
    "ple_trunk": partial(PLE, num_shared=2, share_until=1),
    "ple_one_level": partial(PLE, num_specific=2, share_until=2),
    "ltb": LTB,
    "ltb_drawn": LTB,  # after its warm-up
    "mtan": MTAN,
    "hps_dsbn": HPSDomainNorm,
    "hps_wide": partial(HPSWide, widen_to=3000),
}


def tiny_vit(**_: Any) -> nn.Module:
    return VisionTransformer(12, 6, embed_dim=8, depth=2, num_heads=2, num_classes=0)


def build(name: str, backbone: Any = BACKBONE, **settings: Any) -> Architecture:
    """Always the same weights for the same scheme, none of them where it started: gates differ, units are dense."""
    torch.manual_seed(0)
    architecture = SCHEMES[name](TASKS, backbone, **{"image_shape": SHAPE, **settings})
    if name == "ltb_drawn":
        architecture.set_progress(5, 10)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return architecture


def rows_of(regime: Regime) -> TaskRows:
    """Nine rows; several targets each, completely and partially annotated, where the regime has that."""
    if regime is not Regime.SINGLE_INPUT:
        return TaskRows.from_task_ids(torch.tensor([0, 1, 2, 0, 1, 1, 0, 2, 2]), NAMES)
    return TaskRows({"a": torch.arange(9), "b": torch.arange(0, 9, 2), "c": torch.tensor([0, 3, 8])}, 9)


def scheme_and_regime() -> list[Any]:
    """Every scheme with every regime that it declares, but once where the rows are the same."""
    cases: dict[tuple[str, str], Any] = {}
    for name, scheme in SCHEMES.items():
        declared = getattr(scheme, "func", scheme).regimes
        for regime in (regime for regime in Regime if regime in declared):
            case = pytest.param(name, regime, id=f"{name}-{regime.value}")
            cases.setdefault((name, str(dict(rows_of(regime)))), case)
    return list(cases.values())


def images(count: int = 9) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(7))


def losses_of(architecture: Architecture, features: dict[str, Tensor], rows: TaskRows) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 2, architecture.num_features)
    return {name: (features[name].flatten(1) * weights).square().sum() for name in rows.present}


def reached_by(architecture: Architecture, rows: TaskRows) -> dict[str, set[str]]:
    """Which tasks' losses reach each parameter with a gradient that is not zero, by autograd."""
    per_task = architecture(images(rows.batch_size), rows).per_task
    named = dict(architecture.named_parameters())
    reached: dict[str, set[str]] = {name: set() for name in named}
    for task, loss in losses_of(architecture, per_task, rows).items():
        gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None and gradient.any():
                reached[name].add(task)
    return reached


CASES = pytest.mark.parametrize(("name", "regime"), scheme_and_regime())
EACH = pytest.mark.parametrize("name", SCHEMES)


@CASES
def test_features_answer_the_rows(name: str, regime: Regime) -> None:
    """Row by row: what a task reads of an image is the same in any batch, with other tasks in it or none."""
    architecture, rows, batch = build(name).eval(), rows_of(regime), images()
    together = architecture(batch, rows).per_task
    assert list(together) == list(NAMES)
    for task, features in together.items():
        assert features.shape == (rows.counts[task], architecture.num_features)
        for row, found in zip(rows[task].tolist(), features, strict=True):
            one = TaskRows({other: torch.arange(int(other == task)) for other in NAMES}, 1)
            alone = architecture(batch[row : row + 1], one).per_task
            torch.testing.assert_close(alone[task][0], found)
            assert all(len(alone[other]) == 0 for other in NAMES if other != task)


@CASES
def test_shared_parameters_are_those_that_several_losses_reach(name: str, regime: Regime) -> None:
    architecture = build(name)
    declared = {id(p) for p in architecture.shared_parameters()}
    assert len(declared) == len(architecture.shared_parameters())
    reached: dict[str, set[str]] = {}
    for draw in range(8 if name == "ltb_drawn" else 1):  # each draw of branches reaches others
        torch.manual_seed(draw)
        for parameter, tasks in reached_by(architecture, rows_of(regime)).items():
            reached.setdefault(parameter, set()).update(tasks)
    for parameter, value in architecture.named_parameters():
        if name == "ltb" and parameter.startswith("logits"):
            continue  # nothing is drawn yet
        assert reached[parameter] or (name == "ltb" and "logits" in parameter), f"{parameter} learns nothing"
        assert (len(reached[parameter]) > 1) == (id(value) in declared), (parameter, reached[parameter])


@CASES
def test_an_absent_task_leaves_no_trace(name: str, regime: Regime) -> None:
    architecture, whole = build(name), rows_of(regime)
    rows = TaskRows({**whole, "b": whole["b"][:0]}, whole.batch_size)
    before = {key: value.clone() for key, value in architecture.named_buffers()}
    features = architecture(images(), rows)
    assert features.per_task["b"].shape == (0, architecture.num_features)
    loss = sum(losses_of(architecture, features.per_task, rows).values())
    (loss + sum(features.penalties.values())).backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in architecture.parameters())
    assert all(value.isfinite().all() for value in architecture.buffers())
    reached, shared = reached_by(build(name), whole), {id(p) for p in architecture.shared_parameters()}
    private = {n for n, p in architecture.named_parameters() if reached[n] == {"b"} and id(p) not in shared}
    for parameter, value in architecture.named_parameters():
        assert parameter not in private or value.grad is None or not value.grad.any(), parameter
    owners = {n.rpartition(".")[0] for n in private}
    for key, value in architecture.named_buffers():
        if key.rpartition(".")[0] in owners:  # a norm that only task b's rows go through
            assert torch.equal(value, before[key]), key


@EACH
def test_a_batch_without_any_target(name: str) -> None:
    features = build(name).eval()(images(2), TaskRows({task: torch.arange(0) for task in NAMES}, 2))
    assert all(len(found) == 0 for found in features.per_task.values())


@EACH
def test_feature_maps(name: str) -> None:
    architecture = build(name, partial(BACKBONE, pooled=False)).eval()
    per_task = architecture(images(), rows_of(Regime.SINGLE_INPUT)).per_task
    assert per_task["b"].shape == (5, architecture.num_features, 6, 6)


@EACH
def test_images_of_any_size(name: str) -> None:
    architecture = build(name, image_shape=None).eval()
    for size in ((5, 9), (12, 12), (32, 20)):
        features = architecture(torch.randn(3, 3, *size), TaskRows.all_rows(3, NAMES)).per_task
        assert all(found.isfinite().all() and found.shape[0] == 3 for found in features.values())


@EACH
def test_channels_other_than_three(name: str) -> None:
    architecture = build(name, image_shape=(1, 12, 12)).eval()
    assert architecture(torch.randn(2, 1, 12, 12), TaskRows.all_rows(2, NAMES)).per_task["a"].shape[0] == 2


@EACH
def test_tokens(name: str) -> None:
    """On a transformer, whose stages give tokens; or refused, with a choice that works."""
    if name in ("mtan", "hps_dsbn", "hps_wide"):
        with pytest.raises(ConfigError, match="backbone=resnet18|small_resnet"):
            build(name, tiny_vit)
        return
    architecture, rows = build(name, tiny_vit), rows_of(Regime.SINGLE_INPUT)
    features = architecture(images(), rows).per_task
    assert features["c"].shape == (3, 8)
    sum(losses_of(architecture, features, rows).values()).backward()


@EACH
def test_copies_and_checkpoints_are_exact(name: str) -> None:
    architecture, batch, rows = build(name), images(), rows_of(Regime.MULTI_INPUT)
    architecture(batch, rows)  # norm statistics move
    file = io.BytesIO()
    torch.save(architecture.state_dict(), file)
    loaded = SCHEMES[name](TASKS, BACKBONE, image_shape=SHAPE)
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    wanted = architecture.eval()(batch, rows).per_task
    for other in (copy.deepcopy(architecture), loaded.eval()):
        found = other(batch, rows).per_task
        assert all(torch.equal(found[task], wanted[task]) for task in NAMES)


@CASES
def test_a_training_step(name: str, regime: Regime) -> None:
    """Through the LightningModule: task losses, penalties, counts."""
    module, rows = MultiTaskModule(TASKS, build(name)), rows_of(regime)
    targets = {t.name: torch.arange(rows.counts[t.name]) % t.num_outputs for t in TASKS}
    batch = Batch(images(), targets, rows)
    torch.manual_seed(3)
    total = module.training_step(batch, 0)
    torch.manual_seed(3)
    output = module(batch.images, rows)
    expected = sum(nn.functional.cross_entropy(output.predictions[t], targets[t]) for t in NAMES)
    torch.testing.assert_close(total, expected + sum(output.penalties.values()))
    total.backward()
    logged = module.meters["train_"].compute()
    assert set(output.penalties) == set(module.architecture.penalty_names)
    assert all(f"aux/{penalty}" in logged for penalty in output.penalties)
