"""A sharing scheme of one's own: one class and one yaml in a folder of one's own, nothing in the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLASS = '''
"""A stem for each task before one shared backbone."""

import torch
from torch import nn

from mola_lightning.architectures import Architecture, Features, build_backbone


class Stems(Architecture):
    method = "stems"

    def __init__(self, tasks, backbone, kernel_size, image_shape=None):
        super().__init__(tasks)
        channels = 3 if image_shape is None else image_shape[0]
        self.backbone = build_backbone(backbone, image_shape)
        self.num_features = self.backbone.num_features
        padding = kernel_size // 2
        self.stems = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size, padding=padding) for _ in self.tasks)

    def forward(self, images, rows):
        found = {}
        for name, stem in zip(rows, self.stems, strict=True):
            if rows.counts[name]:
                found[name] = self.backbone(stem(images[rows[name]]))
        return Features(self.complete(found, rows, images))

    def shared_parameters(self):
        return list(self.backbone.parameters())

    def component_of(self, parameter_name):
        return "other" if parameter_name.startswith("stems.") else "backbone"
'''
YAML = """# @package _global_
defaults:
  - /auxiliary: none

architecture:
  _target_: my_schemes.Stems
  _partial_: true
  backbone: ${backbone}
  kernel_size: 3
"""


@pytest.mark.slow
def test_an_architecture_through_config_dir(tmp_path: Path) -> None:
    """Through the command, a process of its own: with a balancer on its shared parameters, and an option overridden."""
    (tmp_path / "my_schemes.py").write_text(CLASS)
    folder = tmp_path / "conf" / "architecture"
    folder.mkdir(parents=True)
    (folder / "stems.yaml").write_text(YAML)
    arguments = ["--config-dir", "conf", "architecture=stems", "architecture.kernel_size=5", "balancer=pcgrad"]
    arguments += ["data.source.num_train=24", "data.source.image_size=14", "debug=quick", "hydra.run.dir=one"]
    done = subprocess.run(
        [sys.executable, "-m", "mola_lightning.cli.train", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert (summary["status"], summary["method"]) == ("done", "stems+pcgrad")
    assert summary["parameters"]["other"] == 4 * (3 * 3 * 25 + 3)
    assert "kernel_size: 5" in (tmp_path / "one" / "config.yaml").read_text()
