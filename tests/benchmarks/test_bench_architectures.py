"""The command line that measures the configs of architectures and balancers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_module

from mola_lightning.balancers import torchjd
from mola_lightning.cli import bench_architectures
from mola_lightning.cli.bench_architectures import LINE_UPS, main

CONF = Path(__file__).parents[2] / "conf"


def run(path: Path, *options: str) -> dict[str, Any]:
    """The tables of a quick run."""
    assert main(["--quick", "--threads", "1", "--json", str(path), *options]) == 0
    return json.loads(path.read_text())


def test_numbers_of_architectures_are_those_of_their_definitions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["hps", "single_task", "hps_dsbn", "hps_wide", "mmoe", "mola_grad", "ltb"]
    threads = torch.get_num_threads()
    report = run(tmp_path / "a.json", "--tables", "architectures", "--only", *names)
    shown, errors = capsys.readouterr()
    assert all(name in shown for name in (*names, "parameters", "min-max"))
    assert errors == ""
    assert torch.get_num_threads() == threads
    assert (report["machine"]["threads"], report["setting"]["backbone"]) == (1, "small_resnet")
    methods = report["tables"]["architectures"]["methods"]
    assert set(methods) == set(names)
    work = {name: values["multiply_adds"]["ratio"] for name, values in methods.items()}
    size = {name: values["parameters"]["ratio"] for name, values in methods.items()}
    assert work["hps"] == work["single_task"] == work["hps_dsbn"] == 1  # each row runs through one backbone
    assert work["mmoe"] == pytest.approx(4, rel=0.01)  # each row runs through every expert
    assert work["ltb"] == pytest.approx(4, rel=0.05)  # past its warm-up too, all nodes run in training
    assert size["hps"] == 1
    assert size["hps_wide"] == pytest.approx(size["mola_grad"], rel=0.05)
    assert 3.5 < size["single_task"] < 4
    assert all(len(values["time"]["seconds"]) == 1 for values in methods.values())


def test_balancers_of_features_are_measured_where_tasks_share_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(tmp_path / "b.json", "--tables", "balancers", "features", "--only", "equal", "mgda", "mgda_ub")
    assert "1 + 4" in capsys.readouterr().out
    assert set(report["tables"]["balancers"]["methods"]) == {"equal", "mgda"}
    methods = report["tables"]["features"]["methods"]
    assert set(methods) == {"equal", "mgda", "mgda_ub"}
    assert methods["mgda"]["passes"] == {"forward": 1, "backward": 4}
    assert methods["mgda_ub"]["passes"] == {"forward": 1, "backward": 1}


def test_every_config_of_the_two_groups_has_a_place() -> None:
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        measured = {(line_up.group, name) for line_up in LINE_UPS.values() for name in line_up.names()}
    for group, left_out in bench_architectures.LEFT_OUT.items():
        options = {path.stem for path in (CONF / group).glob("*.yaml")}
        assert {name for found, name in measured if found == group} == options - left_out
        assert left_out <= options


def test_a_method_whose_solver_is_missing_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchjd, "_importable", lambda package: package != "cvxpy")
    report = run(tmp_path / "c.json", "--tables", "balancers", "--only", "cagrad", "uw")
    table = report["tables"]["balancers"]
    assert (set(table["methods"]), set(table["left_out"])) == ({"uw"}, {"cagrad"})
    assert "left out cagrad: CAGrad solves its problem with cvxpy, clarabel" in capsys.readouterr().out


def test_wrong_settings_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--rounds", "0"], "--rounds must be an integer >= 1"),
        (["--only", "magic"], "--only must be one of 'aligned_mtl'"),
        (["--clock", "cpu", "--threads", "2"], "use --threads 1"),
    ):
        assert main(["--quick", *options]) == 1
        assert message in capsys.readouterr().err
