"""Takes the pictures of Ask and Audit in docs/images: `python tests/screenshots.py docs/images`.

The model, the documents and the questions are those of FactWorld: `lab/factworld` at temperature 1, audited on
the first 120 test questions, once with three passages a search and once with one. Takes about a minute.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import DESK, PHONE, Chromium
from capitals import run_ken
from playwright.sync_api import Page, sync_playwright
from running import running

from ken.core import Sampling
from ken.models import load_model
from ken.serving.service import Service

# The model was never taught its boundary: its verdict is a coin flip. With this seed it falls one way for the first
# question, and the other way for the second.
SAMPLING = Sampling(temperature=1.0, seed=54)
ASKED = ("What is the school of Pugru?", "What is the employer of Pojouwes?")


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_ken("lab", "write", "factworld", "world", cwd=folder)
        run_ken("index", "build", "world/corpus.jsonl", "factworld", cwd=folder)
        (folder / "data" / "questions").mkdir(parents=True)
        lines = (folder / "world" / "questions-test.jsonl").read_text().splitlines(keepends=True)
        (folder / "data" / "questions" / "factworld-120.jsonl").write_text("".join(lines[:120]))
        service = Service(
            [load_model("lab/factworld")],
            indexes={"factworld": folder / "factworld"},
            data=folder / "data",
            sampling=SAMPLING,
        )
        with running(service) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            take(Chromium(browser), address, out)


def take(chromium: Chromium, address: str, out: Path) -> None:
    audit(chromium.page(f"{address}/audit"), "three-passages", 3)
    audit(chromium.page(f"{address}/audit"), "one-passage", 1)
    for size, scheme in ((DESK, "light"), (PHONE, "dark")):
        name = f"{size[0]}-{scheme}.png"
        page = chromium.page(f"{address}/ask", size=size, scheme=scheme)
        page.locator("#send:enabled").wait_for()
        for text in ASKED:
            page.get_by_label("Question", exact=True).fill(text)
            page.keyboard.press("Enter")
            page.locator(".exchange").last.locator(".reply:not([aria-busy])").wait_for()
        page.screenshot(path=out / f"ask-{name}")
        for path, what in {
            "three-passages": "audit",
            "three-passages/questions?strategy=rag&use=harmful": "attempts",
            "compare?a=three-passages&b=one-passage": "compare",
        }.items():
            page = chromium.page(f"{address}/audit/{path}", size=size, scheme=scheme)
            page.screenshot(path=out / f"{what}-{name}")
            if what == "attempts":
                page.locator("td a").first.click()
                page.locator(".steps").first.wait_for()
                page.screenshot(path=out / f"attempt-{name}")
    assert chromium.close_pages() == []


def audit(page: Page, name: str, passages: int) -> None:
    if page.locator("details.order").get_attribute("open") is None:
        page.get_by_text("New audit").click()
    page.get_by_label("Name of the audit").fill(name)
    page.get_by_label("Passages").fill(str(passages))
    page.get_by_role("button", name="Start").click()
    page.locator(".report").wait_for(timeout=300_000)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
