"""The texts keep their promises: links lead somewhere, named commands and imports exist."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")]
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def texts() -> Iterator[tuple[str, str, Path]]:
    """Name, content and path of each text."""
    for path in TEXTS:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"), path


def anchors(markdown: str) -> set[str]:
    """Anchors of the headings, as hosting sites derive them."""
    headings = re.findall(r"^#+\s+(.*?)\s*$", re.sub(BLOCK, "", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    dead = []
    for name, text, path in texts():
        for link in LINK.findall(re.sub(BLOCK, "", text)):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file) if file else path
            if not target.exists():
                dead.append(f"{name}: {link}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
                dead.append(f"{name}: {link} (no such heading)")
    assert not dead, "\n" + "\n".join(dead)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for name, text, _ in texts():
        named = set(re.findall(r"^\s*make ([a-z-]+)", "\n".join(code for _, code in BLOCK.findall(text)), re.MULTILINE))
        named |= set(re.findall(r"`make ([a-z-]+)`", text))
        wrong += [f"{name}: make {target}" for target in sorted(named - targets)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_python_blocks_import_what_exists() -> None:
    wrong = []
    for name, text, _ in texts():
        for code in (code for language, code in BLOCK.findall(text) if language in {"python", "py"}):
            for node in ast.walk(ast.parse(code)):
                if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mola_lightning")):
                    continue
                module = importlib.import_module(node.module or "")
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                wrong += [f"{name}: from {node.module} import {item}" for item in missing]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_machine_paths() -> None:
    """Paths of one person's machine help nobody else."""
    folders = [
        *ROOT.glob("*.*"),
        *(path for top in ("src", "conf", "docs", "experiments") for path in ROOT.glob(f"{top}/**/*")),
    ]
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|work|opt|workspace)/\w+")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in folders
        if path.is_file() and path.suffix in {".md", ".py", ".yaml", ".toml", ".ipynb", ".csv", ".json"}
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)
