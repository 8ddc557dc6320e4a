"""Looks into models that are built by hand, so that what is to be found is known."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor, nn

from mola_lightning.analysis.comparing import check_comparable, compare_runs
from mola_lightning.analysis.embedding import project
from mola_lightning.analysis.forced import fixed_mixing
from mola_lightning.analysis.gradients import conflict_over_seeds, conflict_summary, conflict_table
from mola_lightning.analysis.looks import LOOKS, take
from mola_lightning.analysis.sampling import task_batches
from mola_lightning.analysis.similarity import cka_between_tasks, features_as_each_task, features_as_themselves
from mola_lightning.analysis.stages import parameter_groups, recorded_stages
from mola_lightning.analysis.subject import Subject, look
from mola_lightning.analysis.swap import NONE, OWN, relative_to_own, swap_table
from mola_lightning.architectures import HPS, MMoE, SingleTask
from mola_lightning.backbones import create_small_resnet
from mola_lightning.cli.analysis_loggers import log_results
from mola_lightning.core import ConfigError, Task, TaskRows
from mola_lightning.data import TensorSource
from mola_lightning.routers import UniformRouter
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

SHAPE = (1, 2, 2)


def one_pixel(pixels: list[int], count: int = 40) -> tuple[Tensor, Tensor]:
    """Images in which one of two pixels is lit; which one is the label."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 4)
    images[torch.arange(count), torch.tensor(pixels)[labels]] = 1.0
    return images.view(count, *SHAPE), labels


@pytest.fixture
def source() -> TensorSource:
    """Task a tells its classes by the first two pixels, task b by the last two."""
    parts = {"a": one_pixel([0, 1]), "b": one_pixel([2, 3])}
    return TensorSource(dict.fromkeys(("train", "val", "test"), parts), num_classes=2)


@pytest.fixture
def experts_that_differ(source: TensorSource) -> Any:
    """MoLA-Grad whose backbone gives zeros, and whose expert of a task reads the pixels of that task only."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    net.num_features = 2
    module = MoLAGrad(source.tasks, net, SHAPE, rank=1, alpha=1, adapter={"kind": "full"})
    with torch.no_grad():
        layer = module.architecture.backbone.adapted["1"]
        layer.weight.zero_()
        for expert in (0, 1):
            layer.expert_weight[expert, :, 2 * expert : 2 * expert + 2] = torch.eye(2)
        for head in module.heads.values():
            linear = next(part for part in head.modules() if isinstance(part, nn.Linear))
            linear.weight.copy_(torch.eye(2))
            linear.bias.zero_()
    return module.eval()


def subject(module: MultiTaskModule, source: TensorSource, folder: Path, label: str = "m", **settings: Any) -> Subject:
    small = {"num_batches": 2, "batch_size": 8, "num_images": 20} | settings
    return Subject(label, folder, module.eval(), source.dataset("test"), **small)


def test_exchanged_experts_leave_chance(experts_that_differ: Any, source: TensorSource) -> None:
    table = swap_table(experts_that_differ, source.dataset("test"), batch_size=16)
    assert table.loc[OWN].tolist() == [1.0, 1.0]
    assert table.loc[NONE].tolist() == [0.5, 0.5]
    assert table.loc[["expert 0", "expert 1"]].to_numpy().tolist() == [[1.0, 0.5], [0.5, 1.0]]
    change = relative_to_own(table, [True, False])
    assert change["a"].tolist() == [0, -50, 0, -50]
    assert change["b"].tolist() == [0, 50, 50, 0]


def test_only_models_with_experts_can_swap(source: TensorSource) -> None:
    module = MultiTaskModule(source.tasks, HPS(source.tasks, create_small_resnet, (1, 8, 8)))
    with pytest.raises(ConfigError, match="HPS has no experts"):
        swap_table(module, source.dataset("test"))
    with pytest.raises(ConfigError, match="HPS has no router"), fixed_mixing(module.architecture, torch.ones(2)):
        pass


def test_a_fixed_mixture_is_gone_afterwards(experts_that_differ: Any) -> None:
    architecture, images = experts_that_differ.architecture, torch.rand(3, *SHAPE)
    rows = TaskRows.from_task_ids(torch.tensor([0, 1, 1]), ("a", "b"))
    before, router = architecture(images, rows).per_task, architecture.router
    with fixed_mixing(architecture, torch.tensor([2.0, 2.0])):
        mixed = architecture(images, rows).per_task["a"]
    torch.testing.assert_close(mixed, 2 * images[:1].flatten(1)[:, :2] + 2 * images[:1].flatten(1)[:, 2:])
    assert architecture.router is router
    torch.testing.assert_close(architecture(images, rows).per_task, before)
    with pytest.raises(ConfigError, match=r"\(E,\) = \(2,\), got \(3,\)"), fixed_mixing(architecture, torch.ones(3)):
        pass


class Slope(nn.Module):
    """Two shared numbers; both are features of every image."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight.expand(len(images), 2)


