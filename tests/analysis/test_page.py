"""The page of a report: well formed, alone in the world, true to the runs, and it sorts and opens in a browser."""

import html
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mola_lightning.analysis import comparison, load_runs, problems, scores
from mola_lightning.analysis.page import report_page
from mola_lightning.analysis.page.curve import validation_curve, validation_lines
from mola_lightning.analysis.page.markup import VOID, Markup, element
from mola_lightning.cli.report import main

Make = Callable[..., Path]
TASKS = tuple(f"task_{i}" for i in range(10))
EPOCHS = 50
HOSTILE = "<script>alert('x')</script>&\"'"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The page's script runs in a browser alone; what it sorts by, and the page itself, is read by the other tests.
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip


class Reader(HTMLParser):
    """Reads a page, and holds it to closed elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def page_of(folder: Path, **options: Any) -> str:
    runs = load_runs([folder])
    df = comparison([run for run in runs if run.state == "done"])
    return report_page({df.attrs["data"]: df}, runs, problems(runs), **options)


def write_study(folder: Path, methods: int, seeds: int) -> None:
    """Runs with ten tasks, as training would have left them."""
    draw = Random(0)
    config = "".join(f"setting_{i}:\n  _target_: some.module.Class\n  value: {i}\n" for i in range(100))
    for m in range(methods):
        for seed in range(seeds):
            run = folder / f"method_{m}_seed{seed}"
            run.mkdir(parents=True)
            found = {task: 0.5 + 0.01 * m + draw.gauss(0, 0.01) for task in TASKS}
            (run / "config.yaml").write_text(config)
            (run / "summary.json").write_text(json.dumps(_summary(f"method_{m}", seed, found, draw)))
            rows = [
                {"epoch": e, "val/score": 0.5 + e / 200}
                | {f"val/{task}/accuracy": score - 1 / (e + 2) for task, score in found.items()}
                for e in range(EPOCHS)
            ]
            (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _summary(method: str, seed: int, found: dict[str, float], draw: Random) -> dict[str, object]:
    return {
        "status": "done",
        "method": method,
        "data": "ten",
        "seed": seed,
        "tasks": list(TASKS),
        "monitor": {task: {"metric": "accuracy", "higher_is_better": True} for task in TASKS},
        "test": {task: {"accuracy": score, "loss": 1 - score} for task, score in found.items()},
        "val": {task: {"accuracy": score} for task, score in found.items()},
        "score": 0.7,
        "best_epoch": 41,
        "epochs": EPOCHS,
        "wall_time_s": 100 + 900 * draw.random(),
        "overrides": [f"seed={seed}", f"optimizer.lr={draw.random():.5f}"],
        "parameters": {"total": 1_234_567},
        "step_time_s": {"median": 0.02, "mean": 0.03},
        "git": {"commit": "c0ffee" * 6 + "abcd", "dirty": True},
        "versions": {"python": "3.11", "torch": "2.11"},
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """200 runs x 10 tasks: their folder and their page, which is built within seconds and is small."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, methods=20, seeds=10)
    started = time.process_time()
    page = page_of(folder)
    assert time.process_time() - started < 20, "seconds of processor time"
    return folder, page


@pytest.fixture(scope="module")
def reader(study: tuple[Path, str]) -> Reader:
    """The page of the study, read: that takes seconds."""
    return Reader(study[1])


