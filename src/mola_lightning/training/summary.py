"""summary.json: what a run did, measured and cost, in one file that reports are made of."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mola_lightning.core import Task
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import SUMMARY

PACKAGES = (
    "mola-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "torchjd",
    "hydra-core",
    "numpy",
)


def nested_metrics(metrics: Mapping[str, Any], stage: str, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """``{"test/mnist/accuracy": 0.9, ...}`` -> ``{"mnist": {"accuracy": 0.9}, ..., "mean": {...}}`` of one stage."""
    nested: dict[str, dict[str, float]] = {}
    for name in (*(task.name for task in tasks), "mean"):
        prefix = f"{stage}/{name}/"
        found = {key[len(prefix) :]: float(value) for key, value in metrics.items() if key.startswith(prefix)}
        if found:
            nested[name] = found
    return nested


def monitors(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """The metric that stands for each task, and its direction."""
    return {t.name: {"metric": t.monitor, "higher_is_better": t.higher_is_better} for t in tasks}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """Commit and cleanness of the checkout that tracks ``folder``; empty outside one, or without git.

    By default that of this program: an installed one, even below somebody's own checkout, has no commit but a version.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write summary.json into the run folder."""
    path = folder / SUMMARY
    with atomic_write(path) as file:
        json.dump(summary, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return path