class Bare(nn.Module):
    """Gives its features."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)  # a head needs parameters, not a use of them

    def forward(self, features: Tensor, size: Any) -> Tensor:
        return features


def pulled_apart(net: nn.Module, pulls: Any) -> MultiTaskModule:
    """The loss of task t is the dot product of its features with ``pulls[t]``."""

    def criterion_of(pull: tuple[float, float]) -> Any:
        return lambda outputs, targets: ((outputs @ torch.tensor(pull)).sum(), torch.tensor(float(len(outputs))))

    tasks = [Task(name, 2, criterion=criterion_of(pull)) for name, pull in zip("ab", pulls, strict=True)]
    return MultiTaskModule(tasks, HPS(tasks, net), head=lambda in_features, task: Bare())


@pytest.mark.parametrize(
    ("pulls", "cosine", "similarity"),
    [
        (((1.0, 0.0), (0.0, 1.0)), 0.0, 1.0),
        (((1.0, 1.0), (-1.0, -1.0)), -1.0, 1.0),
        (((2.0, 0.0), (1.0, 0.0)), 1.0, 0.8),
    ],
    ids=["orthogonal", "opposed", "of unequal length"],
)
def test_conflict_of_known_gradients(
    pulls: Any, cosine: float, similarity: float, source: TensorSource, tmp_path: Path
) -> None:
    module = pulled_apart(Slope(), pulls)
    table = conflict_table(subject(module, source, tmp_path))
    assert set(table["group"]) == {"all shared", "backbone"}
    assert table["batch"].nunique() == 2
    assert table["cosine"].tolist() == pytest.approx([cosine] * len(table))
    summary = conflict_summary(table).loc["all shared"]
    assert summary["share_negative"] == (cosine < 0)
    assert summary["mean_magnitude_similarity"] == pytest.approx(similarity)
    assert all(parameter.grad is None for parameter in module.parameters())


class AddsTo(nn.Module):
    """Adds two numbers of its own to features of one place, nothing to the other."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.weight, self.place = nn.Parameter(torch.zeros(2)), torch.eye(2)[place]

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(1)[:, :2] + self.weight * self.place


def test_conflict_of_each_stage(source: TensorSource, tmp_path: Path) -> None:
    """The tasks agree on what the first stage gives, and are opposed on what the second one does."""
    net = nn.Sequential(AddsTo(0), AddsTo(1))
    net.num_features = 2
    module = pulled_apart(net, ((1.0, 1.0), (1.0, -3.0)))
    summary = conflict_summary(conflict_table(subject(module, source, tmp_path)))
    assert summary["mean_cosine"].to_dict() == pytest.approx(
        {"all shared": -2 / math.sqrt(20), "stem": 1, "output": -1}
    )
    assert summary["share_negative"].to_dict() == {"all shared": 1, "stem": 0, "output": 1}
    assert summary["mean_magnitude_similarity"].to_dict() == pytest.approx(
        {"all shared": 2 * math.sqrt(20) / 12, "stem": 1, "output": 0.6}
    )


