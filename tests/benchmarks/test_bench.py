"""The benchmark's command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mola_lightning.benchmarks import CASES
from mola_lightning.cli.bench import main


def test_quick_run_prints_a_table_and_writes_all_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "c", replace(CASES["c"], backbone="test_resnet"))
    path = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    assert main(["--quick", "--repeats", "1", "--threads", "1", "--plans", "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    shown, errors = capsys.readouterr()
    assert "plain backbone" in shown
    assert "layer4.0.conv2" in shown
    assert errors == ""
    report = json.loads(path.read_text())
    assert report["machine"]["threads"] == 1
    assert report["machine"]["torch"] == torch.__version__
    methods = report["cases"]["c"]["methods"]
    assert list(methods) == ["plain", "grad", "soft", "router"]
    for values in methods.values():
        assert len(values["time"]["seconds"]) == 1
        assert values["peak_memory"]["ratio"] >= 1
        assert values["multiply_adds"]["ratio"] >= 1


def test_forward_passes_of_one_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "c", replace(CASES["c"], backbone="test_resnet"))
    options = ["--quick", "--repeats", "1", "--threads", "1", "--inference", "--present", "1"]
    assert main([*options, "--json", str(tmp_path / "bench.json")]) == 0
    case = json.loads((tmp_path / "bench.json").read_text())["cases"]["c"]
    assert case["case"]["present"] == 1
    assert case["methods"]["plain"]["multiply_adds"]["count"] > 0
    assert CASES["c"].batch().rows.counts["task1"] > 0
    assert replace(CASES["c"], present=1).batch().rows.counts["task0"] == CASES["c"].rows


def test_wrong_settings_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--threads", "0"]) == 1
    assert "threads must be an integer >= 1" in capsys.readouterr().err
    assert main(["--quick", "--present", "0"]) == 1
    assert "present must be an integer >= 1" in capsys.readouterr().err
    assert main(["--quick", "--device", "toaster"]) == 1
    assert "--device must be cpu or cuda" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--cases", "z"])
