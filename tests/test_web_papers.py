"""The papers' pages in a real browser: find a paper, see how its claims stand, run it small, watch and cancel that."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import select
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import DESK, PHONE, SECONDS, Chromium
from fake_paper import SLUG
from playwright.sync_api import expect
from running import ken_serve

import ken.papers
from ken.papers.catalogue import rows, shipped
from ken.papers.described import ROWS, describe
from ken.papers.kinds import INSIDE, OUTSIDE, SIGNAL, kinds
from ken.papers.search import CatalogueSearch
from ken.serving.rows import Rows, kept_at
from ken.serving.service import Service

RESULTS = Path(__file__).parents[1] / "results"

Serve = Callable[[Service], str]

expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture(scope="module")
def read_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with what the rows say, which takes seconds to read."""
    data = tmp_path_factory.mktemp("read")

    async def read() -> None:
        assert "ikea" in await Rows(data).known()

    thread = threading.Thread(target=asyncio.run, args=[read()])  # playwright has a loop in this one
    thread.start()
    thread.join()
    return data


@pytest.fixture
def service(tmp_path: Path, read_rows: Path) -> Service:
    """Of a server with Ken's own results, and nothing else."""
    shutil.copytree(read_rows, tmp_path / "data")
    return Service([], data=tmp_path / "data", runs=tmp_path / "runs", results=RESULTS)


