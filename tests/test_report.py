"""audit.html is one page that needs nothing else, shows hostile texts as text, and is whole in every case."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from test_audit_measure import ATTEMPTS, OSLO, PARIS, SETTINGS, attempt

from ken.agents import STRATEGIES
from ken.auditing import AuditSettings, charts, measure
from ken.auditing.charts import accuracy_against_lookups
from ken.auditing.html import render_html
from ken.core import Passage, Search, Trajectory

VOID = {"meta", "br", "link", "img", "input", "hr"}
SVG_EMPTY = {"line", "circle", "rect", "polyline"}
HOSTILE = "<script>alert(1)</script></style></title>\"' onload=x \x1b[31m \u202eevil\u2066 {{ 7*7 }} &lt; \x00 </div>"


class Page(HTMLParser):
    """Checks that every tag is closed in order, and collects what a browser would act on."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SVG_EMPTY
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def page(attempts: list[Trajectory] = ATTEMPTS, settings: AuditSettings = SETTINGS) -> Page:
    return Page(render_html(measure(attempts, settings), attempts))


def hostile(t: Trajectory) -> Trajectory:
    """The attempt with hostile text wherever a stranger can put some."""
    steps = []
    for step in t.steps:
        match step.kind:
            case "observation":
                bad = [
                    p.model_copy(update={"text": HOSTILE, "title": HOSTILE, "source": HOSTILE}) for p in step.passages
                ]
                steps.append(step.model_copy(update={"passages": tuple(bad), "note": HOSTILE}))
            case "decision":
                steps.append(step.model_copy(update={"rationale": HOSTILE}))
            case "search":
                steps.append(Search(query=HOSTILE))
            case _:
                steps.append(step.model_copy(update={"text": HOSTILE}))
    golds = (HOSTILE,) if t.question.answers else ()
    question = t.question.model_copy(update={"text": HOSTILE, "answers": golds, "id": f"{HOSTILE}{t.question.id}"})
    return t.model_copy(update={"question": question, "steps": tuple(steps)})


def test_it_needs_nothing_from_outside_and_runs_nothing():
    found = page()
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name in {"src", "href", "srcset"} or name.startswith("on")]
    html = render_html(measure(ATTEMPTS, SETTINGS), ATTEMPTS)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html


def test_it_shows_the_numbers_of_the_report():
    text = page().text
    assert "The model can answer 50%" in re.sub(r"\s+", " ", text)
    for heading in ("Strategies", "Accuracy and what it costs", "Decisions", "Calibration", "Cost", "Worth a look"):
        assert heading in text
    assert "1 of 5 questions has no accepted answer" in text


def test_hostile_texts_stay_text():
    attempts = [hostile(t) for t in ATTEMPTS] + [attempt(PARIS, "adaptive", error=HOSTILE)]
    settings = SETTINGS.model_copy(
        update={"model": HOSTILE, "index": HOSTILE, "stopped": HOSTILE, "questions_count": 99, "dropped": (HOSTILE,)}
    )
    found = page(attempts, settings)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") >= 10, "shown, as text"
    assert "{{ 7*7 }}" in found.text, "never read as a template"
    html = render_html(measure(attempts, settings), attempts)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


def test_every_step_of_an_example_is_shown():
    text = page().text
    assert "Capital of Norway?" in text
    assert "Oslo it is" in text
    assert "does not know (20% sure that it knows)" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("attempts", "settings", "absent", "present"),
    [
        pytest.param(
            [t.model_copy(update={"question": t.question.model_copy(update={"answers": ()})}) for t in ATTEMPTS],
            SETTINGS,
            ["Accuracy and what it costs", "Decisions", "Calibration"],
            ["Cost", "No question has an accepted answer"],
            id="no golds",
        ),
        pytest.param(
            [t.model_copy(update={"steps": (), "error": "it is down"}) for t in ATTEMPTS],
            SETTINGS,
            ["Accuracy and what it costs", "Decisions", "Calibration", "Cost"],
            ["Failed attempts", "it is down", "No closed-book attempt was answered"],
            id="all failed",
        ),
        pytest.param(
            [t for t in ATTEMPTS if t.strategy == "direct"],
            SETTINGS.model_copy(update={"strategies": ("direct",)}),
            ["adaptive"],
            ["Decisions", "Calibration"],
            id="closed book only",
        ),
        pytest.param(
            [t for t in ATTEMPTS if t.sample is None],
            SETTINGS.model_copy(update={"samples": 0}),
            ["at least 50%"],
            ["its one closed-book answer is right"],
            id="no samples",
        ),
        pytest.param([t for t in ATTEMPTS if t.question == OSLO], SETTINGS, [], ["100%"], id="one question"),
    ],
)
def test_it_is_whole_in_every_case(attempts, settings, absent, present):
    text = page(attempts, settings).text
    assert not [word for word in absent if word in text]
    assert not [word for word in present if word not in text]


