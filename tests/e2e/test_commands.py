"""A run from a folder that has nothing to do with the checkout; and the README.

As a process of its own: ``tests/packaging/test_wheel.py``, and a sweep with a failure in ``test_sweeps.py``.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mola_lightning.analysis import load_runs
from mola_lightning.cli.train import main

ROOT = Path(__file__).parents[2]
QUICK = ("debug=quick", "data.source.num_train=24", "data.source.image_size=14")
QUICKSTART = re.compile(r"<!-- test:quickstart -->\s*```python\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_one_run(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command(main, "experiment=digits/mola_router", "adapter.rank=8", "seed=1", *QUICK)
    assert done.code == 0, done.err
    folder = tmp_path / "working"
    (found,) = load_runs([folder / "runs"])
    assert (found.state, found.method, found.seed) == ("done", "mola_router", 1)
    assert found.folder.name.endswith("_mola_router_seed1")
    assert found.folder.is_relative_to(folder / "runs" / "debug")
    assert found.summary["debug"] == "quick"
    assert found.summary["overrides"][:2] == ["experiment=digits/mola_router", "adapter.rank=8"]
    assert found.folder.name in re.sub(r"\s", "", done.err)  # the user is told where the run lies
    assert (found.folder / "figures" / "mixing_weights.png").exists()
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_the_first_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = QUICKSTART.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    short = code.replace("num_train=800", "num_train=24, image_size=10").replace("max_epochs=15", "max_epochs=1")
    assert short.count("=24, ") == short.count("max_epochs=1,") == 1, "the example has other settings than expected"
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), names)
    assert names["trainer"].current_epoch == 1
    assert 0 <= float(names["trainer"].callback_metrics["test/score"]) <= 1
