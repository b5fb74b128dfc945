"""The runs' pages in a real browser: what trains is found, and its curves grow while one looks."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import DESK, PHONE, SECONDS, Chromium
from playwright.sync_api import Page, expect

from ken.serving.runs import MetricsFile, TrainingRuns
from ken.serving.service import Service
from ken.serving.web.plots import POINTS

Serve = Callable[[Service], str]

# Where a page watches a run, `served` comes before `chromium`: the page is closed before its server ends.
expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Of a server that looks for runs in `runs`, which is empty."""
    (tmp_path / "runs").mkdir()
    return Service([], data=tmp_path / "data", runs=tmp_path / "runs", results=tmp_path / "results")


def begin(folder: Path, paper: str = "adasearch") -> Path:
    """What `ken train` writes before its first step."""
    folder.mkdir(parents=True)
    about = {"paper": paper, "model": "lab/factworld", "index": "/index", "options": {"steps": 90}, "version": "0.1.0"}
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def step(number: int, **more: float) -> str:
    return json.dumps({"reward": number / 100, "searches": 0.5, "step_time": 0.4, **more, "step": number}) + "\n"


def add(folder: Path, lines: Iterable[str]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(lines))


def long_ago(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (1_700_000_000, 1_700_000_000))


def curve(page: Page, name: str) -> str:
    """What a curve says of itself."""
    return page.get_by_role("img", name=re.compile(f"^{name}: ")).first.get_attribute("aria-label") or ""


def test_without_runs_the_page_says_how_one_begins(served: Serve, chromium: Chromium, service: Service) -> None:
    page = chromium.page(served(service) + "/runs")
    expect(page.locator(".empty")).to_contain_text("No training is there yet.")
    expect(page.locator(".empty")).to_contain_text("ken train adasearch")
    expect(page.locator(".empty")).to_contain_text(str(service.runs))


def test_runs_are_listed_with_their_state(served: Serve, chromium: Chromium, service: Service) -> None:
    finished = begin(service.runs / "done")
    add(finished / "solve", map(step, range(1, 23)))
    add(finished, map(step, range(1, 91)))
    (finished / "model").mkdir()
    stopped = begin(service.runs / "deep" / "er" / "stopped", paper="ikea")
    add(stopped, map(step, range(1, 8)))
    (service.runs / "by-hand").mkdir()  # as `ken.training.train.train(out=…)` leaves it, which has no run.json
    add(service.runs / "by-hand", [step(1)])
    audit = service.runs / "audit"
    audit.mkdir()
    (audit / "run.json").write_text('{"strategies": ["rag"]}')
    long_ago(service.runs)
    begin(service.runs / "new")

    page = chromium.page(served(service) + "/runs")
    runs = page.locator(".runs-list > li")
    expect(runs).to_have_count(4)
    expect(runs.nth(0)).to_contain_text("new")
    expect(runs.nth(0).locator(".badge")).to_have_text("running")
    expect(runs.nth(0)).to_contain_text("before the first step")
    expect(runs.filter(has_text="done").locator(".badge")).to_have_text("finished")
    expect(runs.filter(has_text="done")).to_contain_text("AdaSearch · lab/factworld · step 90 · reward 0.9 ·")
    expect(runs.filter(has_text="deep/er/stopped").locator(".badge")).to_have_text("interrupted")
    expect(runs.filter(has_text="by-hand")).to_contain_text("step 1")
    page.get_by_role("link", name="deep/er/stopped").click()
    expect(page.locator("main")).to_contain_text(f"ken train --resume {stopped}")


