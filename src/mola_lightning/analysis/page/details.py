"""What is known of one run, as it is shown below its row: facts, scores, validation curve, error, config."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mola_lightning.analysis.cells import MISSING
from mola_lightning.analysis.page.curve import line_class, validation_curve, validation_lines
from mola_lightning.analysis.page.markup import NOTHING, Markup, element, joined
from mola_lightning.analysis.runs import Run, number
from mola_lightning.core.run_files import CONFIG, ERROR

LONGEST = 50_000  # characters of a file that are shown


def run_details(run: Run) -> Markup:
    """All of it, of a run in any state; what a run does not say is left out."""
    return joined(
        [
            _facts(run),
            _curve(run),
            _scores(run.summary),
            _file(run.folder / ERROR, is_open=True),
            _file(run.folder / CONFIG, is_open=False),
        ]
    )


def duration(seconds: float) -> str:
    """A time as people say it."""
    if math.isnan(seconds):
        return MISSING
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def best_epoch(run: Run) -> float:
    """The epoch that was tested, counted from 1; NaN when the run does not say."""
    return number(run.summary.get("best_epoch")) + 1


def _facts(run: Run) -> Markup:
    summary, facts = run.summary, {"folder": str(run.folder), "state": run.state}
    if run.problem:
        facts["why"] = run.problem
    if run.state == "done":
        facts |= {"method": run.method, "data": run.data, "seed": str(run.seed)}
    facts |= {
        key.replace("_", " "): str(summary[key])
        for key in ("debug", "device", "config_key")
        if summary.get(key) is not None
    }
    if not math.isnan(best := best_epoch(run)):
        facts["best epoch"] = f"{best:.0f} of {summary.get('epochs', '?')}, chosen by validation"
    if not math.isnan(score := number(summary.get("score"))):
        facts["validation score"] = f"{score:.4f}"
    if not math.isnan(seconds := number(summary.get("wall_time_s"))):
        facts["duration"] = duration(seconds) + _times(summary.get("resumes"))
    facts |= {f"{name} parameters": f"{count:,}" for name, count in (summary.get("parameters") or {}).items()}
    if commit := (summary.get("git") or {}).get("commit"):
        facts["git"] = f"{commit}{', with changes not committed' if summary['git'].get('dirty') else ''}"
    facts["overrides"] = " ".join(map(str, summary.get("overrides") or ()))
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items())
    pairs = [element("div", element("dt", key), element("dd", value)) for key, value in facts.items() if value]
    return element("dl", *pairs)


def _times(resumes: object) -> str:
    return f", resumed {resumes} {'time' if resumes == 1 else 'times'}" if resumes else ""


def _curve(run: Run) -> Markup:
    """The validation curve with its legend; nothing when there was no validation."""
    metrics = {task: run.monitor(task) for task in run.tasks} if run.state == "done" else {}
    lines = validation_lines(run.folder, metrics)
    if not lines:
        return NOTHING
    best = best_epoch(run)
    picture = validation_curve(lines, None if math.isnan(best) else int(best))
    keys = [element("span", element("i", class_=line_class(name, i)), name) for i, name in enumerate(lines)]
    what = f"validation {next(iter(metrics.values()))}" if len(lines) > 1 else "validation score"
    said = f"{what} by epoch{'' if math.isnan(best) else '; upright line: the best epoch'}"
    return element("figure", picture, element("figcaption", said, *keys), class_="curve")


def _scores(summary: Mapping[str, Any]) -> Markup:
    """Every metric of every task, on test and validation."""
    found = {
        (stage, metric): None
        for stage in ("test", "val")
        for values in (summary.get(stage) or {}).values()
        for metric in values or {}
    }
    names = list(dict.fromkeys(task for stage in ("test", "val") for task in summary.get(stage) or {}))
    if not names:
        return NOTHING
    head = element(
        "tr", element("th", "task", scope="col"), *(element("th", f"{s} {m}", scope="col") for s, m in found)
    )
    rows = [
        element("tr", element("th", name, scope="row"), *(element("td", _value(summary, s, name, m)) for s, m in found))
        for name in names
    ]
    return element("table", element("thead", head), element("tbody", *rows), class_="scores")


def _value(summary: Mapping[str, Any], stage: str, task: str, metric: str) -> str:
    value = number(((summary.get(stage) or {}).get(task) or {}).get(metric))
    return MISSING if math.isnan(value) else f"{value:.4g}"


def _file(path: Path, is_open: bool) -> Markup:
    """A file of the run behind its name; nothing when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return NOTHING
    if not text:
        return NOTHING
    cut = f"\n... {len(text) - LONGEST:,} more characters in {path}" if len(text) > LONGEST else ""
    return element("details", element("summary", path.name), element("pre", text[:LONGEST] + cut), open=is_open)