@pytest.fixture
def fake_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A row that takes no time, for this process and for those that it starts; the folder of its log."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "54_introspective_growth.py").write_text("from fake_paper import paper\n", encoding="utf-8")
    site = tmp_path / "site"
    site.mkdir()
    hook = f"import ken.papers\nken.papers.__path__.insert(0, {str(folder)!r})\n"
    (site / "sitecustomize.py").write_text(hook, encoding="utf-8")
    paths = [str(site), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setattr(ken.papers, "__path__", [str(folder), *ken.papers.__path__])
    assert SLUG in rows()
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    kept_at(data).write_bytes(ROWS.dump_json({SLUG: describe(SLUG)}))  # nothing of the others, which takes seconds
    sys.modules.pop("ken.papers.54_introspective_growth", None)
    return tmp_path


def ask(address: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of a page, as a program without a browser gets them."""
    request = urllib.request.Request(address, method=method, data=b"" if method == "POST" else None)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=SECONDS) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def held(hold: Path) -> int:
    """A handle of the arm that waits, once it does; it becomes readable when that process ends."""
    for _ in range(SECONDS * 20):
        if hold.exists():
            return os.pidfd_open(int(hold.read_text()))
        select.select([], [], [], 0.05)
    raise AssertionError("the arm did not begin")


# --- the catalogue ---


def test_every_paper_is_a_card_with_what_is_known_of_it(served: Serve, chromium: Chromium, service: Service) -> None:
    page = chromium.page(served(service) + "/papers")
    expect(page.locator(".paper")).to_have_count(60)
    card = page.locator("#paper-adasearch")
    for text in (shipped()["adasearch"].title, "2025-12-18", "6 authors", "what it solves alone", "a search engine"):
        expect(card).to_contain_text(text)
    expect(card).to_contain_text(shipped()["adasearch"].summary.split(";")[0])
    counts = [claim["verdict"] for claim in json.loads((RESULTS / "adasearch.json").read_text())["claims"]]
    expect(card.locator(".badge.good")).to_have_text(f"{counts.count('holds')} hold")
    expect(card.get_by_text("arXiv")).to_have_attribute("href", "https://arxiv.org/abs/2512.16883")
    expect(card.get_by_text("code", exact=True)).to_have_attribute("href", shipped()["adasearch"].code)
    expect(page.locator("#paper-vaemo .badge")).to_have_text("planned")
    expect(page.locator("#paper-sema")).to_contain_text("Microsoft")


def test_papers_are_found_while_one_types_and_the_address_tells_what_is_shown(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    page = chromium.page(served(service) + "/papers")
    page.get_by_label("Search titles").press_sequentially("knowledge gra")  # the last word is not whole
    expect(page.locator(".paper").first).to_have_id("paper-think-on-graph")
    expect(page).to_have_url(re.compile(r"q=knowledge\+gra$"))
    page.get_by_label("Outside").select_option("structures")
    expect(page).to_have_url(re.compile("outside=structures"))
    found = CatalogueSearch(shipped().values())("knowledge gra")
    left = [slug for slug in found if kinds(slug).outside == "structures"]  # type: ignore[union-attr]
    expect(page.locator("#count")).to_have_text(f"{len(left)} of 60 papers")
    page.reload()
    expect(page.locator("#count")).to_have_text(f"{len(left)} of 60 papers")
    expect(page.get_by_label("Outside")).to_have_value("structures")
    page.get_by_role("link", name="Clear").click()
    expect(page.locator(".paper")).to_have_count(60)


def test_every_word_that_the_search_field_proposes_finds_something(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    page = chromium.page(served(service) + "/papers")
    proposed = re.findall(r"\w+", page.get_by_label("Search titles").get_attribute("placeholder") or "")
    assert len(proposed) >= 3
    search = CatalogueSearch(shipped().values())
    assert [word for word in proposed if not search(word)] == []


def test_filters_and_orders_work_without_script(served: Serve, chromium: Chromium, service: Service) -> None:
    page = chromium.page(served(service) + "/papers", script=False)
    page.get_by_label("State").select_option("verdicts")
    page.get_by_label("Sort by").select_option("authors")
    page.get_by_role("button", name="Search").click()
    judged = [slug for slug in rows() if (RESULTS / f"{slug}.json").is_file()]
    expect(page.locator(".paper")).to_have_count(len(judged))
    shown = [(card.get_attribute("id") or "").removeprefix("paper-") for card in page.locator(".paper").all()]
    authors = [shipped()[slug].authors or 0 for slug in shown]
    assert sorted(shown) == sorted(judged)
    assert authors == sorted(authors, reverse=True)
    page.get_by_label("State").select_option("")
    page.get_by_label("Sort by").select_option("date")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".paper")).to_have_count(60)
    dates = page.locator(".paper time").all_text_contents()
    assert dates == sorted(dates, reverse=True)


def test_a_search_without_a_find_says_so_and_offers_all(served: Serve, chromium: Chromium, service: Service) -> None:
    page = chromium.page(served(service) + "/papers?q=zeppelin")
    expect(page.locator(".empty")).to_contain_text("No paper is like that")
    page.get_by_role("link", name="Show all 60").click()
    expect(page.locator(".paper")).to_have_count(60)


def test_the_map_places_every_paper_and_is_walked_by_keyboard(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    page = chromium.page(served(service) + "/papers?view=map&outside=documents")
    points = page.locator(".map a")
    expect(points).to_have_count(60)
    inside = sum(kinds(slug).outside == "documents" for slug in shipped())  # type: ignore[union-attr]
    expect(page.locator(".map a:not(.away)")).to_have_count(inside)
    boxes = [box for point in points.locator("circle").all() if (box := point.bounding_box())]
    centres = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    assert all(
        abs(x - other_x) > 9 or abs(y - other_y) > 9
        for i, (x, y) in enumerate(centres)
        for other_x, other_y in centres[:i]
    )
    ikea = page.get_by_role("link", name=re.compile("^42 IKEA, .*; outside: documents; signal: outcome$"))
    page.get_by_role("region", name="Map of the papers").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        if ikea.evaluate("point => point === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(shipped()["ikea"].title)


def test_the_maps_rows_keep_their_names_when_a_phone_scrolls_it(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    page = chromium.page(served(service) + "/papers?view=map", size=PHONE)
    name = page.locator(".map .rows .heading").first
    before = name.bounding_box()
    page.get_by_role("region", name="Map of the papers").evaluate("map => { map.scrollLeft = 400; }")
    after = name.bounding_box()
    assert before
    assert after
    assert abs(after["x"] - before["x"]) < 2


def test_every_shipped_paper_has_kinds() -> None:
    for slug in shipped():
        found = kinds(slug)
        assert found is not None, slug
        assert (found.inside in INSIDE, found.outside in OUTSIDE, found.signal in SIGNAL) == (True, True, True), slug
    assert kinds("a-users-own") is None


def test_the_index_of_the_catalogue_is_built_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    entries = list(shipped().values())
    assert CatalogueSearch(entries, tmp_path)("geometry of truth probes")[0] == "probing-geometry-of-truth"
    (folder,) = tmp_path.iterdir()
    before = sorted(folder.rglob("*"))
    assert CatalogueSearch(entries, tmp_path)("IKEA")[0] == "ikea"
    assert sorted(folder.rglob("*")) == before
    changed = entries[0].model_copy(update={"summary": "It is about zeppelins."})
    assert CatalogueSearch([changed, *entries[1:]], tmp_path)("zeppelin") == [changed.slug]
    assert CatalogueSearch(entries, tmp_path)("zeppelin") == []
    unwritable = tmp_path / "file"
    unwritable.write_text("")
    assert CatalogueSearch(entries, unwritable)("ikea")[0] == "ikea"
    assert CatalogueSearch(entries, tmp_path)("?! ") == []


# --- a paper ---


def test_a_papers_page_shows_claims_arms_and_plots_with_the_numbers_of_its_results(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    results = json.loads((RESULTS / "knowrl.json").read_text())
    page = chromium.page(served(service) + "/papers/58")  # a number leads to the slug
    expect(page).to_have_url(re.compile("/papers/knowrl$"))
    claims = page.locator("table.claims tbody tr")
    expect(claims).to_have_count(len(results["claims"]))
    first = results["claims"][0]
    expect(claims.first).to_contain_text(first["verdict"])
    expect(claims.first).to_contain_text(f"{first['value']:.3f}")
    expect(claims.first).to_contain_text(f"{first['interval'][0]:.3f} to {first['interval'][1]:.3f}")
    arms = page.locator("table.arms tbody tr")
    row = arms.filter(has=page.get_by_role("rowheader", name="vote", exact=True))
    expect(row).to_contain_text(f"{results['arms']['vote']['mean']['macro_f1']:.3f}")
    plot = page.get_by_role("img", name=re.compile("^macro_f1 of"))
    expect(plot).to_be_visible()
    assert plot.locator(".ring").count() == sum(len(arm["metrics"]) for arm in results["arms"].values())
    expect(page.locator("#command")).to_have_text("ken reproduce knowrl --seeds 3")
    for text in ("seeds 0, 1, 2", results["machine"]["processor"], f"torch {results['versions']['torch']}"):
        expect(page.locator("main")).to_contain_text(text)


def test_a_phone_shows_every_number_of_claims_and_arms_without_scrolling_sideways(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    page = chromium.page(served(service) + "/papers/adasearch", size=PHONE)
    expect(page.locator("#row[data-reading]")).to_have_count(0)
    beyond = page.locator(".claims td, .arms td, .arms th").evaluate_all(
        "(all, width) => all.filter(e => e.getBoundingClientRect().right > width).map(e => e.outerHTML)", PHONE[0]
    )
    assert beyond == []
    first = page.locator("table.arms tbody tr").first
    for text in ("em\n0.477", "minutes\n0.8"):
        assert text.split("\n")[1] in first.inner_text()
        assert first.locator(f'td[data-label="{text.split()[0]}"]').is_visible()
    for claim in page.locator("table.claims tbody tr").all():  # what is wanted stands beside the value, not alone
        value, wanted = (claim.locator("td.number").nth(i).bounding_box() for i in (0, 1))
        assert value
        assert wanted
        assert abs(value["y"] - wanted["y"]) < 4


def test_no_plot_of_arms_has_a_dot_on_a_name(served: Serve, chromium: Chromium, service: Service) -> None:
    page = chromium.page(served(service) + "/papers/adasearch")
    expect(page.locator("#row[data-reading]")).to_have_count(0)
    touching = page.locator(".measured svg").evaluate_all(
        """all => all.flatMap(svg => {
          const names = [...svg.querySelectorAll("text.tick[text-anchor=end]")].map(e => e.getBoundingClientRect());
          return [...svg.querySelectorAll("circle")].filter(dot => {
            const d = dot.getBoundingClientRect();
            return names.some(n => d.left < n.right + 1 && d.top < n.bottom && n.top < d.bottom);
          }).map(dot => dot.textContent);
        })"""
    )
    assert touching == []
    curves = page.locator(".measured figure", has=page.get_by_role("img", name=re.compile("^reward_curve")))
    expect(curves.locator(".axis")).to_have_text("step")
    expect(curves).to_contain_text("reward, mean over rollouts")
    expect(curves).to_contain_text("Running means over 9 steps, without bands")  # of six arms


def test_a_planned_paper_says_so_and_cannot_be_started(served: Serve, chromium: Chromium, service: Service) -> None:
    address = served(service)
    page = chromium.page(address + "/papers/vaemo")
    expect(page.locator(".empty")).to_contain_text("Planned.")
    expect(page.get_by_role("button")).to_have_count(0)
    status, text = ask(address + "/papers/vaemo/smoke", "POST")
    assert status == 409
    assert "it has no row yet" in text


@pytest.mark.parametrize("content", ["{", '{"slug": "knowrl", "verdicts": 3}', "[]", "\x00"])
def test_results_that_cannot_be_read_are_told_and_the_rest_is_shown(
    served: Serve, chromium: Chromium, service: Service, content: str, tmp_path: Path
) -> None:
    service.results = tmp_path / "results"
    service.results.mkdir()
    shutil.copy(RESULTS / "ikea.json", service.results)
    (service.results / "knowrl.json").write_text(content)
    address = served(service)
    page = chromium.page(address + "/papers")
    expect(page.locator("#paper-knowrl .badge.bad")).to_have_text("results cannot be read")
    expect(page.locator("#paper-ikea .badge.good")).to_be_visible()
    page.goto(address + "/papers/knowrl")
    expect(page.get_by_role("alert")).to_contain_text("make it again with `ken reproduce knowrl`")
    expect(page.locator("table.claims .badge").first).to_have_text("not judged")  # what the row says
    expect(page.get_by_role("button", name="Start the smoke run")).to_be_visible()


def test_a_row_that_cannot_be_loaded_is_told_and_hides_no_other(
    served: Serve, chromium: Chromium, service: Service, fake_row: Path
) -> None:
    (fake_row / "rows" / "54_introspective_growth.py").write_text("paper = 1 / 0\n", encoding="utf-8")
    service.results = fake_row / "none"
    kept_at(fake_row / "data").unlink()  # so that the rows are read, by a process that imports torch
    address = served(service)
    _, text = ask(f"{address}/papers/{SLUG}")
    assert "Reading the paper's row" in html.unescape(text)
    assert "Claims</h2>" not in text, "a heading of nothing"
    page = chromium.page(f"{address}/papers/{SLUG}")
    expect(page.get_by_role("alert")).to_contain_text(
        f"the row of {SLUG} cannot be loaded (ZeroDivisionError: division by zero)", timeout=4 * SECONDS * 1000
    )
    page.goto(address + "/papers/ikea")
    expect(page.locator("table.arms tbody tr").first).to_be_visible()


def test_an_unknown_paper_is_answered_with_the_nearest_names(served: Serve, service: Service) -> None:
    status, text = ask(served(service) + "/papers/adasaerch")
    assert status == 404
    assert "did you mean adasearch?" in text


def test_a_users_own_papers_are_text_and_a_broken_file_hides_none_of_kens(
    served: Serve, chromium: Chromium, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = "<img src=x onerror=document.title=1><script>document.title='taken'</script>"
    own = f'[mine]\nnumber = 60\nname = "Mine"\ntitle = "{hostile}"\narxiv = "2601.00001"\nyear = 2026\n'
    own += f'inside = "{hostile}"\noutside = "a zeppelin"\nsignal = "none"\nsummary = "{hostile}"\n'
    Path("papers.toml").write_text(own)
    address = served(service)
    page = chromium.page(address + "/papers?q=zeppelin")
    expect(page.locator(".paper h3")).to_have_text(hostile)
    assert page.title() == "Papers · Ken"
    page.locator(".paper h3 a").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(hostile)
    page.goto(address + "/papers?view=map")
    expect(page.locator(".map a")).to_have_count(60)  # it has no kinds
    Path("papers.toml").write_text("[mine")
    page.goto(address + "/papers")
    expect(page.get_by_role("alert")).to_contain_text("papers.toml is not TOML")
    expect(page.locator(".paper")).to_have_count(60)


# --- a smoke run ---


def test_a_smoke_run_is_watched_outlives_a_reload_and_is_cancelled(
    served: Serve, chromium: Chromium, service: Service, fake_row: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = fake_row / "held"
    monkeypatch.setenv("FAKE_HOLD", str(hold))  # its first arm waits there, and is killed in the end
    address = served(service)
    page = chromium.page(f"{address}/papers/{SLUG}")
    page.get_by_role("button", name="Start the smoke run").click()
    expect(page.get_by_role("log")).to_be_visible()
    os.close(held(hold))
    page.reload()
    expect(page.locator("#smoke .badge")).to_have_text("running")
    expect(page.locator("#elapsed")).to_have_text(re.compile(r"^for \d+ s$"))
    before = page.locator("#elapsed").inner_text()
    expect(page.locator("#elapsed")).not_to_have_text(before)  # it goes on although the log says nothing

    page.route("**/events*", lambda route: route.abort("connectionrefused"))
    page.reload()
    away = page.locator("#smoke").get_by_role("alert")  # and not at the top of a long page
    expect(away).to_contain_text("The server does not answer.")
    page.unroute("**/events*")
    expect(away).to_have_count(0)
    assert chromium.problems
    chromium.problems.clear()  # chromium logs that it could not load

    other = chromium.page(f"{address}/papers/knowrl")
    expect(other.locator("#smoke")).to_contain_text(f"A smoke run of {SLUG} is under way; one runs at a time.")
    status, text = ask(f"{address}/papers/knowrl/smoke", "POST")
    assert status == 409
    assert f"`ken reproduce {SLUG} --smoke --json` is under way, and one runs at a time" in text

    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#smoke .badge")).to_have_text("cancelled")
    expect(page.get_by_role("log")).to_contain_text("interrupted; nothing is kept of a smoke run")
    expect(page.get_by_role("log")).not_to_contain_text("go on")
    expect(page.get_by_role("button", name="Run it again")).to_be_enabled()


def test_lines_of_a_smoke_run_come_while_it_runs_and_its_numbers_at_the_end(
    served: Serve, chromium: Chromium, service: Service, fake_row: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = fake_row / "log"
    monkeypatch.setenv("FAKE_WAIT", "method:0")  # the second arm waits until its standard input ends, or it is told to
    monkeypatch.setenv("FAKE_LOG", str(waiting))
    page = chromium.page(f"{served(service)}/papers/{SLUG}")
    page.get_by_role("button", name="Start the smoke run").click()
    expect(page.get_by_role("log")).to_contain_text(f"{SLUG} seed 0 base: 0 s")  # and no reload
    expect(page.locator("#smoke .badge")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#smoke .badge")).to_have_text("cancelled")
    monkeypatch.delenv("FAKE_WAIT")
    page.get_by_role("button", name="Run it again").click()
    expect(page.locator("#smoke .badge")).to_have_text("finished")
    measured = page.get_by_role("region", name="What the smoke run measured")
    expect(measured.get_by_role("row", name=re.compile("^method 0.700"))).to_be_visible()
    assert not (fake_row / "results").exists()


def test_a_smoke_run_that_fails_says_so_with_its_reason(
    served: Serve, chromium: Chromium, service: Service, fake_row: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "method:0")
    page = chromium.page(f"{served(service)}/papers/{SLUG}")
    page.get_by_role("button", name="Start the smoke run").click()
    expect(page.locator("#smoke .badge")).to_have_text("failed")
    expect(page.locator("#smoke")).to_contain_text("exit status 1")
    expect(page.get_by_role("log")).to_contain_text("arm method failed on seed 0: ZeroDivisionError")


@pytest.mark.slow
def test_a_real_paper_is_run_small_and_its_arms_are_told_as_they_end(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    page = chromium.page(served(service) + "/papers/knowrl")
    page.get_by_role("button", name="Start the smoke run").click()
    expect(page.get_by_role("log")).to_contain_text("knowrl seed 0 base:", timeout=300_000)
    expect(page.locator("#smoke .badge")).to_have_text("finished", timeout=300_000)
    measured = page.get_by_role("region", name="What the smoke run measured")
    arms = json.loads((RESULTS / "knowrl.json").read_text())["arms"]
    expect(measured.locator("tbody tr")).to_have_count(len(arms))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_smoke_run_ends_with_the_server_also_when_that_is_killed(
    chromium: Chromium, fake_row: Path, ending: signal.Signals
) -> None:
    hold = fake_row / "held"
    with ken_serve(folder=fake_row, FAKE_HOLD=str(hold), PYTHONPATH=os.environ["PYTHONPATH"]) as server:
        page = chromium.page(f"{server.address}/papers/{SLUG}")
        page.get_by_role("button", name="Start the smoke run").click()
        expect(page.locator("#smoke .badge")).to_have_text("running")
        job = held(hold)
        page.goto("about:blank")  # whose events would keep the server waiting for them
        server.end(ending)
        assert select.select([job], [], [], SECONDS)[0], "the job goes on without its server"
    os.close(job)


# --- every page ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_no_page_is_wider_than_its_window(
    served: Serve, chromium: Chromium, service: Service, size: tuple[int, int], scheme: str
) -> None:
    address = served(service)
    page = chromium.page(address + "/papers", size=size, scheme=scheme)  # type: ignore[arg-type]
    for path in ("/papers", "/papers?view=map", "/papers?q=zeppelin", "/papers/knowrl", "/papers/vaemo", "/papers/x"):
        page.goto(address + path)
        if path == "/papers/knowrl":
            expect(page.locator("#row[data-reading]")).to_have_count(0)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, path