def test_several_runs_spread_as_their_means_do() -> None:
    def run(*cosines: float) -> pd.DataFrame:
        rows = [("stem", k, "a", "b", cosine, 0.5) for k, cosine in enumerate(cosines)]
        columns = ["group", "batch", "task_a", "task_b", "cosine", "magnitude_similarity"]
        return conflict_summary(pd.DataFrame(rows, columns=columns))

    row = conflict_over_seeds([run(0.5, 0.5), run(-0.3, 0.1)]).loc["stem"]
    assert row["mean_cosine"] == pytest.approx(0.2)
    assert row["std_cosine"] == pytest.approx(0.6 / math.sqrt(2))  # of 0.5 and -0.1, not of batches
    assert row["share_negative"] == 0.25
    assert row["std_negative"] == pytest.approx(0.5 / math.sqrt(2))
    assert (row["mean_magnitude_similarity"], row["std_magnitude_similarity"], row["pairs"]) == (0.5, 0.0, 4)
    assert np.isnan(conflict_over_seeds([run(0.5, 0.1)]).loc["stem", "std_cosine"])


def test_groups_cover_all_shared_parameters(source: TensorSource) -> None:
    shape, names = (1, 8, 8), ["stem", "stage 1", "stage 2", "stage 3"]
    hps = HPS(source.tasks, create_small_resnet, shape)
    grad = MoLAGrad(source.tasks, create_small_resnet, shape).architecture
    router = MoLARouter(source.tasks, create_small_resnet, shape).architecture
    mmoe = MMoE(source.tasks, create_small_resnet, image_shape=shape)
    expected = [(hps, []), (grad, []), (router, ["router", "experts"]), (mmoe, None)]
    for architecture, more in expected:
        groups = parameter_groups(architecture)
        pieces = sorted(piece for name, pieces in groups.items() if name != "all shared" for piece in pieces)
        total = sum(parameter.numel() for parameter in architecture.shared_parameters())
        assert pieces[0][0] == 0
        assert pieces[-1][1] == total
        assert all(left[1] == right[0] for left, right in pairwise(pieces))
        if more is not None:
            assert set(groups) == {"all shared", *names, *more}


@pytest.mark.parametrize("method", [MoLAGrad, MoLARouter, "hps"])
def test_recording_stages_changes_nothing(method: Any, source: TensorSource) -> None:
    shape = (1, 8, 8)
    if method == "hps":
        architecture: Any = HPS(source.tasks, create_small_resnet, shape).eval()
    else:
        architecture = method(source.tasks, create_small_resnet, shape).eval().architecture
    images, rows = torch.rand(6, *shape), TaskRows.from_task_ids(torch.arange(6) % 2, ("a", "b"))
    before = architecture(images, rows).per_task
    with recorded_stages(architecture) as stages:
        inside = architecture(images, rows).per_task
    torch.testing.assert_close(inside, before, rtol=0, atol=0)
    assert list(stages) == ["stem", "stage 1", "stage 2", "stage 3", "output"]
    assert [part[0].shape for part in stages.values()] == [(6, 8 * 16), (6, 8 * 16), (6, 16 * 16), (6, 32 * 4), (6, 32)]
    torch.testing.assert_close(architecture(images, rows).per_task, before, rtol=0, atol=0)


