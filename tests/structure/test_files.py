"""House rules that a linter does not know: files stay short, and the library leaves the user's world alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LONGEST = 300


def rule_breaks(source: str) -> Iterator[tuple[int, str]]:
    """Line and reason of each thing in ``source`` that library code does not do."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        yield error.lineno or 1, f"not Python of this version: {error.msg}"
        return
    if tree.body and ast.get_docstring(tree) is None:
        yield 1, "the module has no docstring"
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield node.lineno, "print: use a logger, or rich in the command line"
            case ast.Call(func=ast.Attribute(attr="cuda")):
                yield node.lineno, ".cuda(): follow the device of a tensor at hand"
            case ast.ExceptHandler(type=None):
                yield node.lineno, "bare except: name the error"
            case ast.Import(names=names) if any(alias.name == "matplotlib.pyplot" for alias in names):
                yield node.lineno, "matplotlib.pyplot keeps global state: use matplotlib.figure.Figure"
            case ast.ImportFrom(module="matplotlib", names=names) if any(alias.name == "pyplot" for alias in names):
                yield node.lineno, "matplotlib.pyplot keeps global state: use matplotlib.figure.Figure"
            case ast.ImportFrom(module="matplotlib.pyplot"):
                yield node.lineno, "matplotlib.pyplot keeps global state: use matplotlib.figure.Figure"


def test_files_keep_the_house_rules() -> None:
    found = []
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        found += [f"{where}:{line}: {reason}" for line, reason in rule_breaks(source)]
        if (lines := len(source.splitlines())) > LONGEST:
            found.append(f"{where}: {lines} lines, at most {LONGEST}; split it by what it does")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("code", "breaks"),
    [
        ('"""Doc."""\nlog.info("print(x)")  # print(x)', 0),
        ('"""Doc."""\nprint("x")', 1),
        ("x = 1", 1),
        ("x = ", 1),
        ("", 0),
        ('"""Doc."""\nmodel.cuda()\nx.to("cpu")\ntorch.cuda.is_available()', 1),
        ('"""Doc."""\ntry:\n    f()\nexcept:\n    pass', 1),
        ('"""Doc."""\ntry:\n    f()\nexcept OSError:\n    pass', 0),
        ('"""Doc."""\nimport matplotlib.pyplot as plt', 1),
        ('"""Doc."""\nfrom matplotlib import pyplot', 1),
        ('"""Doc."""\nfrom matplotlib.pyplot import plot', 1),
        ('"""Doc."""\nfrom matplotlib.figure import Figure', 0),
    ],
)
def test_the_rules_themselves(code: str, breaks: int) -> None:
    assert len(list(rule_breaks(code))) == breaks


def test_no_grab_bags() -> None:
    names = {"utils", "util", "helpers", "helper", "misc", "common"}
    found = [str(path.relative_to(ROOT)) for path in SOURCES if {path.stem, path.parent.name} & names]
    assert not found, f"name these files after what they do: {found}"
