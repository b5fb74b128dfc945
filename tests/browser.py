"""Debian's chromium, driven by playwright, on a running server: for tests of the web pages.

The fixtures are known everywhere (conftest.py imports them):

    def test_the_page_greets(chromium, served):
        address = served(Service([model]), ...)
        page = chromium.page(address + "/ask")

`served` runs the application in a thread, so that a test can hold and release what its models say (`running.ken_serve`
runs the real `ken serve` in a process). A page that logs an error, breaks the content security policy, or asks any
other machine for anything fails its test.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


DESK, PHONE = (1280, 900), (390, 844)
SECONDS = 30  # most that anything on a page may take on a busy machine; conditions end the wait as soon as they hold


# What a screen reader could not name, ids that are not unique, and headings that skip a level.
FAULTS = """() => {
  const found = [], ids = new Set(), start = (e) => e.outerHTML.slice(0, 80);
  for (const e of document.querySelectorAll("[id]")) ids.has(e.id) ? found.push(`twice: ${e.id}`) : ids.add(e.id);
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea, progress"))
    if (!e.labels?.length && !e.ariaLabel) found.push(`no name: ${start(e)}`);
  for (const e of document.querySelectorAll("button, a[href]"))
    if (!e.textContent.trim() && !e.ariaLabel) found.push(`no name: ${start(e)}`);
  for (const e of document.querySelectorAll("img:not([alt])")) found.push(`no alt: ${start(e)}`);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((e) => Number(e.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1) found.push(`headings: ${levels}`);
  if (levels.some((level, i) => i && level > levels[i - 1] + 1)) found.push(`headings: ${levels}`);
  return found;
}"""


def faults(page: Page) -> list[str]:
    """What keeps a page from people who do not see it, or see it on a phone: `FAULTS`, and too great a width."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [*page.evaluate(FAULTS), *([f"too wide by {wide} px"] if wide > 0 else [])]


@dataclass
class Chromium:
    """A running browser. Pages live in contexts of their own, as if opened by different people."""

    browser: Browser
    opened: list[Page] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def page(
        self,
        address: str,
        *,
        size: tuple[int, int] = DESK,
        scheme: Literal["light", "dark"] = "light",
        script: bool = True,
    ) -> Page:
        """A new page at `address`."""
        context = self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        context.set_default_timeout(SECONDS * 1000)
        page = context.new_page()
        page.on("console", lambda message: self._log(message.type, message.text))
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("request", lambda request: self._asked(request.url))
        self.opened.append(page)
        page.goto(address)
        return page

    def close_pages(self) -> list[str]:
        """Close what was opened since the last call; what went wrong on it."""
        for page in self.opened:
            page.context.close()
        self.opened.clear()
        problems, self.problems = self.problems, []
        return problems

    def _log(self, kind: str, text: str) -> None:
        # A refusal (4xx) is an answer that pages show, although chromium logs it.
        if kind == "error" and not re.search(r"status of 4\d\d", text):
            self.problems.append(f"console: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
            self.problems.append(f"asked another machine: {url}")


@pytest.fixture(scope="module")
def launched() -> Iterator[Browser]:
    """One browser a module: playwright keeps an event loop in this thread, in which others could not run theirs."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("these tests drive chromium; install it, for example with: apt install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="install with: pip install 'ken[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def chromium(launched: Browser, served: object) -> Iterator[Chromium]:
    """A browser whose pages must be without faults when the test ends, and are closed before what is served is."""
    chromium = Chromium(launched)
    yield chromium
    assert chromium.close_pages() == []


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """A function that serves a `Service` until the test ends, and returns its address. Options are `create_app`'s."""
    from running import running  # here, because every test knows this fixture, and servers are slow to import

    with ExitStack() as stack:
        yield lambda service, **options: stack.enter_context(running(service, **options))