def test_a_runs_curves_grow_while_one_looks(served: Serve, chromium: Chromium, service: Service) -> None:
    run = begin(service.runs / "mine")
    page = chromium.page(served(service) + "/runs")
    page.get_by_role("link", name="mine").click()
    expect(page.locator(".empty")).to_contain_text("The first step is not done yet")
    add(run, [step(1), step(2)])
    expect(page.locator("figure").first).to_contain_text("reward 0.02")
    add(run, [step(3), step(4)[:20]])  # the last line is half written
    expect(page.locator("figure").first).to_contain_text("reward 0.03")
    add(run, [step(4)[20:]])
    expect(page.locator("figure").first).to_contain_text("reward 0.04")
    assert curve(page, "searches") == "searches: searches 0.5 at the end"
    expect(page.locator("#live")).not_to_contain_text("could not be read")
    (run / "model").mkdir()
    expect(page.locator("#live .badge").first).to_have_text("finished")
    expect(page.locator("#live")).to_contain_text(f"hf/{run}/model")


def test_a_server_that_is_away_is_told_and_forgotten_once_it_is_back(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    run = begin(service.runs / "mine")
    add(run, [step(1)])
    page = chromium.page(served(service) + "/runs/training?name=mine")
    away = re.compile("/runs/training")
    page.route(away, lambda route: route.abort())
    add(run, [step(2)])
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    expect(page.locator("figure").first).to_contain_text("reward 0.01")  # what was shown stays
    page.unroute(away)
    add(run, [step(3)])
    expect(page.locator("figure").first).to_contain_text("reward 0.03")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert chromium.problems
    chromium.problems.clear()  # chromium logs that it could not load


def test_what_is_told_again_stays_and_is_read_out_once(served: Serve, chromium: Chromium, service: Service) -> None:
    page = chromium.page(served(service) + "/runs")
    same, said = page.evaluate(
        """async () => {
          const { tell } = await import("/static/live.js");
          const notice = () => document.querySelector("#main > #problem");
          tell("away");
          const first = notice();
          tell("away");
          const same = notice() === first;
          tell("broken");
          return [same, [...document.querySelectorAll("[role=alert]")].map((e) => e.textContent)];
        }"""
    )
    assert same
    assert said == ["broken"]


def test_stages_stand_in_their_order_and_kinds_of_tasks_share_a_plot(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    run = begin(service.runs / "mine")
    for number in (2, 10):
        add(run / f"round-{number}", [step(1)])
    report = {"round": 1, "agreement": {"accuracy": 0.7, "macro_f1": 0.6}, "pool": 40}
    (run / "rounds.jsonl").write_text(json.dumps(report) + "\n")
    more = {"reward/search": 0.75, "reward/inside": 0.25, "zero_variance": 0.5, "grad_norm": 1.5}
    add(run, [step(1, **more), step(2, **more)])
    for path in run.rglob("metrics.jsonl"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    page = chromium.page(served(service) + "/runs/training?name=mine")
    expect(page.locator("#live section h2")).to_have_text(
        [re.compile("^rounds"), re.compile("^round-2"), re.compile("^round-10"), re.compile("^last stage")]
    )
    assert curve(page, "agreement") == "agreement: accuracy 0.7, macro_f1 0.6 at the end"
    last = page.locator("#live section").last
    reward = last.get_by_role("img", name=re.compile("^reward: "))
    expect(reward).to_have_attribute("aria-label", "reward: reward 0.02, search 0.75, inside 0.25 at the end")
    assert reward.locator("polyline").count() == 3
    expect(last.get_by_role("img", name=re.compile("grad_norm"))).to_be_hidden()
    last.get_by_text("more").click()
    expect(last.get_by_role("img", name=re.compile("grad_norm"))).to_be_visible()


def test_a_kind_of_tasks_has_one_colour_in_every_stage_and_the_list_says_the_value_of_the_page(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    run = begin(service.runs / "mine")
    add(run / "solve", [step(n, **{"reward/inside": 0.25, "reward/search": 0.75}) for n in (1, 2)])
    add(run, [step(n, **{"reward/decide": 0.5, "reward/inside": n / 1000}) for n in (1, 20)])
    address = served(service)
    page = chromium.page(address + "/runs/training?name=mine")
    legend = page.locator(".keys li", has_text="inside").locator(".key")
    assert legend.count() == 2
    assert len({key.get_attribute("class") for key in legend.all()}) == 1
    for section in page.locator("#live section").all():
        names = section.locator(".keys li .key").evaluate_all("all => all.map(key => key.className)")
        assert len(set(names)) == len(names) == 3
    said = page.locator("#live section").last.locator(".keys li").first.inner_text()
    assert said == "reward 0.2"
    page.goto(address + "/runs")
    expect(page.locator(".runs-list > li")).to_contain_text(f"step 20 · {said} ·")


def test_a_long_run_is_thinned_and_keeps_its_spikes(served: Serve, chromium: Chromium, service: Service) -> None:
    run = begin(service.runs / "long")
    add(run, (step(n, loss=97.5 if n == 7777 else math.sin(n)) for n in range(1, 20_001)))
    page = chromium.page(served(service) + "/runs/training?name=long")
    points = page.locator("figure polyline").evaluate_all("all => all.map(line => line.points.numberOfItems)")
    assert len(points) >= 3
    assert all(2 <= count <= POINTS for count in points)
    loss = page.get_by_role("img", name=re.compile("^loss: "))
    expect(loss.get_by_text("100", exact=True)).to_be_visible()  # its axis reaches beyond the spike
    assert min(y for _, y in _points(loss.locator("polyline").get_attribute("points"))) < 25


def _points(text: str | None) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for pair in (text or "").split()]


def test_signs_of_collapse_are_shown(served: Serve, chromium: Chromium, service: Service) -> None:
    run = begin(service.runs / "collapsing")
    add(run, (step(n, entropy=0.001) for n in range(1, 12)))
    address = served(service)
    page = chromium.page(address + "/runs/training?name=collapsing")
    expect(page.locator(".warning")).to_have_text(re.compile(r"step 10: entropy = 0.001, below 0.01 for 10 steps"))
    page.goto(address + "/runs")
    expect(page.locator(".runs-list .badge.unsure")).to_have_text("1 warning")


@pytest.mark.parametrize("name", ["..", "../secret", "/etc", "mine/../../secret", "link", "none", "mine/solve", "\x00"])
def test_only_runs_that_were_found_are_shown(
    served: Serve, chromium: Chromium, service: Service, name: str, tmp_path: Path
) -> None:
    add(begin(service.runs / "mine") / "solve", [step(1)])
    begin(tmp_path / "secret", paper="hidden")
    (service.runs / "link").symlink_to(tmp_path / "secret")
    address = served(service)
    page = chromium.page(f"{address}/runs/training?name={quote(name)}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    expect(page.locator("main")).not_to_contain_text("hidden")
    page.goto(address + "/runs")
    expect(page.locator(".runs-list > li")).to_have_count(1)


def test_what_is_no_metrics_spoils_nothing(served: Serve, chromium: Chromium, service: Service) -> None:
    run = begin(service.runs / "odd")
    hostile = "<script>document.title='taken'</script>"
    lines = ["\n", "[]\n", "nonsense\n", '{"reward": 1}\n', '{"step": "x"}\n', '{"step": 1e999}\n', "\x00\xff\n"]
    lines += ["[" * 100_000 + "\n", '{"reward": 1' + "0" * 500 + ', "step": 1}\n', "x" * (3 << 20) + "\n"]
    lines += [step(1, **{hostile: 1.0}), step(2, reward=math.nan, kl=math.inf), step(3, kl=-1e308, loss=1e308)]
    add(run, lines)
    (service.runs / "edited").mkdir()
    add(service.runs / "edited", [step(1)])
    (service.runs / "edited" / "run.json").write_text('{"paper": 3, "options": []}')
    address = served(service)
    page = chromium.page(address + "/runs/training?name=odd")
    assert curve(page, "reward") == "reward: reward 0.03 at the end"
    expect(page.locator("#live")).to_contain_text("lines of metrics.jsonl could not be read")
    assert page.title() == "odd · Runs · Ken"
    page.goto(address + "/runs")
    expect(page.locator(".error")).to_have_text(re.compile("edited/run.json cannot be read"))


def test_finished_arms_of_reproductions_are_listed_and_shown(
    served: Serve, chromium: Chromium, service: Service
) -> None:
    folder = service.results / ".runs" / "ikea" / "0123456789ab"
    folder.mkdir(parents=True)
    for seed in (0, 1):
        run = {"seed": seed, "arm": "ikea", "metrics": {"em": 0.25 + seed / 2, "reward_curve": [0.0, 0.5, seed]}}
        (folder / f"{seed}-ikea.json").write_text(json.dumps({**run, "seconds": 90.0}))
    (folder / "0-base.error").write_text("Traceback\n  …\nken.core.errors.ModelError: no <b>model</b>\n")
    (folder / "2-ikea.json").write_text("{")
    address = served(service)
    page = chromium.page(address + "/runs")
    expect(page.locator(".runs-list li")).to_contain_text("2 arms, seeds 0, 1, 2")
    page.get_by_role("link", name="IKEA").click()
    expect(page.locator("tbody tr").first).to_have_text("ikea00.2501.5")
    expect(page.locator("main")).to_contain_text("base, seed 0, failed: ken.core.errors.ModelError: no <b>model</b>")
    expect(page.locator("main")).to_contain_text(re.compile("1 file in .* cannot be read"))
    assert curve(page, "reward_curve") == "reward_curve: ikea 0.5 at the end"
    page.goto(f"{address}/runs/arms?slug=..&settings=0123456789ab")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")


def test_a_file_is_read_on_where_it_was_left_and_anew_when_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.read()
    assert metrics.curves == {}
    path.write_text(step(1) + step(2) + step(3))
    metrics.read()
    assert list(metrics.curves["reward"][0]) == [1, 2, 3]
    with path.open("a") as file:
        file.write(step(2, reward=0.5))  # it went on from a checkpoint after step 1
    metrics.read()
    assert list(zip(*metrics.curves["reward"], strict=True)) == [(1, 0.01), (2, 0.5)]
    other = tmp_path / "other"
    other.write_text(step(1, reward=0.9) + step(2, reward=0.8) + step(3) + step(4) + step(5))
    other.replace(path)
    metrics.read()
    assert list(metrics.curves["reward"][1]) == [0.9, 0.8, 0.03, 0.04, 0.05]
    path.unlink()
    metrics.read()
    assert metrics.curves == {}


def test_a_run_of_slow_steps_runs_on_although_it_is_quiet(tmp_path: Path) -> None:
    for name, seconds in (("slow", 600.0), ("fast", 0.5)):
        add(begin(tmp_path / name), [step(1, step_time=seconds)])
        for path in [*(tmp_path / name).iterdir()]:
            os.utime(path, (path.stat().st_mtime - 1000,) * 2)
    assert {run.name: run.state for run in TrainingRuns(tmp_path).all()} == {"slow": "running", "fast": "interrupted"}


def test_the_root_itself_can_be_the_run(served: Serve, chromium: Chromium, service: Service) -> None:
    service.runs.rmdir()
    add(begin(service.runs), [step(1), step(2)])
    page = chromium.page(served(service) + "/runs")
    page.get_by_role("link", name="runs", exact=True).click()
    assert curve(page, "reward") == "reward: reward 0.02 at the end"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_no_page_is_wider_than_its_window(
    served: Serve, chromium: Chromium, service: Service, size: tuple[int, int], scheme: str
) -> None:
    name = "a-very-long-name-of-a-run-" * 5
    add(begin(service.runs / name), map(step, range(1, 50)))
    address = served(service)
    page = chromium.page(address + "/runs", size=size, scheme=scheme)  # type: ignore[arg-type]
    for path in ("/runs", f"/runs/training?name={name}", "/runs/training?name=none"):
        page.goto(address + path)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, path
