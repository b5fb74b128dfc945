"""The documentation builds strictly, needs no network, links to what is there, and names commands that exist."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
    pytest.skip("the documentation needs mkdocs-material and mkdocstrings: the extra `docs`", allow_module_level=True)

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, without a network: whatever asks for one meets a proxy that is not there."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    nowhere = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    found = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}
    assert len(found) > 20
    return found


def test_every_page_of_the_source_is_built(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        assert (site / source.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), source
    assert not (site / "hooks").exists()  # what makes the site is no part of it


def test_links_inside_lead_to_pages_and_headings(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    names = {path: {str(tag["id"]) for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # is shown in the place of other pages, so its links are absolute
            continue
        for link in page.find_all("a", href=True):
            parts = urlsplit(str(link["href"]))
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append((path.relative_to(site), link["href"]))
            elif parts.fragment and target in names and unquote(parts.fragment) not in names[target]:
                broken.append((path.relative_to(site), link["href"]))
    assert not broken


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    fetched = [
        str(tag.get("src") or tag.get("href"))
        for page in pages.values()
        for tag in page.find_all(["script", "img", "iframe", "link", "source"])
        if tag.name != "link" or {"stylesheet", "icon", "preload", "preconnect"} & set(tag.get("rel") or ())
    ]
    assert any(address.endswith(".css") for address in fetched)
    assert not [address for address in fetched if re.match(r"(https?:)?//", address)]
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*)['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_reference_lists_what_parameters_are(site: Path) -> None:
    page = BeautifulSoup((site / "reference" / "api.html").read_text(encoding="utf-8"), "html.parser")
    ask = page.find(id="ken.ask").find_next("div", class_="doc-contents")
    named = [item.strong.get_text() for item in ask.find_all("li") if item.strong]
    assert {"model", "index", "strategy", "top_k"} <= set(named)


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import ken

    written = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    public = [name for name in ken.__all__ if name != "__version__"]
    assert [name for name in public if not re.search(rf'id="ken\.(\w+\.)*{name}"', written)] == []


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
def test_search_works_in_pages_opened_from_disk(site: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            page = browser.new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto((site / "index.html").as_uri())
            page.locator("input.md-search__input").press_sequentially("auroc")
            found = page.locator(".md-search-result__item").first
            found.wait_for()
            assert "auroc" in found.inner_text().lower()
            assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
        finally:
            browser.close()


def test_the_hook_that_lists_parameters_does_what_it_says() -> None:
    path = ROOT / "docs" / "hooks" / "parameters.py"
    spec = importlib.util.spec_from_file_location("parameters", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = doctest.testmod(module)
    assert (result.attempted > 0, result.failed) == (True, 0)


def commands(text: str) -> Iterator[str]:
    """The `ken …` lines of all blocks of a page."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\$ )?(?:\w+=\S+ )*(ken .*)", line):
                yield found[1]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_and_their_options_exist(path: Path) -> None:
    import typer

    from ken.cli import app

    app._assemble()
    root = typer.main.get_command(app.app)
    for command in commands(path.read_text(encoding="utf-8")):
        words = shlex.split(re.split(r" [|&>;]|\s#", command)[0].replace("[", "").replace("]", ""))[1:]
        node, context = root, root.make_context("ken", [], resilient_parsing=True)
        while words and hasattr(node, "commands") and words[0] in node.commands:
            node = node.commands[words.pop(0)]
            context = type(context)(node, parent=context, info_name=node.name)
        assert node is not root or not words or words[0].startswith("-"), f"{path.name}: {command}"
        known = {option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("-") and not re.match(r"-\d", word)}
        assert given <= known | {"--help"}, f"{path.name}: {command} has no {given - known}"
