"""The documentation site: built strictly, complete, without a dead link, and without anything from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from mola_lightning import routers

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


class Links(HTMLParser):
    """The anchors of a page, and what it refers to: links, and what a browser loads of itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in {"script", "img", "iframe", "source"} and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and not {"canonical", "prev", "next"} & set(given.get("rel", "").split()):
            self.loaded.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it, elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"a new page belongs into the nav of mkdocs.yml\n{done.stdout}\n{done.stderr}"
    assert not done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {page: Links(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}


def test_links_and_anchors(pages: dict[Path, Links], site: Path) -> None:
    dead = []
    for page, content in pages.items():
        for link in {*content.links, *content.loaded}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue  # others' pages are not asked for
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                dead.append(f"{page.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                dead.append(f"{page.relative_to(site)}: {link} (no such anchor)")
    assert not dead, "\n" + "\n".join(dead)


def test_nothing_is_fetched(pages: dict[Path, Links], site: Path) -> None:
    foreign = {link for content in pages.values() for link in content.loaded if urlsplit(link).netloc}
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    foreign |= set(re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^"')]*""", styles))
    assert not foreign, foreign


def test_pages_are_made_of_code_and_configs(pages: dict[Path, Links], site: Path) -> None:
    configs = pages[site / "configs.html"].anchors | pages[site / "experiment_configs.html"].anchors
    for path in (ROOT / "conf").rglob("*.yaml"):
        inside = path.relative_to(ROOT / "conf").with_suffix("")
        assert f"conf-{'-'.join(inside.parts)}" in configs, inside
    documented = pages[site / "reference" / "routers.html"].anchors
    assert {f"mola_lightning.routers.{name}" for name in routers.__all__} <= documented
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {page.stem for page in pages}
    assert "divides the logits before softmax" in (site / "reference" / "routers.html").read_text()
