"""What is kept and said of a search: ``search.yaml`` in its folder, and the lines at its end."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mola_lightning.cli.search.study import FOLDER, OVERRIDES, REASON, Search
from mola_lightning.core.files import atomic_write

RECORD = "search.yaml"


def write_record(search: Search) -> None:
    """Write ``search.yaml``: what the search is, how far it is, its best trial and all others."""
    s, best = search.settings, search.best
    content = {
        "study_name": s.study_name,
        "storage": search.url,
        "direction": s.direction,
        "sampler": s.sampler,
        "seed": s.seed,
        "fixed": search.space.fixed,
        "space": search.space.texts,
        "planned": search.planned,
        "states": search.states(),
        "best": None if best is None else _trial(best) | {"command": command(search, best)},
        "trials": [_trial(trial) for trial in search.trials()],
    }
    with atomic_write(search.folder / RECORD) as file:
        yaml.safe_dump(content, file, sort_keys=False, width=120)


def planned_runs(folder: Path) -> int | None:
    """How many runs the search in a folder is meant to have; None if there is no search."""
    try:
        return int(yaml.safe_load((folder / RECORD).read_text(encoding="utf-8"))["planned"])
    except FileNotFoundError:
        return None


def command(search: Search, trial: Any) -> str:
    """The command that trains the run of a trial in full, with its test.

    What the search adds (``test=false``) is left out, and a sweep file (``sweep=...``), which would start the search
    again.
    """
    added = search.settings.overrides
    fixed = [o for o in search.space.fixed if o not in added and not o.lstrip("+").startswith("sweep=")]
    return shlex.join(["mola-train", *fixed, *trial.user_attrs[OVERRIDES]])


def closing_lines(search: Search) -> Sequence[str]:
    """What a reader wants to know at the end of a search."""
    states = ", ".join(f"{count} {state}" for state, count in search.states().items())
    failed = [f"  {trial.user_attrs[FOLDER]} failed: {trial.user_attrs.get(REASON)}" for trial in search.trials("fail")]
    lines = [f"{len(search.trials())} of {search.planned} trials: {states}", *failed]
    if (best := search.best) is not None:
        lines += [
            f"best: trial {best.number}, val score {best.value:.4f}, in {search.folder / best.user_attrs[FOLDER]}",
            f"  {command(search, best)}",
        ]
    return [*lines, f"study {search.settings.study_name!r} in {search.url}; all trials: {search.folder / RECORD}"]


def _trial(trial: Any) -> dict[str, Any]:
    """A trial as plain values."""
    found = {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "score": trial.value,
        "params": dict(trial.params),
        "overrides": list(trial.user_attrs[OVERRIDES]),
        "folder": trial.user_attrs[FOLDER],
    }
    return found | ({REASON: trial.user_attrs[REASON]} if REASON in trial.user_attrs else {})
