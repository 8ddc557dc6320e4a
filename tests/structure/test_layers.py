"""Imports only go down: a package knows the layers below its own, and nothing of its neighbours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "mola_lightning"
LAYERS = [
    {"core"},
    {"adapters", "routers", "backbones", "heads", "losses", "metrics", "balancers", "data"},
    {"architectures"},
    {"training", "analysis", "benchmarks", "deployment", "prediction"},
    {"cli"},
]
# The imports inside a layer that are allowed.
NEIGHBOURS = {
    ("data", "losses"),
    ("data", "metrics"),
    ("training", "analysis"),
    ("benchmarks", "training"),
    ("deployment", "training"),
    ("prediction", "training"),
    ("prediction", "analysis"),
}
CONFIG_LIBRARIES = {"hydra", "omegaconf"}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FACADE = "__init__"  # of the whole package: offers the public names, so it sees every layer but the command line


def imports_of(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported anywhere in ``source``, inside functions too.

    Args:
        source: Python code.
        module: dotted name of the package that the code lies in, against which relative imports are resolved.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def broken_rule(part: str, imported: str) -> str | None:
    """The rule that ``part`` (a folder of the package, or FACADE) breaks by importing ``imported``, or None."""
    top, *rest = imported.split(".")
    if top in CONFIG_LIBRARIES and part != "cli":
        return f"only cli imports {top}; take plain values as arguments"
    if top != PACKAGE or not rest or rest[0] == part:
        return None
    other = rest[0]
    if other not in LEVEL:
        return None if part == "cli" else f"import {other} from the part of the package that defines it"
    if part == FACADE:
        return "the package's own __init__ does not import cli" if other == "cli" else None
    if LEVEL[other] > LEVEL[part]:
        return f"{part} (layer {LEVEL[part]}) lies below {other} (layer {LEVEL[other]})"
    if LEVEL[other] == LEVEL[part] and (part, other) not in NEIGHBOURS:
        return f"{part} and {other} are neighbours of layer {LEVEL[part]} and do not import each other"
    return None


def violations(src: Path) -> list[str]:
    """One line for each forbidden import below ``src``: file, line, import, rule."""
    found = []
    for path in sorted((src / PACKAGE).rglob("*.py")):
        inside = path.relative_to(src / PACKAGE)
        part = inside.parts[0].removesuffix(".py")
        if part != FACADE and part not in LEVEL:
            found.append(f"{path.relative_to(src)}: {part} has no layer; add it to {Path(__file__).name}")
            continue
        module = ".".join(path.relative_to(src).parent.parts)
        try:
            imports = list(imports_of(path.read_text(encoding="utf-8"), module))
        except SyntaxError as error:
            found.append(f"{path.relative_to(src)}:{error.lineno}: not Python of this version: {error.msg}")
            continue
        for line, imported in imports:
            if rule := broken_rule(part, imported):
                found.append(f"{path.relative_to(src)}:{line}: imports {imported}: {rule}")
    return found


def test_imports_only_go_down() -> None:
    found = violations(ROOT / "src")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("where", "code", "forbidden"),
    [
        ("core/a.py", "from mola_lightning.losses import twd", True),
        ("core/a.py", "from mola_lightning.core.batch import Batch", False),
        ("adapters/a.py", "import mola_lightning.routers.conv", True),
        ("adapters/a.py", "from mola_lightning import routers", True),
        ("adapters/a.py", "from mola_lightning import MoLAGrad", True),
        ("adapters/a.py", "from ..routers import conv", True),
        ("adapters/a.py", "from . import scope\nfrom .plans import x\nfrom ..core import Task", False),
        ("adapters/deep/a.py", "from ..plans import x\nfrom ...core import Task", False),
        ("adapters/deep/a.py", "from ...heads import linear", True),
        ("heads/a.py", "def f():\n    from mola_lightning.training import module", True),
        ("heads/a.py", "if TYPE_CHECKING:\n    from mola_lightning.metrics import depth", True),
        ("heads/a.py", "import torch, omegaconf", True),
        ("data/a.py", "from mola_lightning.losses import x\nfrom mola_lightning.metrics import y", False),
        ("data/a.py", "from mola_lightning.heads import linear", True),
        ("losses/a.py", "from mola_lightning.data import base", True),
        ("losses/a.py", "from mola_lightning.metrics import labels", True),
        ("training/a.py", "from hydra.utils import instantiate", True),
        ("training/a.py", "from mola_lightning.analysis import results", False),
        ("analysis/a.py", "from mola_lightning.training import module", True),
        ("analysis/a.py", "from mola_lightning.architectures import base", False),
        ("cli/a.py", "import hydra\nfrom mola_lightning import MoLAGrad\nfrom mola_lightning.data import x", False),
        ("__init__.py", "from mola_lightning.training import MoLAGrad", False),
        ("__init__.py", "from mola_lightning.cli import train", True),
        ("helpers.py", "import torch", True),
        ("core/a.py", "def f(", True),
    ],
)
def test_the_rule_itself(tmp_path: Path, where: str, code: str, forbidden: bool) -> None:
    path = tmp_path / PACKAGE / where
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = violations(tmp_path)
    assert bool(found) == forbidden
    assert all(line.startswith(f"{PACKAGE}/{where}:") for line in found)
