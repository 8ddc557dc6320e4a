"""Hooks of mkdocs: pages made from the code, the configs and the studies, when the site is built.

Links in the texts are those of the repository, so that they work where it is read; here they become links of the site.
"""

import ast
import posixpath
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mola_lightning"
STUDY_FILES = {".md", ".png", ".svg", ".csv", ".json", ".ipynb", ".sbatch"}
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[((?:[^\[\]\n]|\[[^\]\n]*\])*)\]\(([^)\s]+)\)")
ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):<code>~?([\w.]+)</code>")

CONFIGS_INTRO = """# All configs

Every file of `conf/`, whole: options, their defaults and what they mean. `mola-train group=option` chooses a file,
`group.key=value` sets a key of it, `--config-dir my_conf` adds files of your own. `mola-train --cfg job` prints what a
command line comes to.
"""
EXPERIMENTS_INTRO = """# Experiments and sweeps

`mola-train experiment=digits/mola_grad` is one run, `mola-train sweep=digits/demo` many. Each file changes only what it
says; the rest comes from the [groups](configs.md).
"""


# ------------------------------------------------------------------------------------------------------ generated pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    studies = [f"experiments/{path.name}/README.md" for path in _studies()]
    reference = [{package: f"reference/{package}.md"} for package in _public()]
    config.nav = [
        *(config.nav or []),
        {"Experiments": ["experiments/README.md", *studies]},
        {"Reference": [{"mola_lightning": "reference/index.md"}, *reference]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the studies with their figures and numbers."""
    pages = {
        "configs.md": CONFIGS_INTRO + "\n".join(_commands() + [_group(group) for group in _groups(experiments=False)]),
        "experiment_configs.md": EXPERIMENTS_INTRO + "\n".join(_group(group) for group in _groups(experiments=True)),
        "reference/index.md": _reference_index(),
        **{f"reference/{name}.md": _reference(name, names) for name, names in _public().items()},
    }
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    files.append(File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md")))
    for path in sorted((ROOT / "experiments").rglob("*")):
        inside = path.relative_to(ROOT)
        if path.suffix in STUDY_FILES and not any(part.startswith((".", "_")) for part in inside.parts):
            files.append(File.generated(config, inside.as_posix(), abs_src_path=str(path)))
    return files


def _studies() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "experiments").glob("*/README.md"))


@cache
def _public() -> dict[str, list[str]]:
    """Package below mola_lightning -> its public names; those of an outer package, or of other projects, left out."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.glob("*/**/__init__.py"), key=lambda path: path.parent):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        imports = [node for node in body if isinstance(node, ast.ImportFrom)]
        borrowed = {a.name for node in imports if not f"{node.module}".startswith("mola_") for a in node.names}
        known = borrowed.union(*found.values())
        if names := [name for name in _listed(body) if name not in known]:
            found[".".join(path.parent.relative_to(PACKAGE).parts)] = names
    return found


def _listed(body: list[ast.stmt]) -> list[str]:
    """What ``__all__`` lists."""
    values = [n.value for n in body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", None) == "__all__"]
    return ast.literal_eval(values[0]) if values else []


def _homes() -> dict[str, str]:
    """Public name -> its dotted path."""
    return {name: f"mola_lightning.{package}.{name}" for package, names in _public().items() for name in names}


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _reference(package: str, names: list[str]) -> str:
    """A page that mkdocstrings fills in from the docstrings."""
    dotted = f"mola_lightning.{package}"
    text = _docstring(PACKAGE.joinpath(*package.split("."), "__init__.py"))
    return f"# {dotted}\n\n{text}\n\n" + "\n\n".join(f"::: {dotted}.{name}" for name in names)


def _reference_index() -> str:
    """The names at the top, and one line a package."""
    names = _listed(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body)
    lines = [f"- [`{name}`][{_homes()[name]}]" for name in names]
    rows = []
    for package in _public():
        summary = _docstring(PACKAGE.joinpath(*package.split("."), "__init__.py")).partition("\n\n")[0]
        rows.append(f"| [`mola_lightning.{package}`]({package}.md) | {' '.join(summary.split())} |")
    return (
        "# Reference\n\nMade from the docstrings of all public names. At the top, from `mola_lightning`:\n\n"
        + "\n".join(lines)
        + "\n\n| package | |\n|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _groups(experiments: bool) -> list[str]:
    """Config groups as paths below conf/, those of experiments and sweeps or all the others."""
    folders = {path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").glob("*/**/*.yaml")}
    return sorted(folder for folder in folders if (folder.partition("/")[0] in {"experiment", "sweep"}) == experiments)


def _group(group: str) -> str:
    """The section of one config group: a table of its choices, then each file."""
    paths = sorted((ROOT / "conf" / group).glob("*.yaml"))
    prefix = group.partition("/")[2] + "/" if group.startswith(("experiment/", "sweep/")) else ""
    name = group.partition("/")[0] if prefix else group
    lines = [f"\n## {group} {{ #{_anchor(group)} }}\n", f"| `{name}=` | |", "|---|---|"]
    lines += [f"| [`{prefix}{p.stem}`](#{_anchor(group, p.stem)}) | {_description(p)} |" for p in paths]
    for path in paths:
        lines += [f"\n### {name}={prefix}{path.stem} {{ #{_anchor(group, path.stem)} }}\n", *_verbatim(path)]
    return "\n".join(lines)


def _commands() -> list[str]:
    """Sections of the commands' own configs."""
    paths = sorted((ROOT / "conf").glob("*.yaml"), key=lambda path: (path.stem != "train", path.stem))
    return ["\n".join([f"\n## {p.name} {{ #{_anchor(p.stem)} }}\n", *_verbatim(p)]) for p in paths]


def _verbatim(path: Path) -> list[str]:
    return ["```yaml", path.read_text(encoding="utf-8").rstrip(), "```"]


def _anchor(*parts: str) -> str:
    return "conf-" + "-".join(parts).replace("/", "-")


def _description(path: Path) -> str:
    """The comment at the head of a config, without Hydra's directive."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            found.append(line.removeprefix("#").strip())
    return " ".join(found).replace("|", r"\|")


# ---------------------------------------------------------------------------------------------------------------- links


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    here = page.file.src_uri
    if here.startswith("reference/") or here in {"configs.md", "experiment_configs.md"}:
        return markdown  # made for the site
    outside = here == "changelog.md" or here.startswith("experiments/")
    source = posixpath.dirname(here if outside else f"docs/{here}")

    def replaced(match: re.Match[str]) -> str:
        text, link = match.groups()
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link) or not target:
            return match.group()
        found = _on_site(posixpath.normpath(posixpath.join(source, target)), anchor)
        if found is None:
            return text  # tests, code: not on the site
        path, anchor = found
        relative = posixpath.relpath(path, posixpath.dirname(here) or ".")
        return f"[{text}]({relative}{'#' + anchor if anchor else ''})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)


def _on_site(path: str, anchor: str) -> tuple[str, str] | None:
    """Page and anchor of the site for a file of the repository; None where it has none."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/"), anchor
    if path == "CHANGELOG.md":
        return "changelog.md", anchor
    if path == "README.md":
        return "index.md", ""
    if path.startswith("experiments"):
        return path if (ROOT / path).is_file() else f"{path}/README.md", anchor
    if path.startswith("conf/") and path.endswith(".yaml"):
        group, _, name = path.removeprefix("conf/").removesuffix(".yaml").rpartition("/")
        page = "experiment_configs.md" if group.startswith(("experiment", "sweep")) else "configs.md"
        return page, _anchor(*(part for part in (group, name) if part))
    if path.startswith("src/mola_lightning/"):
        package = posixpath.dirname(path.removeprefix("src/mola_lightning/")).replace("/", ".")
        return (f"reference/{package or 'index'}.md", "") if package in {"", *_public()} else None
    return None if (ROOT / path).exists() else (path, anchor)  # what is nowhere mkdocs complains of


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of the roles that docstrings name other objects by."""

    def linked(match: re.Match[str]) -> str:
        path = match.group(1)
        name = path.rpartition(".")[2]
        target = _homes().get(name) if path == name or path.startswith("mola_lightning.") else None
        code = f"<code>{name if target else path}</code>"
        return f'<autoref identifier="{target}">{code}</autoref>' if target else code

    return ROLE.sub(linked, html) if page.file.src_uri.startswith("reference/") else html
