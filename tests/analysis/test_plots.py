"""Figures: what is drawn, and that the files are whole."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mola_lightning.analysis import (
    Records,
    comparison,
    comparison_bars,
    comparison_costs,
    comparison_dots,
    confusion_matrix,
    cosine_heatmap,
    draw_comparison,
    draw_run,
    learning_curves,
    load_runs,
    mixing_heatmap,
    read_metrics,
    routing_panels,
    save,
    scores,
)
from mola_lightning.core import DataError, RunFolderError

METRICS = pd.DataFrame(
    {
        "epoch": [0, 0, 1, 1],
        "step": [10, 10, 20, 20],
        "train/a/loss": [2.0, None, 1.0, None],
        "train/loss": [4.0, None, 3.0, None],
        "train/aux/twd": [0.1, None, 0.1, None],
        "val/a/loss": [None, 2.0, None, 1.5],
        "val/b/loss": [None, 2.5, None, 2.0],
        "val/a/accuracy": [None, 0.5, None, 0.6],
        "val/mean/accuracy": [None, 0.5, None, 0.6],
        "val/score": [None, 0.5, None, 0.6],
    }
)


def test_learning_curves_have_a_panel_per_quantity() -> None:
    figure = learning_curves(METRICS, ["a", "b"])
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["training loss", "validation loss", "validation accuracy"]
    (line,) = panels["training loss"].lines
    assert line.get_xdata().tolist() == [10, 20]
    assert line.get_ydata().tolist() == [2.0, 1.0]
    assert [line.get_label() for line in panels["validation accuracy"].lines] == ["a", "mean over tasks"]
    colours = {axes.lines[0].get_color() for axes in panels.values()}
    assert len(colours) == 1, "a task keeps its colour"
    assert not plt.get_fignums(), "nothing in pyplot's state"


@pytest.mark.parametrize("metrics", [pd.DataFrame(), pd.DataFrame({"step": [1], "val/a/loss": [None]})])
def test_learning_curves_of_nothing(metrics: pd.DataFrame, tmp_path: Path) -> None:
    assert save(learning_curves(metrics, ["a"]), tmp_path / "empty").exists()


def test_mixing_heatmap_writes_its_numbers() -> None:
    figure = mixing_heatmap([[0.1, 0.9], [None, None]], ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.10", "0.90", "–", "–"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_routing_panels_share_a_scale() -> None:
    figure = routing_panels([("one", np.eye(2)), ("two", np.full((2, 3), 1 / 3))], ["a", "b"])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    assert {axes.images[0].get_clim() for axes in figure.axes[:2]} == {(0.0, 1.0)}
    with pytest.raises(DataError, match="each of 3 tasks"):
        routing_panels([("one", np.eye(2))], ["a", "b", "c"])
    with pytest.raises(DataError, match="at least one"):
        routing_panels([])


def test_confusion_matrix_shows_shares_of_the_true_class() -> None:
    figure = confusion_matrix([[3, 1], [0, 0]], "a", ["cat", "dog"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25", "–", "–"]
    assert "75.0 % of 4" in figure.axes[0].get_title()
    with pytest.raises(DataError, match="square"):
        confusion_matrix(np.ones((2, 3)), "a")


def test_cosine_heatmap_is_white_at_zero() -> None:
    axes = cosine_heatmap([[1, -0.001, None], [-0.001, 1, 0], [None, 0, 1]], ["a", "b", "c"]).axes[0]
    red, green, blue, _ = axes.images[0].to_rgba(np.array(0.0))
    assert min(red, green, blue) > 0.95
    assert axes.texts[1].get_text() == "0.00"
    assert axes.texts[2].get_text() == "–"


def test_comparison_bars(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed, a in ((1, 0.8), (2, 0.9)):
        make_run("hps", seed, a, 0.5)
        make_run("mola_grad", seed, a, None)
    (axes,) = comparison_bars(comparison(load_runs([tmp_path]))).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "mean"]
    hps, mola = axes.containers[1], axes.containers[3]  # each after its error bars
    assert [bar.get_height() for bar in hps] == pytest.approx([85, 50, 67.5])
    assert np.isnan(mola[1].get_height())
    assert to_hex(hps[0].get_facecolor()) != to_hex(mola[0].get_facecolor())
    assert axes.get_ylim() == (0, 100)
    assert axes.get_ylabel() == "test accuracy (%)"


def test_bars_of_different_metrics_have_panels_of_their_own(make_run: Callable[..., Path], tmp_path: Path) -> None:
    monitor = {
        "a": {"metric": "miou", "higher_is_better": True},
        "b": {"metric": "abs_error", "higher_is_better": False},
    }
    make_run("hps", 1, None, None, monitor=monitor, test={"a": {"miou": 0.4}, "b": {"abs_error": 0.7}})
    figure = comparison_bars(comparison(load_runs([tmp_path])))
    assert [axes.get_ylabel() for axes in figure.axes] == ["test miou (%)", "test abs error"]


def test_comparison_dots_have_a_row_per_method(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for i in range(20):
        make_run(f"method_{i:02}", 1, 0.5 + 0.01 * i, None if i == 3 else 0.9 - 0.01 * i)
    figure = comparison_dots(comparison(load_runs([tmp_path])))
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "mean over tasks"]
    first, second, mean = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == [f"method_{i:02}" for i in range(20)]
    assert first.get_ylim() == (19.5, -0.5), "in the order of the table, from above"
    hollow, best = first.collections[-2:]
    assert best.get_offsets().tolist() == [pytest.approx([69, 19])]
    assert len(hollow.get_offsets()) == 19
    assert second.collections[-1].get_offsets().tolist() == [pytest.approx([90, 0])]
    assert np.isfinite(second.collections[-2].get_offsets().data).sum() == 2 * 18 + 1, "a missing score has no dot"
    assert mean.get_xlabel() == "test accuracy (%)"


def test_comparison_costs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed, a in ((1, 0.8), (2, 0.9)):
        make_run("hps", seed, a, 0.5)
        make_run("mola_grad", seed, a, 0.6, step_time_s={"median": 0.05}, parameters={"total": 2_000_000})
        make_run("half", seed, a, None)
    runs = load_runs([tmp_path])
    figure = comparison_costs(comparison(runs, methods=["hps", "half", "mola_grad"]), scores(runs))
    time, parameters = figure.axes
    assert (time.get_ylabel(), parameters.get_xlabel()) == ("mean test accuracy (%)", "parameters")
    dots, mean = time.collections[2:]
    assert dots.get_offsets().tolist() == [pytest.approx([0.05, 70]), pytest.approx([0.05, 75])]
    assert mean.get_offsets().tolist() == [pytest.approx([0.05, 72.5])]
    assert parameters.collections[-1].get_offsets()[0, 0] == 2_000_000
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["hps", "mola_grad"]
    with pytest.raises(DataError, match="no method has both"):
        comparison_costs(comparison(runs, methods=["half"]), scores(runs))


def test_costs_of_mixed_metrics_are_of_delta_m(make_run: Callable[..., Path], tmp_path: Path) -> None:
    monitor = {"a": {"metric": "miou", "higher_is_better": True}, "b": {"metric": "err", "higher_is_better": False}}
    for method, miou in (("single_task", 0.4), ("hps", 0.5)):
        make_run(method, 1, None, None, monitor=monitor, test={"a": {"miou": miou}, "b": {"err": 0.7}})
    runs = load_runs([tmp_path])
    assert comparison_costs(comparison(runs), scores(runs)).axes[0].get_ylabel() == "Δm (%)"


@pytest.mark.parametrize(("methods", "names"), [(2, {"comparison"}), (9, {"comparison", "costs"})])
def test_drawing_a_comparison(methods: int, names: set[str], make_run: Callable[..., Path], tmp_path: Path) -> None:
    for i in range(methods):
        make_run(f"method_{i}", 1, 0.5, 0.5, step_time_s=None)
    runs = load_runs([tmp_path])
    drawn = draw_comparison(comparison(runs), scores(runs), runs, tmp_path / "figures")
    assert {path.name for path in drawn} == {f"{name}_digits.png" for name in names}


def test_saved_files_are_reproducible(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        png = save(mixing_heatmap(np.eye(2), ["a", "b"]), tmp_path / folder / "v1.0")
        assert png.name == "v1.0.png", "a dot in the name is no suffix"
        with Image.open(png) as image:
            assert image.width > 200
    one, two = ((tmp_path / folder / "v1.0.svg").read_bytes() for folder in ("one", "two"))
    assert one == two
    assert len(list((tmp_path / "one").iterdir())) == 2, "nothing else is left"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        save(mixing_heatmap(np.eye(2), ["a", "b"]), tmp_path / "file" / "figure")


def test_records_come_back(tmp_path: Path) -> None:
    records = Records(
        ("a", "b"),
        {"a": np.arange(4).reshape(2, 2)},
        {"a": ("cat", "dog")},
        mean_mixing=np.eye(2),
        mixing=np.ones((3, 2), np.float32),
        mixing_task_ids=np.array([0, 0, 1]),
    )
    records.save(tmp_path)
    back = Records.load(tmp_path)
    assert (back.tasks, back.class_names, back.cosine) == (records.tasks, records.class_names, None)
    np.testing.assert_array_equal(back.confusion["a"], records.confusion["a"])
    np.testing.assert_array_equal(back.mixing_task_ids, records.mixing_task_ids)


def test_drawing_what_a_run_has(tmp_path: Path) -> None:
    assert draw_run(tmp_path) == []
    METRICS.to_csv(tmp_path / "metrics.csv", index=False)
    assert [path.name for path in draw_run(tmp_path)] == ["learning_curves.png"]
    Records(("a", "b"), {"a": np.eye(2), "b": np.zeros((2, 2))}, cosine=np.eye(2)).save(tmp_path)
    names = [path.name for path in draw_run(tmp_path)]
    assert names == ["learning_curves.png", "confusion_a.png", "gradient_cosine.png"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="when a run is tested"):
        Records.load(tmp_path)
    path = Records(("a",)).save(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunFolderError, match="damaged"):
        Records.load(tmp_path)
    (tmp_path / "metrics.csv").write_text("")
    assert read_metrics(tmp_path) is None
    (tmp_path / "metrics.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(RunFolderError, match=r"metrics\.csv"):
        read_metrics(tmp_path)