def test_ten_thousand_failures_do_not_make_a_page_of_ten_thousand_rows():
    attempts = [attempt(PARIS.model_copy(update={"id": f"q{i}"}), "direct", error="it is down") for i in range(1500)]
    found = page(attempts)
    assert found.text.count("it is down") == 1000
    assert "And 500 more, all in audit.json." in found.text


SVG = (charts.WIDTH, charts.HEIGHT)
LABEL = re.compile(r'<text class="label" x="([\d.-]+)" y="([\d.-]+)" text-anchor="(start|end)">([^<]*)</text>')


def labels(svg: str) -> list[tuple[float, float, float, str]]:
    """(y, left, right, text) of every label, letters as wide as the chart takes them for."""
    found = []
    for x, y, anchor, text in LABEL.findall(svg):
        left = float(x) - (charts.LETTER * len(text) if anchor == "end" else 0)
        found.append((float(y), left, left + charts.LETTER * len(text), text))
    return sorted(found)


@pytest.mark.parametrize(
    "points",
    [
        [("direct", 0.0, 0.467), ("rag", 1.0, 0.55), ("search", 0.0, 0.467), ("adaptive", 0.0, 0.467)],
        [("direct", 0.0, 0.50), ("rag", 0.01, 0.51), ("search", 0.03, 0.49), ("adaptive", 0.05, 0.50)],
        [("direct", 0.0, 0.0), ("rag", 1.0, 1.0), ("search", 1.0, 0.98), ("adaptive", 0.97, 1.0)],
    ],
)
def test_labels_of_the_chart_do_not_cover_each_other_or_leave_the_chart(points):
    svg = str(accuracy_against_lookups(points))
    boxes = labels(svg)
    assert {name for *_, text in boxes for name in text.split(", ")} == {name for name, *_ in points}
    for y, left, right, _ in boxes:
        assert 0 < y < SVG[1]
        assert 0 <= left < right <= SVG[0]
    for one in boxes:
        for other in boxes:
            if one is not other:
                apart = abs(one[0] - other[0]) >= 15 or one[2] <= other[1] or other[2] <= one[1]
                assert apart, (one, other)


def test_strategies_at_the_same_place_share_one_point():
    svg = str(accuracy_against_lookups([("direct", 0.0, 0.4), ("search", 0.0, 0.4)]))
    assert svg.count("<circle") == 1
    assert "direct, search" in svg


# What a reader sees of a report's plots: texts that leave their drawing, lie over each other, or are hard to read.
UNREADABLE = """() => {
  const found = [], over = (a, b) =>
    a.right > b.left + 1 && b.right > a.left + 1 && a.bottom > b.top + 1 && b.bottom > a.top + 1;
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map((v) => channel(Number(v)));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (const svg of document.querySelectorAll("svg")) {
    const edge = svg.getBoundingClientRect(), scale = edge.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll("text")].map((e) => [e, e.getBoundingClientRect()]);
    for (const [e, box] of texts) {
      if (box.left < edge.left - 1 || box.right > edge.right + 1) found.push(`cut: ${e.textContent}`);
      if (parseFloat(getComputedStyle(e).fontSize) * scale < 10) found.push(`small: ${e.textContent}`);
    }
    texts.forEach(([e, box], i) => texts.slice(i + 1).forEach(([other, its]) => {
      if (!e.matches(".tick, .axis") && over(box, its)) found.push(`${e.textContent} over ${other.textContent}`);
    }));
    for (const e of svg.querySelectorAll(".inbar")) {
      const [a, b] = [light(getComputedStyle(e).fill), light(getComputedStyle(e.previousElementSibling).fill)];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(1)} on ${e.previousElementSibling.classList}`);
    }
  }
  return found;
}"""


