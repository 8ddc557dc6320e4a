"""The notebooks: each equals the script beside it, holds nothing of anyone's machine, and runs, with numbers that make
the work small.

A kernel costs ten seconds on a slow machine, so that four of them run here, cell by cell, in the process of the tests.
The quickstart runs in a kernel, through nbclient: only there is it seen that a notebook starts at all, that its
displays become pictures and tables, and that it does not matter where Jupyter was started.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat
import pytest
from hydra.core.global_hydra import GlobalHydra
from nbclient import NotebookClient
from omegaconf import OmegaConf

from mola_lightning.analysis import Run
from mola_lightning.data.digit_sources import DOMAINS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
DIGITS: dict[str, Any] = {"NUM_TRAIN": 200, "EPOCHS": 3, "IMAGE_SIZE": 10}
# Runs on so few images would spend most of their time on evaluation.
FEW_EVALUATED = """\
from dataclasses import replace
from mola_lightning.data.digit_sources import DOMAINS
for name, domain in DOMAINS.items():
    DOMAINS[name] = replace(domain, num_val=60, num_test=100)
"""

Script = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: notebooks that need the same runs train them once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", autouse=True)
def _few_evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digits with small validation and test splits, and a cache for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name, domain in DOMAINS.items():
            patch.setitem(DOMAINS, name, domain)  # which puts it back
        exec(FEW_EVALUATED, {})
        yield


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    """Notebooks change the working directory and compose configs."""
    before = Path.cwd()
    yield
    os.chdir(before)
    GlobalHydra.instance().clear()


def cells(name: str, parameters: dict[str, Any]) -> list[str]:
    """The code of a notebook, with the parameters in a cell behind those that they replace."""
    code: list[str] = []
    for cell in jupytext.read(FOLDER / f"{name}.py", fmt="py:percent").cells:
        if cell.cell_type == "code":
            code.append(cell.source)
        if "parameters" in cell.metadata.get("tags", []):
            unknown = [key for key in parameters if f"{key} = " not in cell.source]
            assert not unknown, f"{name} has no parameters {unknown}"
            code.append(
                "\n".join(f"{key} = {value!r}".replace("PosixPath", "Path") for key, value in parameters.items())
            )
    return code


def execute(name: str, **parameters: Any) -> dict[str, Any]:
    """Run a notebook in this process; the names that it leaves."""
    names: dict[str, Any] = {}
    for number, source in enumerate(cells(name, parameters)):
        exec(compile(source, f"{name}.ipynb, code cell {number + 1}", "exec"), names)
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_the_script_beside_it(script: Path, load_script: Script) -> None:
    tool = load_script("../../tools/notebooks")
    stored = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert stored == tool.notebook(script), "run `make notebooks`"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_holds_nothing_of_a_machine(path: Path) -> None:
    assert path.with_suffix(".py") in SCRIPTS
    content = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(content)
    assert set(content["metadata"]) == {"jupytext", "kernelspec", "language_info"}
    for cell in content["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not any(name in "".join(cell["source"]) for name in ("/tmp", str(ROOT), str(Path.home())))


def test_the_list_names_all() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in SCRIPTS} == {
        line.split("]")[0][3:] for line in text.splitlines() if line[:3] == "- ["
    }


@pytest.mark.slow
def test_quickstart_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    started_in = tmp_path / "elsewhere"
    started_in.mkdir()
    sources = [FEW_EVALUATED, *cells("quickstart", {**DIGITS, "RUNS": tmp_path})]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": started_in}}).execute()
    shown = [set(output.get("data", {})) for cell in notebook.cells for output in cell["outputs"]]
    assert sum("image/png" in kinds for kinds in shown) == 3
    assert sum("text/markdown" in kinds for kinds in shown) == 1
    assert not any(started_in.iterdir())


@pytest.mark.slow
def test_your_own_data() -> None:
    names = execute("your_own_data", PHOTOGRAPHS=40, EPOCHS=7, SIZE=24, BASELINES="hps", MOLA="mola_grad")
    names["HERE"].cleanup()


@pytest.mark.slow
def test_sweep_results(shared: Path) -> None:
    names = execute("sweep_results", **DIGITS, SEEDS="0,1", RUNS=shared)
    assert not names["problems"](names["runs"])
    assert {path.stem for path in (shared / names["SWEEP"] / "figures").glob("*.png")} == {"accuracy", "costs"}


@pytest.mark.slow
def test_mechanism(shared: Path) -> None:
    names = execute("mechanism", **DIGITS, IMAGES=24, RUNS=shared)
    assert len({run.seed for run in names["runs"].values()}) == 1


@pytest.mark.slow
def test_reproduce_paper(tmp_path: Path, load_script: Script) -> None:
    """From runs on tiny files of the true formats: two benchmarks, one with tasks of several metrics."""
    twins, data, runs = load_script("../e2e/test_every_dataset"), tmp_path / "data", tmp_path / "runs"
    small = (*twins.SMALL_NET, "~backbone.name", "~backbone.pretrained")
    adapters = ("adapter.target_modules=null", "adapter.rank_pattern=null")
    for name, more in {
        "vlcs": ("transform.size=16",),
        "nyuv2": (*twins.SIZES["nyuv2"], "backbone.pooled=false"),
    }.items():
        twins.PAPER[name](data / name, load_script)
        trained = {"hps": (0, 1), "mola_grad": (0, 1), "single_task": (0,)}
        if name == "nyuv2":  # without single_task no score stands for a method there
            trained = {"hps": (0,), "mola_grad": (0,)}
        for method, seeds in trained.items():
            experiment = "hps" if method == "single_task" else method
            chosen = (f"experiment=paper/{name}_{experiment}", f"architecture={method}")
            for seed in seeds:
                folder = runs / name / f"{method}_{seed}"
                twins.run(folder, data, *chosen, f"seed={seed}", *small, *more, *(adapters * (method == "mola_grad")))
    names = execute("reproduce_paper", RUNS=runs, ONLY_PAPER_SETTINGS=False)
    assert set(names["tables"]) == {"vlcs", "nyuv2"}
    vlcs, nyuv2 = names["tables"]["vlcs"], names["tables"]["nyuv2"]
    assert vlcs.loc["mola_grad", ("delta_m", "n")] == 1
    assert vlcs.loc["mola_grad", ("vs hps", "n")] == 2
    assert list(nyuv2.index) == ["hps", "mola_grad"]
    assert not any(name.startswith("vs") for name in nyuv2.columns.get_level_values(0))
    lacking = {line.split("paper/")[1].split()[0]: line for line in names["missing"]["vlcs"]}
    assert "seed=2 " in lacking["vlcs_mola_grad"]
    assert "seed=0,1,2 " in lacking["vlcs_mola_router"]
    # What makes them small is seen, and without ONLY_PAPER_SETTINGS=False keeps them out of the tables.
    for name, found in names["runs"].items():
        assert all("max_epochs" in names["departures"](run, name) for run in found)


@pytest.mark.slow
def test_reproduce_paper_in_a_fresh_checkout(tmp_path: Path) -> None:
    names = execute("reproduce_paper", RUNS=tmp_path / "runs")
    assert names["tables"] == {}
    assert not any(tmp_path.iterdir())
    assert all(len(lines) == len(names["METHODS"]) for lines in names["missing"].values())
    # A run of these very settings counts, wherever and with whatever seed it was trained.
    config = names["configs"]["vlcs", "mola_grad"].copy()
    config.seed, config.data.num_workers, config.trainer.accelerator = 7, 8, "gpu"
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    run = Run(tmp_path, "done", {"method": "mola_grad"})
    assert names["departures"](run, "vlcs") == []
    config.optimizer.lr = 1e-3
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    assert names["departures"](run, "vlcs") == ["optimizer.lr"]
