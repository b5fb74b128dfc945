"""The documentation builds strictly, needs no network, links to what is there, and names commands that exist."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
    pytest.skip("the documentation needs mkdocs-material and mkdocstrings: the extra `docs`", allow_module_level=True)

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def build(*options: object) -> subprocess.CompletedProcess[str]:
    """What `make docs` runs, without a network: whatever asks for one meets a proxy that is not there."""
    found = re.search(r"^docs:.*\n\t(.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    *settings, program = found[1].partition("mkdocs ")[0].split()
    assert program == "$(BIN)/"
    arguments = shlex.split(found[1].partition("mkdocs ")[2])
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", *arguments, *map(str, options)],
        cwd=ROOT,
        env={**os.environ, **nowhere, **dict(setting.split("=") for setting in settings)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build("--site-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("[there](nowhere.md)\n", encoding="utf-8")
    settings = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": str(docs), "nav": [], "plugins": [], "hooks": []}
    (tmp_path / "mkdocs.yml").write_text(json.dumps(settings), encoding="utf-8")
    done = build("--config-file", tmp_path / "mkdocs.yml", "--site-dir", tmp_path / "site")
    assert done.returncode != 0
    assert "contains a link 'nowhere.md'" in done.stderr


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
            headings = names.get(target)  # of pages; other files have none
            found = headings is None or not parts.fragment or unquote(parts.fragment) in headings
            if not target.is_file() or not found:
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


def test_the_verdicts_are_those_of_the_results(pages: dict[Path, BeautifulSoup], site: Path) -> None:
    rows = pages[site / "reproduce.html"].find("table").find_all("tr")[1:]
    shown = {row.find_all("td")[-1].get_text(): [cell.get_text() for cell in row.find_all("td")[1:4]] for row in rows}
    for path in (ROOT / "results").glob("*.json"):
        verdicts = [claim["verdict"] for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]]
        counts = [str(verdicts.count(verdict)) for verdict in ("holds", "fails", "inconclusive")]
        assert shown.pop(f"ken reproduce {path.stem}") == counts
    assert not shown


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import ken

    written = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    public = [name for name in ken.__all__ if name != "__version__"]
    assert [name for name in public if not re.search(rf'id="ken\.(\w+\.)*{name}"', written)] == []


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
def test_pages_opened_from_disk_can_be_searched_and_their_commands_copied(site: Path) -> None:
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
            copied = page.locator(".language-console code").first.get_attribute("data-copy")
            assert copied == "ken lab write factworld world\nken index build world/corpus.jsonl my-index"
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


@pytest.fixture(scope="module")
def root() -> Any:
    """The command line, with all its parts."""
    import typer

    from ken.cli import app

    app._assemble()
    return typer.main.get_command(app.app)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_and_their_options_exist(path: Path, root: Any) -> None:
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