def test_a_page_of_many_runs_is_small_and_asks_nothing_of_the_network(study: tuple[Path, str], reader: Reader) -> None:
    _, page = study
    assert len(page.encode()) < 10e6
    loaded = {
        key for _, attributes in reader.elements for key in attributes if key in ("src", "href", "data", "action")
    }
    assert loaded == {"src"}
    assert all(str(image["src"]).startswith("data:image/") for image in reader.all("img"))
    assert not {"link", "iframe", "object", "form", "a"} & {tag for tag, _ in reader.elements}
    own = "".join(re.findall(r"<(?:style|script)>.*?</(?:style|script)>", page, re.DOTALL))
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", own)
    policy = next(m["content"] for m in reader.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    identifiers = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_every_number_of_every_run_is_there(study: tuple[Path, str], reader: Reader) -> None:
    folder, _ = study
    values = {cell["data-v"] for cell in reader.all("td") if cell.get("data-v")}
    runs = load_runs([folder])
    table = scores(runs)
    assert {repr(float(v)) for task in TASKS for v in table[task]} <= values
    assert {repr(float(v)) for v in table["mean"]} <= values
    assert {run.folder.name for run in runs} <= set(reader.texts)
    df = comparison(runs)
    assert {repr(float(df.loc[method, (task, "mean")])) for method in df.index for task in TASKS} <= values
    assert len([1 for attributes in reader.all("button") if attributes.get("class") == "opens"]) == 200
    assert reader.text.count("42 of 50") == 200


def test_headers_are_buttons_that_say_how_the_table_is_sorted(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 0, 0.8, 0.6)
    reader = Reader(page_of(tmp_path / "runs"))
    headers = [header for header in reader.all("th") if header.get("scope") == "col" and "data-kind" in header]
    assert headers
    assert {header["aria-sort"] for header in headers} == {"none"}
    first = {header["data-first"] for header in headers if header["data-kind"] == "text"}
    assert first == {"ascending"}


def test_what_a_run_says_of_itself_cannot_leave_its_place(make_run: Make, tmp_path: Path) -> None:
    where = make_run(HOSTILE, 0, 0.8, 0.6, folder="</td><b>", data=HOSTILE, overrides=[HOSTILE], device=HOSTILE)
    (where / "config.yaml").write_text(HOSTILE)
    plain = tmp_path / "plain"
    shutil.copytree(where, plain / "run")
    summary = json.loads((plain / "run/summary.json").read_text())
    (plain / "run/summary.json").write_text(json.dumps(summary | {"method": "m", "data": "d", "device": "cpu"}))
    hostile, harmless = Reader(page_of(tmp_path / "runs", command=HOSTILE)), Reader(page_of(plain, command="c"))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert [sorted(a) for _, a in hostile.elements] == [sorted(a) for _, a in harmless.elements]
    assert HOSTILE in hostile.texts


def test_failed_and_unfinished_runs_say_why(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 0, 0.8, 0.6)
    failed, started = tmp_path / "runs/failed", tmp_path / "runs/started"
    failed.mkdir()
    (failed / "error.txt").write_text("ConfigError: rank must be >= 1, got 0\noverrides: rank=0\n\nTraceback <here>\n")
    started.mkdir()
    (started / "config.yaml").write_text("seed: 7\n")
    reader = Reader(page_of(tmp_path / "runs"))
    assert reader.texts.count("ConfigError: rank must be >= 1, got 0") == 2, "in its row and in its details"
    assert any("Traceback <here>" in text for text in reader.texts)
    assert "1 failed run left out" in reader.text
    assert "no summary.json yet" in reader.text
    assert "seed: 7" in reader.texts


def test_a_missing_score_has_no_value(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 0, 0.8, None)
    make_run("mola", 0, 0.9, 0.7)
    reader = Reader(page_of(tmp_path / "runs"))
    assert len([cell for cell in reader.all("td") if cell.get("data-v") == repr(0.7)]) == 2
    assert not any(cell.get("data-v") in ("nan", "None") for cell in reader.all("td"))


def test_a_curve_is_what_the_journal_says(tmp_path: Path) -> None:
    rows = [{"epoch": e, "step": e, "val/score": s, "val/a/accuracy": s} for e, s in enumerate((0.25, 0.5, 1.0))]
    text = "".join(f"{json.dumps(row)}\n" for row in [*rows, {"epoch": 2, "train/loss": 1.0}])
    (tmp_path / "metrics.jsonl").write_text(text + '{"epoch": 3, "val/sc')
    lines = validation_lines(tmp_path, {"a": "accuracy"})
    assert lines == {"a": [(1, 0.25), (2, 0.5), (3, 1.0)], "score": [(1, 0.25), (2, 0.5), (3, 1.0)]}
    reader = Reader(validation_curve(lines, best_epoch=3))
    (task, score) = reader.all("polyline")
    assert task["points"] == score["points"]
    x, y = zip(*(map(float, point.split(",")) for point in str(score["points"]).split()), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.1)
    assert y[0] - y[2] == pytest.approx(3 * (y[0] - y[1]), abs=0.3), "0.75 above is three times 0.25 above"
    assert validation_lines(tmp_path / "nowhere", {}) == {}


def test_a_curve_of_one_epoch_and_of_equal_values(tmp_path: Path) -> None:
    assert "circle" in validation_curve({"score": [(1, 0.5)]})
    assert "nan" not in validation_curve({"score": [(1, 0.0), (2, 0.0)]})


def test_text_is_escaped_once() -> None:
    inner = element("b", "1 < 2 & 3")
    assert inner == "<b>1 &lt; 2 &amp; 3</b>"
    assert element("p", inner, title='"', hidden=True, lang=None) == f'<p title="&quot;" hidden>{inner}</p>'
    assert isinstance(inner, Markup)


def test_the_command_writes_the_page_and_the_page_says_the_command(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 0, 0.8, 0.6)
    pages = []
    for name in ("one", "two"):
        arguments = [str(tmp_path / "runs"), "--html", str(tmp_path / name / "report.html")]
        assert main(arguments) == 0
        pages.append((tmp_path / name / "report.html").read_text().replace(f"/{name}/", "/"))
    assert pages[0] == pages[1], "same runs, same bytes"
    assert f"mola-report {tmp_path / 'runs'} --html" in Reader(pages[0]).text
    assert main([str(tmp_path / "runs"), "--html", "x", "--csv", "x"]) == 1


SCRIPT = """
const found = {};
const table = (i) => document.querySelectorAll("table.sortable")[i];
const rows = (i, j) => [...table(i).tBodies].map((body) => body.rows[0].cells[j].textContent);
const header = (i, j) => table(i).tHead.rows[0].cells[j];
const click = (i, j) => {
  header(i, j).querySelector("button").click();
  return header(i, j).getAttribute("aria-sort");
};
const enter = (id, value, event) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event(event));
};
"""


def ask(page: str, script: str, folder: Path) -> dict[str, Any]:
    """What ``script`` puts into ``found`` when a browser has loaded the page."""
    assert BROWSER is not None
    wait = "addEventListener('load', () => { %s\nconst e = document.createElement('pre');"
    wait += "e.id = 'found'; e.textContent = JSON.stringify(found); document.body.append(e); });"
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{SCRIPT}{wait % script}</script></body>"))
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    answer = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    return json.loads(html.unescape(answer.group(1)))


@needs_browser
@pytest.mark.slow
def test_a_browser_sorts_by_value_finds_and_opens(make_run: Make, tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(0.095, 0.6), (0.8, None), (1.0, 0.5)]):
        make_run("hps" if seed else "mola", seed, a, b, overrides=[f"lr={seed}e-3"])
    script = """
    found.down = [click(1, 3), rows(1, 3)];
    found.up = [click(1, 3), rows(1, 3)];
    found.missing = [click(1, 4), rows(1, 4), click(1, 4), rows(1, 4)];
    found.other = header(1, 3).getAttribute("aria-sort");
    enter("search", "HPS lr=1", "input");
    found.visible = [...table(1).tBodies].filter((b) => b.offsetHeight).map((b) => b.rows[0].cells[2].textContent);
    found.count = document.getElementById("shown").textContent;
    enter("search", "", "input");
    const button = document.querySelector("button.opens"), details = button.closest("tbody").rows[1];
    const state = () => [details.offsetHeight > 0, button.getAttribute("aria-expanded")];
    found.open = [state()];
    for (const _ of [1, 2]) { button.click(); found.open.push(state()); }
    found.ground = ["light", "dark"].map((colours) => {
      enter("colours", colours, "change");
      return getComputedStyle(document.body).backgroundColor;
    });
    found.loaded = performance.getEntriesByType("resource").filter((r) => !r.name.startsWith("data:")).length;
    """
    found = ask(page_of(tmp_path / "runs"), script, tmp_path)
    assert found["down"] == ["descending", ["100.0", "80.0", "9.5"]]
    assert found["up"] == ["ascending", ["9.5", "80.0", "100.0"]]
    assert found["missing"] == ["descending", ["60.0", "50.0", "–"], "ascending", ["50.0", "60.0", "–"]]
    assert found["other"] == "none"
    assert (found["visible"], found["count"]) == (["1"], "1 of 3 runs")
    assert found["open"] == [[False, "false"], [True, "true"], [False, "false"]]
    assert len(set(found["ground"])) == 2
    assert found["loaded"] == 0


@needs_browser
@pytest.mark.slow
def test_a_browser_opens_a_page_of_many_runs(study: tuple[Path, str], tmp_path: Path) -> None:
    script = """
    found.ready = performance.getEntriesByType("navigation")[0].domComplete;
    found.rows = document.querySelectorAll(".runs table.sortable > tbody").length;
    const before = performance.now(); click(1, 5); found.sorted = performance.now() - before;
    """
    found = ask(study[1], script, tmp_path)
    assert found["rows"] == 200
    assert found["ready"] < 10_000, "milliseconds; below 2 s where nothing else runs"
    assert found["sorted"] < 5_000