def plots(count: int) -> str:
    """The report's plots of so many strategies: of some the numbers differ, and of many they all but agree."""
    names = list(STRATEGIES)[:count]
    lookups = [(name, (i % 4) / 2, 0.4 + 0.1 * (i % 3)) for i, name in enumerate(names)]
    tokens = [(name, 16.0 + 7 * i + 200 * (i % 5 == 4), 0.4 + 0.1 * (i % 3)) for i, name in enumerate(names)]
    uses = ("needed", "wasted", "harmful", "missed", "saved")
    bars = [(name, [(use, 1 + (i + k) % 4) for k, use in enumerate(uses)]) for i, name in enumerate(names)]
    front = [(tokens[0][1], tokens[0][2]), (tokens[1][1], tokens[1][2])]
    drawn = [
        charts.accuracy_against_lookups(lookups),
        charts.accuracy_against_tokens(tokens, front),
    ]
    figures = "".join(f"<figure>{svg}</figure>" for svg in drawn)
    return f'<div class="row">{figures}</div><div class="bars">{charts.stacked_bars(bars)}</div>'


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("count", [2, 4, 8, len(STRATEGIES)])
def test_plots_of_few_and_of_many_strategies_are_readable(launched, count, width, scheme):
    frame = render_html(measure(ATTEMPTS, SETTINGS), ATTEMPTS)
    head, _, _ = frame.partition("<h1>")
    page = launched.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_content(f"{head}{plots(count)}</body></html>")
    assert page.evaluate(UNREADABLE) == []
    said = page.locator("body").inner_text()
    assert [name for name in list(STRATEGIES)[:count] if name not in said] == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    page.close()


def test_no_name_is_crossed_out_by_the_line_of_the_best():
    points = [("direct", 16.0, 0.44), ("search", 16.0, 0.44), ("adaptive", 32.0, 0.44), ("rag", 66.0, 0.61)]
    svg = str(charts.accuracy_against_tokens(points, [(16.0, 0.44), (66.0, 0.61)]))
    (path,) = re.findall(r'<polyline class="ideal" points="([^"]*)"', svg)
    corners = [tuple(map(float, corner.split(","))) for corner in path.split()]
    for y, left, right, text in labels(svg):
        for (x1, y1), (x2, y2) in pairwise(corners):
            beside = max(x1, x2) <= left or min(x1, x2) >= right
            assert beside or max(y1, y2) <= y - 10 or min(y1, y2) >= y + 3, f"{text} is crossed out"


def test_the_report_and_the_list_of_attempts_give_a_use_of_searches_the_same_colour():
    report = files("ken.auditing").joinpath("templates/report.css").read_text(encoding="utf-8")
    pages = files("ken.serving.web").joinpath("static/ken.css").read_text(encoding="utf-8")
    for use in ("needed", "wasted", "harmful", "missed", "saved"):
        colours = [re.findall(rf"--{use}: ?(#[0-9a-f]+)", css) for css in (report, pages)]
        assert len(colours[0]) == 2, "one light, one dark"
        assert colours[0] == colours[1]


def test_a_browser_shows_it_without_overflow(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium to open the page in")
    attempts = [hostile(t) for t in ATTEMPTS]
    path = tmp_path / "audit.html"
    html = render_html(measure(attempts, SETTINGS), attempts).replace("<details>", "<details open>")
    # The page itself allows no script; the test's copy measures how wide its contents are.
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    probe = "<script>document.title = 'width ' + document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    path.write_text(html.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", f"--user-data-dir={tmp_path}/p"]
    shown = subprocess.run(
        [browser, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    width, window = map(int, re.search(r"<title>width (\d+) of (\d+)</title>", shown).groups())  # type: ignore[union-attr]
    assert width <= window


def test_examples_come_worst_kind_first():
    harmful = attempt(
        PARIS, "adaptive", "Lyon", decides=True, knows=False, passages=((Passage(id="d1", text="Lyon!"),),)
    )
    others = [t for t in ATTEMPTS if not (t.strategy == "adaptive" and t.question == PARIS)]
    text = page([*others, harmful]).text
    places = [text.index(f"\n{kind} ") for kind in ("harmful", "missed", "wasted", "malformed")]
    assert all(a < b for a, b in pairwise(places))