def test_batches_of_one_task(source: TensorSource) -> None:
    dataset, task = source.dataset("test"), source.tasks[1]
    every = list(task_batches(dataset, task, 16))
    assert [len(batch) for batch in every] == [16, 16, 8]
    assert all(batch.rows.present == ("b",) for batch in every)
    assert torch.cat([batch.images for batch in every]).flatten(1)[:, :2].sum() == 0
    drawn = [torch.cat([b.images for b in task_batches(dataset, task, 16, 20, seed)]) for seed in (0, 0, 1)]
    assert len(drawn[0]) == 20
    torch.testing.assert_close(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_batches_where_not_every_row_has_the_target() -> None:
    tasks, count = [Task("a", 2), Task("b", 2)], 10
    split = {name: torch.zeros(count, dtype=torch.long) for name in "ab"}
    images = torch.arange(float(count)).view(count, 1, 1, 1)
    some = TensorSource.single_input(
        {"train": images}, {"train": split}, tasks, {"train": {"b": torch.arange(count) > 6}}
    )
    (batch,) = task_batches(some.dataset("train"), tasks[1], 8)
    assert batch.images.flatten().tolist() == [7, 8, 9]
    assert set(batch.targets["a"].shape) == {0}


def test_task_models_that_agree_and_that_do_not(experts_that_differ: Any, source: TensorSource, tmp_path: Path) -> None:
    here = subject(experts_that_differ, source, tmp_path, num_images=40)
    features = features_as_each_task(here)
    found = cka_between_tasks(features)
    # Each expert sees its own half of the images only; what it gives for the others is zero.
    assert found["output"][0, 1] < 0.5
    with torch.no_grad():
        layer = experts_that_differ.architecture.backbone.adapted["1"]
        layer.expert_weight[1] = 2 * layer.expert_weight[0]
    assert cka_between_tasks(features_as_each_task(here))["output"][0, 1] == pytest.approx(1)
    with torch.no_grad():
        layer.expert_weight[1] = layer.expert_weight[0]
    assert features_as_each_task(here) == {}, "all tasks share all features"


def test_mixing_weights_as_they_were_used(experts_that_differ: Any, source: TensorSource, tmp_path: Path) -> None:
    seen = look(subject(experts_that_differ, source, tmp_path))
    assert seen.features.shape == (40, 2)
    assert seen.task_ids.bincount().tolist() == [20, 20]
    np.testing.assert_array_equal(seen.task_mixing(2), np.eye(2))


def test_projections() -> None:
    line = np.outer(np.linspace(0, 1, 20), [3.0, 4.0, 0.0])
    points, axis_names = project(line)
    assert np.ptp(points[:, 0]) == pytest.approx(5)
    assert np.ptp(points[:, 1]) == pytest.approx(0, abs=1e-9)
    assert axis_names[0] == "PC 1 (100 % of variance)"
    groups = np.repeat([[0.0, 0, 0], [50.0, 0, 0]], 15, axis=0) + np.random.default_rng(0).normal(size=(30, 3))
    near, _ = project(groups, "tsne")
    assert near.shape == (30, 2)
    assert project(line[:2]) is None
    nowhere, axis_names = project(np.ones((5, 3)))
    assert nowhere.tolist() == [[0, 0]] * 5
    assert axis_names[0] == "PC 1 (0 % of variance)"
    assert project(line[:, :1]) is None
    with pytest.raises(ConfigError, match="embedding must be one of 'pca', 'tsne', got 'umap'"):
        project(line, "umap")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of numbers: files of figures appear, and drawing them, most of the time, is left out."""
    monkeypatch.setattr("mola_lightning.analysis.plots.style.write", lambda figure, file, kind, name: file.write(b"-"))


def test_every_look_writes_numbers_and_figures(experts_that_differ: Any, source: TensorSource, tmp_path: Path) -> None:
    here = subject(experts_that_differ, source, tmp_path)
    for name in LOOKS:
        result = take(here, name)
        assert result.files
        assert result.findings
        assert result.numbers
        assert all(path.is_file() and path.stat().st_size for path in result.files)
        pictures = [path for path in result.files if path.suffix == ".png"]
        assert pictures
        assert all(path.with_suffix(".svg").is_file() for path in pictures)
    assert pd.read_csv(tmp_path / "swap.csv")["a"].tolist() == [1, 0.5, 1, 0.5]
    found = dict(pd.read_csv(tmp_path / "routing.csv").itertuples(index=False))
    assert found["dead experts"] == "none"
    assert float(found["silhouette of tasks in mixing space"]) == pytest.approx(1)
    with np.load(tmp_path / "experts.npz") as stored:
        assert stored["angles"][0, 1] == pytest.approx(0, abs=0.1)  # both reach all of the two outputs
    with pytest.raises(ConfigError, match="looks must be one of"):
        take(here, "nothing")


@pytest.mark.usefixtures("undrawn")
def test_runs_side_by_side(source: TensorSource, tmp_path: Path) -> None:
    shape = (1, 2, 2)
    modules = [MultiTaskModule(source.tasks, HPS(source.tasks, create_small_resnet, shape)) for _ in range(2)]
    subjects = [subject(m, source, tmp_path / n, n, num_images=40) for m, n in zip(modules, "xy", strict=True)]
    found = {s.label: {name: take(s, name) for name in ("conflict", "swap", "similarity")} for s in subjects}
    assert "no experts" in found["x"]["swap"].note
    assert "CKA between them is 1" in found["x"]["similarity"].note
    check_comparable(subjects)
    compared = compare_runs(subjects, found, tmp_path / "both")
    assert set(compared) == {"conflict", "similarity"}
    assert set(pd.read_csv(tmp_path / "both" / "conflict_runs.csv")["run"]) == {"x", "y"}
    matrix = pd.read_csv(tmp_path / "both" / "similarity_runs.csv", index_col=0)
    assert list(matrix.index) == list(matrix.columns) == list(features_as_themselves(subjects[0]))
    assert not math.isclose(matrix.iloc[-1, -1], 1, abs_tol=1e-3), "two random networks are not the same"
    same = compare_runs([subjects[0], subject(modules[0], source, tmp_path, "y", num_images=40)], found, tmp_path)
    assert same["similarity"].findings[0][1] == "1.000"


@pytest.fixture
def experts_for_all(experts_that_differ: Any, source: TensorSource) -> Any:
    """The same experts, all mixed evenly for every image: what a router does whose tasks are not told apart."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    net.num_features = 2
    settings: dict[str, Any] = {"adapter": {"kind": "full"}, "router": UniformRouter, "twd_weight": 0.0}
    module = MoLARouter(source.tasks, net, SHAPE, rank=1, alpha=1, **settings)
    module.architecture.backbone.load_state_dict(experts_that_differ.architecture.backbone.state_dict())
    return module.eval()


@pytest.mark.usefixtures("undrawn")
def test_routing_side_by_side(
    experts_that_differ: Any, experts_for_all: Any, source: TensorSource, tmp_path: Path
) -> None:
    modules = {"apart": experts_that_differ, "alike": experts_for_all}
    subjects = [subject(module, source, tmp_path / name, name) for name, module in modules.items()]
    found = {s.label: {"routing": take(s, "routing")} for s in subjects}
    (compared,) = compare_runs(subjects, found, tmp_path / "both").values()
    table = pd.read_csv(tmp_path / "both" / "routing_runs.csv", index_col=["statistic", "run"])["value"]
    told = table["I(task; expert) / H(task)"].astype(float)
    assert told["apart"] == pytest.approx(1)
    assert told["alike"] == pytest.approx(0, abs=1e-9)
    assert [value for _, value in compared.findings] == ["1.000", "0.000"]
    assert (tmp_path / "both" / "routing_runs.png").is_file()
    assert (tmp_path / "both" / "routing_runs.svg").is_file()
    np.testing.assert_array_equal(found["apart"]["routing"].mixing, np.eye(2))
    np.testing.assert_array_equal(found["alike"]["routing"].mixing, np.full((2, 2), 0.5))


def test_conflict_has_a_panel_for_each_group_of_parameters(source: TensorSource, tmp_path: Path) -> None:
    module = MultiTaskModule(source.tasks, HPS(source.tasks, create_small_resnet, SHAPE))
    result = take(subject(module, source, tmp_path), "conflict")
    groups = ["all shared", "stem", "stage 1", "stage 2", "stage 3"]
    assert list(result.table.index) == groups
    assert {f"{group}/share_negative" for group in groups} <= result.numbers.keys()
    svg = (tmp_path / "conflict_opposed.svg").read_text()
    assert all(f"<!-- {group} -->" in svg for group in groups)


@pytest.mark.usefixtures("undrawn")
def test_images_that_have_all_tasks(tmp_path: Path) -> None:
    """A router cannot tell their tasks apart: what would compare them is left out, and it is said why."""
    tasks, count = [Task("a", 2), Task("b", 2)], 12
    images, labels = torch.rand(count, 3, 8, 8), {name: torch.arange(count) % 2 for name in "ab"}
    both = TensorSource.single_input({"test": images, "train": images}, {"test": labels, "train": labels}, tasks)
    module = MoLARouter(tasks, create_small_resnet, (3, 8, 8), rank=2, alpha=2, twd_weight=0.0)
    here = subject(module, both, tmp_path, num_images=12)
    result = take(here, "routing")
    assert "mixed the same" in result.note
    assert result.cloud.names == ["all tasks alike"]
    assert (result.cloud.groups == 0).sum() == count
    found = take(here, "experts")
    assert "mixed the same" in found.note
    assert "task_distance" not in {path.stem for path in found.files}
    module = MoLAGrad(tasks, create_small_resnet, (3, 8, 8), rank=2, alpha=2)
    assert take(subject(module, both, tmp_path, num_images=12), "routing").note.startswith("one expert an image")


class Remembers(Logger):
    """Takes numbers only."""

    name, version = "remembers", ""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.found |= {**metrics, "step": step}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pytest.fail("results of looks have no settings to log")


def test_loggers_get_numbers_and_figures(experts_that_differ: Any, source: TensorSource, tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    here = subject(experts_that_differ, source, tmp_path / "analysis")
    results = {name: take(here, name) for name in ("routing", "swap")}
    plain, board = Remembers(), TensorBoardLogger(str(tmp_path), name="tb", version="")
    log_results([plain, board], results, step=30)
    assert plain.found["step"] == 30
    assert plain.found["analysis/swap/b/expert_0"] == 0.5
    assert plain.found["analysis/routing/normalised_mutual_information"] == pytest.approx(1)
    assert all(math.isfinite(value) for value in plain.found.values())
    events = accumulators.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    pictures = {path.stem for result in results.values() for path in result.files if path.suffix == ".png"}
    assert set(events.Tags()["images"]) == {f"analysis/{name}" for name in pictures}
    assert events.Scalars("analysis/swap/b/expert_0")[0].step == 30


def test_runs_of_other_tasks_are_not_compared(source: TensorSource, tmp_path: Path) -> None:
    other = TensorSource({split: {"c": one_pixel([0, 1])} for split in ("train", "test")}, num_classes=2)
    fewer = TensorSource({split: {name: one_pixel([0, 1], 8) for name in "ab"} for split in ("train", "test")}, 2)
    subjects = [
        subject(MultiTaskModule(s.tasks, HPS(s.tasks, create_small_resnet, SHAPE)), s, tmp_path, str(i))
        for i, s in enumerate((source, other, fewer))
    ]
    with pytest.raises(ConfigError, match="the same tasks in the same order, found: a, b; c"):
        check_comparable(subjects[:2])
    with pytest.raises(ConfigError, match="of the same data"):
        check_comparable([subjects[0], subjects[2]])


def test_single_task_models_are_compared_stage_by_stage(source: TensorSource, tmp_path: Path) -> None:
    module = MultiTaskModule(source.tasks, SingleTask(source.tasks, create_small_resnet, SHAPE))
    here = subject(module, source, tmp_path, num_images=40)
    assert "no parameter is shared" in take(here, "conflict").note
    assert "no low-rank experts" in take(here, "experts").note
    found = cka_between_tasks(features_as_each_task(here))
    assert list(found) == ["stem", "stage 1", "stage 2", "stage 3", "output"]
    assert all(matrix[0, 1] < 0.999 for matrix in found.values())
