"""What a user gets from the wheel: all code, all configs, and commands that work anywhere."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without the checkout in sight; its output, which must not be that of a failure."""
    blank = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    env = {name: value for name, value in os.environ.items() if name not in blank}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing old gets in and no build folder is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, tree, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment: the wheel installed, its dependencies lent by the running environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "virtualenv", "--quiet", "--no-download", folder, cwd=folder)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # The folder alone: the .pth files in it are not followed, so the editable install of the checkout stays out.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_every_config_and_module_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    configs = {f"mola_lightning/conf/{path.relative_to(ROOT / 'conf')}" for path in ROOT.glob("conf/**/*.yaml")}
    modules = {
        str(path.relative_to(ROOT / "src")) for kind in ("py", "css", "js") for path in ROOT.glob(f"src/**/*.{kind}")
    }
    assert configs
    assert configs | modules <= inside, f"missing: {sorted((configs | modules) - inside)}"
    ours = ("mola_lightning", "hydra_plugins/mola_optuna_sweeper/")
    strangers = {name for name in inside if not name.startswith(ours)}
    assert not strangers, f"only the package belongs in the wheel, found {strangers}"


def test_code_and_configs_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec; from mola_lightning import conf;"
        "print(find_spec('mola_lightning.core').origin, *conf.__path__, sep='\\n')"
    )
    where = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert len(where) == 2
    assert all(Path(line).is_relative_to(installed.parent) for line in where), where


def test_hydra_finds_the_sweeper(installed: Path, tmp_path: Path) -> None:
    """Beside the plugins of others, in the same namespace."""
    code = (
        "from hydra.core.plugins import Plugins; from hydra.plugins.sweeper import Sweeper; import sys;"
        "(found,) = [p for p in Plugins.instance().discover(Sweeper) if 'Optuna' in p.__name__];"
        "print(sys.modules[found.__module__].__file__, 'torch' in sys.modules or 'optuna' in sys.modules)"
    )
    where, heavy = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(where).is_relative_to(installed.parent)
    assert heavy == "False", "Hydra imports its plugins in every program"


def test_training_works_in_any_folder(installed: Path, tmp_path: Path) -> None:
    small = ("data.source.num_train=40", "data.eval_batch_size=4000")  # one batch, so that it holds all tasks
    run(installed / "mola-train", "experiment=digits/hps", "debug=quick", *small, cwd=tmp_path)
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    content = json.loads(summary.read_text())
    assert content["status"] == "done"
    assert set(content["test"]) >= set(content["tasks"])
