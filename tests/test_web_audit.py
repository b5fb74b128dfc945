"""The page Audit, in a real browser: from questions to a report, to every attempt's trace, to a comparison; and what
happens when it is cancelled, the server ends, or two start at once."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading

import httpx
import pytest
from browser import PHONE, SECONDS, faults
from capitals import CAPITALS, KNOWN, QUESTIONS, build_index, reply, serve, write_questions
from faulty_server import FaultyServer, Hang
from running import ken_serve, running

import ken
from ken.core import ModelError, Question
from ken.models.scripted import ScriptedModel
from ken.serving.audits import Order
from ken.serving.service import Service

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script></select>"
ATTEMPTS = len(QUESTIONS) * (4 + 2)  # four strategies, two closed-book samples


def capitals(prompt: str) -> str:
    instruction, said = prompt.split("\n\n", 1)
    return reply([{"content": instruction}, {"content": said}])


class Gated(ScriptedModel):
    """Answers so many calls, then none until the test opens the gate."""

    def __init__(self, answers: int):
        super().__init__(capitals, spec="openai/capitals")
        self.left, self.waits, self._open = answers, threading.Event(), asyncio.Event()

    async def generate(self, conversation, **settings):
        self._loop = asyncio.get_running_loop()
        if self.left <= 0:
            self.waits.set()
            await self._open.wait()
        self.left -= 1
        return await super().generate(conversation, **settings)

    def open(self):
        self._loop.call_soon_threadsafe(self._open.set)


def make_service(tmp_path, *models):
    folder = tmp_path / "index"
    if not folder.exists():
        build_index(folder)
        (tmp_path / "data" / "questions").mkdir(parents=True)
        write_questions(tmp_path / "data" / "questions" / "capitals.jsonl")
    models = models or (ScriptedModel(capitals, spec="openai/capitals"),)
    return Service(models, indexes={"capitals": folder}, data=tmp_path / "data")


@pytest.fixture
def service(tmp_path):
    return make_service(tmp_path)


def order(page, name, **fields):
    if not page.locator("details.order").get_attribute("open") is not None:
        page.get_by_text("New audit").click()
    page.get_by_label("Name of the audit").fill(name)
    page.get_by_label("Closed-book samples").fill("2")
    for label, value in fields.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Start").click()


def audit(page, name, **fields):
    order(page, name, **fields)
    page.locator(".report").wait_for()


def test_an_audit_runs_to_its_report_and_every_attempt_can_be_looked_at(chromium, served, service):
    page = chromium.page(served(service) + "/audit")
    assert page.get_by_text("No audit yet.").is_visible()
    audit(page, "first")
    report = page.locator(".report")
    assert "The model can answer 50% of the questions alone" in report.inner_text()
    assert report.locator("svg").count() >= 2
    row = report.get_by_role("row").filter(has_text="adaptive").first.inner_text()
    assert "1.000" in row
    assert (service.data / "audits" / "first" / "run" / "audit.html").is_file()

    page.get_by_role("link", name="Every attempt").click()
    assert page.get_by_text("32 attempts").is_visible()
    page.get_by_label("Strategy").select_option("rag")
    page.get_by_label("Searches and answers").select_option("wasted")
    page.get_by_role("button", name="Show").click()
    assert page.get_by_text(re.compile(r"^4 attempts")).is_visible()
    assert {link.inner_text() for link in page.locator("td a").all()} == {
        q.text for q in QUESTIONS if q.answers[0] in {CAPITALS[land] for land in KNOWN}
    }
    page.get_by_label("Words in question or answer").fill("lima")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="What is the capital of Peru?").click()

    assert page.get_by_role("heading", name="What is the capital of Peru?").is_visible()
    assert "100% of its closed-book samples are right" in page.locator("main").inner_text()
    rag = page.get_by_role("region", name="rag")
    rag.locator(".steps").wait_for()
    assert rag.locator("mark").first.inner_text() == "Lima"
    assert "wasted: searched though it could answer alone" in rag.inner_text()
    adaptive = page.get_by_role("region", name="adaptive")
    assert "knows" in adaptive.locator(".facts").inner_text()
    page.get_by_role("link", name="question before").click()
    assert page.get_by_role("heading", name="What is the capital of Peru?").count() == 0


def test_progress_is_shown_and_an_audit_is_cancelled_and_goes_on(chromium, served, tmp_path):
    model = Gated(answers=20)
    page = chromium.page(served(make_service(tmp_path, model)) + "/audit")
    order(page, "long")
    assert model.waits.wait(SECONDS)
    page.get_by_text(re.compile(rf"^[1-9]\d* of {ATTEMPTS} attempts")).wait_for()
    assert page.locator("progress").get_attribute("max") == str(ATTEMPTS)
    page.reload()  # it does not depend on the page
    page.get_by_text(re.compile(rf"^[1-9]\d* of {ATTEMPTS} attempts")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Go on").wait_for()
    assert page.locator(".badge", has_text="cancelled").is_visible()
    answered = len((tmp_path / "data/audits/long/run/trajectories.jsonl").read_text().splitlines())
    assert 0 < answered < ATTEMPTS
    told = page.locator("main").inner_text()  # to go on is a button here, and no command
    assert "“Go on” goes on from here." in told
    assert "ken audit" not in told
    assert "same command" not in told
    bar = page.locator(".bar", has=page.get_by_role("button", name="Go on"))
    assert bar.get_by_role("link", name="Every attempt").is_visible()
    model.open()
    page.get_by_role("button", name="Go on").click()
    page.locator(".report").wait_for()
    assert page.locator(".badge", has_text="done").is_visible()
    assert len((tmp_path / "data/audits/long/run/trajectories.jsonl").read_text().splitlines()) == ATTEMPTS


def test_a_server_that_is_away_is_told_on_the_page_of_a_running_audit_until_it_is_back(chromium, served, tmp_path):
    model = Gated(answers=20)
    page = chromium.page(served(make_service(tmp_path, model)) + "/audit")
    order(page, "long")
    assert model.waits.wait(SECONDS)
    page.route("**/events", lambda route: route.abort("connectionrefused"))
    page.reload()
    assert page.get_by_role("alert").inner_text().startswith("The server does not answer.")
    page.unroute("**/events")
    page.get_by_role("alert").wait_for(state="detached")
    model.open()
    page.locator(".report").wait_for()
    assert chromium.problems
    chromium.problems.clear()  # chromium logs that it could not load


def test_an_audit_goes_on_after_a_restart_of_the_server(chromium, tmp_path):
    model = Gated(answers=20)
    with running(make_service(tmp_path, model)) as address:
        order(chromium.page(address + "/audit"), "night")
        assert model.waits.wait(SECONDS)
        chromium.close_pages()
    log = tmp_path / "data/audits/night/run/trajectories.jsonl"
    before = log.read_text()
    assert 0 < len(before.splitlines()) < ATTEMPTS
    with running(make_service(tmp_path)) as address:
        page = chromium.page(address + "/audit/night")
        page.locator(".report").wait_for()
        assert page.locator(".badge", has_text="done").is_visible()
    assert log.read_text().startswith(before), "what was answered was asked again"
    assert len(log.read_text().splitlines()) == ATTEMPTS


@pytest.mark.slow
def test_an_audit_goes_on_after_the_server_was_killed(chromium, tmp_path):
    """`ken serve`, killed with the signal that cannot be caught."""
    make_service(tmp_path)
    held, released = threading.Event(), threading.Event()

    def plan(number, payload):
        if number < 20 or released.is_set():
            return serve(number, payload)
        held.set()
        return Hang()

    arguments = (
        "--model",
        "openai/m",
        "--upstream-key",
        "k",
        "--index",
        tmp_path / "index",
        "--data",
        tmp_path / "data",
    )
    with FaultyServer(plan) as upstream:
        with ken_serve(*arguments, "--base-url", upstream.base_url, folder=tmp_path) as server:
            order(chromium.page(server.address + "/audit"), "night")
            assert held.wait(SECONDS)
            server.process.kill()
            server.process.wait()
        chromium.close_pages()
        log = tmp_path / "data/audits/night/run/trajectories.jsonl"
        before = log.read_text()
        released.set()
        with ken_serve(*arguments, "--base-url", upstream.base_url, folder=tmp_path) as server:
            page = chromium.page(server.address + "/audit/night")
            page.locator(".report").wait_for()
    assert log.read_text().startswith(before)
    assert len(log.read_text().splitlines()) == ATTEMPTS


def test_two_audits_are_compared(chromium, served, tmp_path):
    forgetful = ScriptedModel(lambda prompt: re.sub("Lima|Oslo", "Atlantis", capitals(prompt)), spec="openai/forgetful")
    page = chromium.page(
        served(make_service(tmp_path, ScriptedModel(capitals, spec="openai/capitals"), forgetful)) + "/audit"
    )
    audit(page, "good")
    page.get_by_role("link", name="All audits").click()
    page.get_by_text("New audit").click()
    page.get_by_label("Model", exact=True).select_option("openai/forgetful")
    audit(page, "bad")
    page.get_by_role("link", name="All audits").click()
    page.get_by_label("Compare", exact=True).select_option("good")
    page.get_by_label("with", exact=True).select_option("bad")
    page.get_by_role("button", name="Compare").click()
    assert page.get_by_text("8 questions were asked in both").is_visible()
    rag = page.locator("h2", has_text="rag").locator("xpath=following-sibling::div[1]")
    cells = rag.get_by_role("row", name="exact match").get_by_role("cell").all_inner_texts()
    assert cells[:3] == ["1.000", "0.750", "-0.250"]
    assert re.fullmatch(r"\[-0\.\d+, [+-]0\.\d+\]", cells[3])
    phone = chromium.page(page.url, size=PHONE)
    for number in range(phone.locator("table.figures tbody tr").count()):  # nothing of a row is beyond the edge
        for cell in phone.locator("table.figures tbody tr").nth(number).locator("th, td").all():
            box = cell.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE[0]
    page.get_by_label("Strategy").select_option("direct")
    page.get_by_role("button", name="Show").click()
    assert page.get_by_text(re.compile(r"^2 attempts")).is_visible()
    page.locator("td a", has_text="Atlantis").first.click()
    assert page.get_by_role("heading", level=1).inner_text() in {
        "What is the capital of Peru?",
        "What is the capital of Norway?",
    }


def test_questions_are_uploaded_and_kept_to_be_picked_again(chromium, served, service):
    page = chromium.page(served(service) + "/audit")
    lines = "".join(json.dumps({"question": q.text, "golden_answers": q.answers}) + "\n" for q in QUESTIONS[:3])
    page.get_by_label("or upload a file").set_input_files(
        [{"name": "mine.jsonl", "mimeType": "", "buffer": lines.encode()}]
    )
    assert page.get_by_label("Questions", exact=True).input_value() == ""
    audit(page, "uploaded")
    assert "3 questions" in page.locator(".report").inner_text()
    page.get_by_role("link", name="All audits").click()
    assert "mine.jsonl" in page.get_by_label("Questions", exact=True).text_content()


def test_broken_questions_are_named_without_the_servers_path_and_are_not_in_the_way_of_mended_ones(
    chromium, served, service
):
    page = chromium.page(served(service) + "/audit")

    def send(content):
        page.get_by_label("or upload a file").set_input_files(
            [{"name": "mine.jsonl", "mimeType": "", "buffer": content.encode()}]
        )
        order(page, "mine")

    send('{"question": 3}\n')
    said = page.get_by_role("alert").inner_text()
    assert said.startswith("mine.jsonl:1: expected 'question' to be a string")
    assert str(service.data) not in page.content().replace(f"<code>{service.data / 'questions'}</code>", "")
    offered = page.get_by_label("Questions", exact=True).locator("option").all_inner_texts()
    assert offered == ["capitals.jsonl", "none of these: upload one"]
    assert sorted(path.name for path in (service.data / "questions").iterdir()) == ["capitals.jsonl"]
    send('{"question": "What is the capital of Peru?", "golden_answers": ["Lima"]}\n')
    page.locator(".report").wait_for()
    assert "mine.jsonl" in page.locator("main").inner_text()


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (("bad.jsonl", b'{"question": 1}\n'), "bad.jsonl:1: expected 'question' to be a string"),
        (("empty.jsonl", b""), "holds no questions"),
        (("a.exe", b"x"), "is no file of questions"),
        (("../../a.jsonl", b'{"question": "x"}\n'), "is a path"),
        (("twice.jsonl", b'{"id": "a", "question": "x"}\n{"id": "a", "question": "y"}\n'), "was used before"),
    ],
)
def test_questions_that_cannot_be_read_are_said_and_the_form_keeps_what_was_typed(served, service, file, says):
    refused = httpx.post(
        served(service) + "/audit",
        data={
            "name": "my-audit",
            "model": "openai/capitals",
            "index": "capitals",
            "strategies": ["rag"],
            "samples": "3",
        },
        files={"upload": file},
    )
    assert refused.status_code == 400
    assert says in refused.text.replace("&#39;", "'")
    assert 'value="my-audit"' in refused.text
    assert 'name="samples" type="number" min="0" max="1000" value="3"' in refused.text
    assert not list((service.data / "audits").glob("*"))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "../up"}, "cannot be a name"),
        ({"name": ""}, "cannot be a name"),
        ({"name": "compare"}, "choose another name"),
        ({"questions": "../order.json"}, "choose a file of questions"),
        ({"questions": ""}, "choose a file of questions"),
        ({"model": "openai/none"}, "this server has no model"),
        ({"index": "none"}, "this server has no index"),
        ({"index": ""}, "no index was given"),
        ({"strategies": ["none"]}, "this server has no strategy"),
        ({"samples": "-1"}, "give a whole number"),
        ({"top_k": "0"}, "give a whole number"),
        ({"limit": "many"}, "give a whole number"),
    ],
)
def test_an_order_that_cannot_work_is_refused_with_a_sentence(served, service, changed, says):
    fields = {"name": "a", "questions": "capitals.jsonl", "model": "openai/capitals", "index": "capitals"}
    refused = httpx.post(
        served(service) + "/audit", data={**fields, "strategies": ["rag"], **changed}, files={"upload": ("", b"")}
    )
    assert refused.status_code == 400
    assert says in refused.text.replace("&#39;", "'")
    assert not list((service.data / "audits").glob("*"))


def test_two_runs_of_one_audit_are_refused(chromium, served, tmp_path):
    model = Gated(answers=5)
    address = served(make_service(tmp_path, model))
    order(chromium.page(address + "/audit"), "one")
    assert model.waits.wait(SECONDS)
    again = httpx.post(address + "/audit/one/resume")
    assert again.status_code == 409
    assert "running already" in again.text
    second = chromium.page(address + "/audit")
    order(second, "one")
    assert "there is an audit 'one' already" in second.get_by_role("alert").inner_text()
    assert second.get_by_label("Name of the audit").input_value() == "one"


def test_two_servers_do_not_write_into_one_audit(served, tmp_path):
    model = Gated(answers=5)
    first, fields = (
        served(make_service(tmp_path, model)),
        {"name": "one", "questions": "capitals.jsonl", "strategies": ["direct"]},
    )
    assert httpx.post(first + "/audit", data=fields, files={"upload": ("", b"")}).status_code == 303
    assert model.waits.wait(SECONDS)
    second = served(make_service(tmp_path))  # it would go on with the audit
    with httpx.Client(follow_redirects=True) as client:
        while "another audit is writing" not in (said := client.get(second + "/audit/one").text):
            assert "standing" in said


def test_a_model_that_is_down_stops_the_audit_and_says_why(chromium, served, tmp_path):
    def down(prompt):
        raise ModelError("openai/down did not answer (connection refused)")

    questions = [Question(id=str(n), text=f"What is {n}?", answers=("x",)) for n in range(30)]
    service = make_service(tmp_path, ScriptedModel(down, spec="openai/down"))
    write_questions(service.data / "questions" / "capitals.jsonl", questions)
    page = chromium.page(served(service) + "/audit")
    order(page, "down")
    page.locator(".badge", has_text="stopped").wait_for()
    assert "failed 20 times in a row" in page.locator(".error").first.inner_text()
    assert page.get_by_role("button", name="Go on").is_visible()


def test_what_questions_models_and_documents_say_stays_text(chromium, served, tmp_path):
    said = f"<think> {HOSTILE} </think><answer> {HOSTILE} </answer>"
    service = make_service(tmp_path, ScriptedModel(lambda _: said, spec=f"openai/{HOSTILE}"))
    write_questions(
        service.data / "questions" / "capitals.jsonl",
        [Question(id=HOSTILE, text=f"capital {HOSTILE}", answers=(HOSTILE,))],
    )
    page = chromium.page(served(service) + "/audit")
    audit(page, "hostile")
    seen = [page.content()]
    page.get_by_role("link", name="Every attempt").click()
    page.locator("td a").first.click()
    page.locator(".steps").first.wait_for()
    assert page.locator(".answer-text").first.inner_text() == HOSTILE
    assert page.locator("main img, main script:not([type='application/json'])").count() == 0
    assert "owned" not in page.title().replace(HOSTILE[:40], "")
    assert "<img src=x" not in seen[0]


def test_an_audit_made_at_the_prompt_is_shown_beside_the_others(chromium, served, service, tmp_path):
    model = ScriptedModel(capitals, spec="openai/capitals")
    ken.audit(QUESTIONS, model=model, out=tmp_path / "out", strategies="direct", samples=1)
    (service.data / "audits").mkdir()
    shutil.copytree(tmp_path / "out", service.data / "audits" / "by-hand")
    page = chromium.page(served(service) + "/audit")
    page.get_by_role("link", name="by-hand").click()
    assert "openai/capitals" in page.locator("main").inner_text()
    assert page.locator(".report").is_visible()


def test_broken_folders_and_unknown_names_are_said_and_not_a_crash(served, service):
    folder = service.data / "audits"
    (folder / "broken" / "run").mkdir(parents=True)
    (folder / "broken" / "order.json").write_text("{")
    (folder / "log" / "run").mkdir(parents=True)
    good = Order(questions="q.jsonl", source="q.jsonl", model="m", strategies=("direct",), state="done")
    (folder / "log" / "order.json").write_text(good.model_dump_json())
    (folder / "log" / "run" / "run.json").write_text("nonsense")
    (folder / "log" / "run" / "trajectories.jsonl").write_text("nonsense\n")
    address = served(service)
    assert "cannot be read" in httpx.get(address + "/audit").text
    for path in ("/audit/broken", "/audit/log", "/audit/none", "/audit/log/question?id=x", "/audit/none/questions"):
        refused = httpx.get(address + path, headers={"Accept": "text/html"})
        assert refused.status_code == 404
        assert "Back to the start" in refused.text
    assert httpx.get(address + "/audit/compare?a=log&b=none").status_code == 400
    assert httpx.get(address + "/audit/%2e%2e%2findexes").status_code == 404
    assert httpx.get(address + "/audit/none/events").status_code == 404
    assert httpx.post(address + "/audit/none/cancel").status_code == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_fit_a_phone_and_have_names_for_all(chromium, served, service, scheme):
    address = served(service)
    page = chromium.page(address + "/audit", size=PHONE, scheme=scheme)
    assert faults(page) == []
    audit(page, "one")
    assert faults(page) == []
    page.goto(address + "/audit")
    audit(page, "two")
    for path in ("/audit", "/audit/one/questions", "/audit/one/question?id=peru", "/audit/compare?a=one&b=two"):
        page.goto(address + path)
        assert faults(page) == []
