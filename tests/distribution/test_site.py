"""The site of the documentation, built as `make docs` builds it: a warning of the build is an error."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    path.relative_to(ROOT) for path in [*ROOT.glob("docs/**/*.md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
]


@pytest.fixture(scope="module")
def site(made_once):
    """The folder of the site, by the Makefile's own command."""
    return made_once("site", build)


def build(folder: Path) -> None:
    if shutil.which("dot") is None:
        pytest.fail("Graphviz draws the diagrams: install the Debian package graphviz")
    said = subprocess.run(
        ["make", "--dry-run", "docs", f"SITE={folder}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (command,) = [line for line in said.stdout.splitlines() if "-m sphinx" in line]
    python, _, options = command.partition(" ")
    assert python.endswith("/bin/python")
    done = subprocess.run([sys.executable, *options.split()], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")


class Parsed(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        """What a browser asks for by itself."""
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a":
            self.links += [found["href"]] if "href" in found else []
        else:
            self.loaded += [found[name] for name in ("src", "href", "data", "srcset", "xlink:href") if name in found]


@cache
def parsed(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def test_every_page_is_in_it(site):
    """And each is in the contents beside every other one."""
    contents = parsed(site / "docs" / "index.html").links
    for page in PAGES:
        built = site / page.with_suffix(".html")
        assert built.exists(), page
        if page.name != "index.md":
            assert any(link.endswith(f"{page.stem}.html") for link in contents), page
    assert "url=docs/index.html" in (site / "index.html").read_text()


def test_a_browser_asks_no_other_host(site):
    """No script, style, font or picture of another host: the site can be read without a network."""
    for path in site.rglob("*.html"):
        for url in parsed(path).loaded:
            assert not urlsplit(url).scheme or url.startswith("data:"), (path, url)
            assert not urlsplit(url).netloc, (path, url)
    for path in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for url in re.findall(r"url\(\s*[\"']?([^\"')]*)|@import\s+[\"']([^\"']*)", text):
            assert not re.match(r"https?:|//", "".join(url)), (path, url)


def test_every_link_within_it_leads_somewhere(site):
    """To a page, and to a place in it."""
    for path in site.rglob("*.html"):
        for link in parsed(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), (path, link)
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in parsed(target).ids, (path, link)


def test_links_to_other_hosts_are_addresses(site):
    """Over TLS, to a name in the public DNS, without a user or a port; the page of the reader's own server is the only
    other one. `make linkcheck` asks whether the hosts have the pages."""
    found = {link for path in site.rglob("*.html") for link in parsed(path).links if urlsplit(link).scheme}
    assert found
    for link in found - {"http://127.0.0.1:8080"}:
        parts = urlsplit(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc), link
        assert not parts.netloc.endswith((".example", ".local", "example.com", "example.org")), link
        assert re.fullmatch(r"[\w./~%+-]*", parts.path), link


def test_diagrams_are_drawn(site):
    """Each of them, with all that stands in it, in the colours of the page."""
    count = 0
    for page in PAGES:
        blocks = re.findall(
            r"^```mermaid\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
        built = (site / page.with_suffix(".html")).read_text(encoding="utf-8")
        drawn = re.findall(r'<svg class="diagram".*?</svg>', built, re.DOTALL)
        assert len(drawn) == len(blocks), page
        for block, svg in zip(blocks, drawn, strict=True):
            boxes = set(re.findall(r'\["(\w+)|^ +([A-Z_]+) -->', block, re.MULTILINE))
            assert boxes
            for box in boxes:
                assert f">{''.join(box)}" in svg, box
        count += len(blocks)
    assert count >= 5


def test_the_search_finds(site):
    """In a real browser, from the files alone."""
    browser = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if browser is None:
        pytest.skip("THIS MACHINE HAS NO chromium")
    url = f"file://{site}/search.html?q=phases"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    results = re.search(r'<div id="search-results">(.*)', done.stdout, re.DOTALL)[1]
    assert "roll_out_to_a_fleet.html" in results
