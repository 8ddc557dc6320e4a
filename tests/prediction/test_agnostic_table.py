"""The table of runs without task ids, from numbers made up."""

import pytest

from mola_lightning.prediction.agnostic_table import Evaluated, agnostic_frame, agnostic_markdown


def run(method: str, seed: int, accuracy: float, way: str) -> Evaluated:
    values = {"accuracy": accuracy, "task_accuracy": 0.9}
    return Evaluated(
        method,
        seed,
        {"task_id": {"a": {"accuracy": 0.8}, "mean": {"accuracy": 0.8}}, way: {"a": values, "mean": values}},
    )


def test_numbers_and_their_table() -> None:
    runs = [run("hps", 0, 0.5, "mapper"), run("mola_router", 0, 0.7, "router"), run("mola_router", 1, 0.6, "router")]
    frame = agnostic_frame(runs)
    assert len(frame) == 6
    of_mean = frame[(frame["method"] == "mola_router") & (frame["task"] == "mean")]
    assert of_mean["accuracy"].tolist() == pytest.approx([70, 60])
    lines = agnostic_markdown(frame).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "method", "task chosen by", "task found", "with task id", "a", "mean",
    ]  # fmt: skip
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert first == ["mola_router", "router", "90.0 ± 0.0", "80.0 ± 0.0", "65.0 ± 7.1", "65.0 ± 7.1"]
    assert second == ["hps", "mapper", "90.0", "80.0", "50.0", "50.0"]
    assert len({len(line) for line in lines}) == 1
