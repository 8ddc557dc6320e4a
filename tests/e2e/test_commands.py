"""The commands as processes of their own, from a folder that has nothing to do with the checkout; and the README."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mola_lightning.analysis import load_runs

ROOT = Path(__file__).parents[2]
QUICK = ("debug=quick", "data.source.num_train=24", "data.source.image_size=14")
QUICKSTART = re.compile(r"<!-- test:quickstart -->\s*```python\n(.*?)```", re.DOTALL)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_one_run(tmp_path: Path) -> None:
    done = run(
        tmp_path, "mola_lightning.cli.train", "experiment=digits/mola_router", "adapter.rank=8", "seed=1", *QUICK
    )
    assert done.returncode == 0, done.stderr
    (found,) = load_runs([tmp_path / "runs"])
    assert (found.state, found.method, found.seed) == ("done", "mola_router", 1)
    assert found.folder.name.endswith("_mola_router_seed1")
    assert found.folder.is_relative_to(tmp_path / "runs" / "debug")
    assert found.summary["debug"] == "quick"
    assert found.summary["overrides"][:2] == ["experiment=digits/mola_router", "adapter.rank=8"]
    assert found.folder.name in re.sub(r"\s", "", done.stderr)  # the user is told where the run lies
    assert (found.folder / "figures" / "mixing_weights.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_a_bad_value(tmp_path: Path) -> None:
    done = run(tmp_path, "mola_lightning.cli.train", "adapter.rank=0", *QUICK)
    assert done.returncode == 1
    assert "rank must be an integer >= 1, got 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


def test_the_first_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = QUICKSTART.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    short = code.replace("num_train=800", "num_train=24").replace("max_epochs=15", "max_epochs=1")
    assert short.count("=24") == short.count("max_epochs=1,") == 1, "the example has other settings than expected"
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), names)
    assert names["trainer"].current_epoch == 1
    assert 0 <= float(names["trainer"].callback_metrics["test/score"]) <= 1
