"""Run folders as training writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TASKS = ("a", "b")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(method, seed, a=0.9, b=0.8, **summary)``: a finished run below ``tmp_path / "runs"``."""

    def make(method: str, seed: int, a: float | None, b: float | None, folder: str = "", **summary: Any) -> Path:
        scores = {"a": a, "b": b}
        test = {name: {"accuracy": score, "loss": 2 - 2 * score} for name, score in scores.items() if score is not None}
        content = {
            "status": "done",
            "method": method,
            "data": "digits",
            "seed": seed,
            "tasks": list(TASKS),
            "monitor": {name: {"metric": "accuracy", "higher_is_better": True} for name in TASKS},
            "test": test,
            "parameters": {"total": 1_234_567},
            "step_time_s": {"median": 0.02, "mean": 0.03},
        } | summary
        path = tmp_path / "runs" / (folder or f"{method}/{seed}")
        path.mkdir(parents=True)
        (path / "config.yaml").write_text("seed: 1\n")
        (path / "summary.json").write_text(json.dumps(content))
        return path

    return make
