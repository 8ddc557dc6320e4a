"""A balancer of one's own: one class and one yaml in a folder of one's own, nothing in the package."""

import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from mola_lightning.cli.train import main

CLASS = '''
"""Lexicographic: only the first present task counts."""

import torch
from torch import Tensor

from mola_lightning.balancers import Balancer
from mola_lightning.data import MultiTaskDataModule, TensorSource


class First(Balancer):
    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, losses: Tensor, present: Tensor, shared: object, *, step: object = None) -> Tensor:
        return losses[int(present.int().argmax())] ** self.power


def data(seed: int) -> MultiTaskDataModule:
    draw = torch.Generator().manual_seed(0)
    def split():
        return {t: (torch.randn(12, 3, 8, 8, generator=draw), torch.randint(2, (12,), generator=draw)) for t in "ab"}
    source = TensorSource({"train": split(), "val": split(), "test": split()}, num_classes=2)
    return MultiTaskDataModule(source, batch_size=8, seed=seed)
'''


def test_a_balancer_through_config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_balancer.py").write_text(CLASS)
    for group, name, text in (
        ("balancer", "first", "_target_: my_balancer.First\npower: 2.0\n"),
        ("data", "tiny", "_target_: my_balancer.data\nseed: ${seed}\n"),
    ):
        folder = tmp_path / "conf" / group
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["balancer=first", "data=tiny", "architecture=hps", "trainer.max_epochs=1", "figures=false"]
    overrides += [f"paths.runs={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'runs' / 'one'}"]
    monkeypatch.setattr(sys, "argv", ["mola-train", "--config-dir", str(tmp_path / "conf"), *overrides])
    GlobalHydra.instance().clear()
    try:
        main()
    finally:
        GlobalHydra.instance().clear()
    summary = json.loads((tmp_path / "runs" / "one" / "summary.json").read_text())
    assert summary["status"] == "done"
    assert "power: 2.0" in (tmp_path / "runs" / "one" / "config.yaml").read_text()
