"""The page Ask, in a real browser: an answer and how it came about, live; files that become an index; and what goes
wrong is said where it happens."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import zlib
from pathlib import Path

import httpx
import pytest
from browser import DESK, PHONE, SECONDS, faults
from capitals import CAPITALS, build_index, reply, serve
from faulty_server import FaultyServer
from running import ken_serve, running

import ken
from ken.agents import STRATEGIES
from ken.core import ModelError, Passage
from ken.models.scripted import ScriptedModel
from ken.serving import uploads
from ken.serving.access import Access
from ken.serving.service import Service
from ken.sources.graph.store import TripleStore

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script></textarea>&lt;b&gt;"


def capitals(prompt: str) -> str:
    instruction, said = prompt.split("\n\n", 1)
    return reply([{"content": instruction}, {"content": said}])


class Held(ScriptedModel):
    """Answers only when the test lets it, and notes when it was stopped."""

    def __init__(self, reply):
        super().__init__(reply, spec="openai/held")
        self.asked, self.stopped, self._let = threading.Event(), threading.Event(), asyncio.Event()

    async def generate(self, conversation, **settings):
        self._loop = asyncio.get_running_loop()
        self.asked.set()
        try:
            await self._let.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return await super().generate(conversation, **settings)

    def let(self):
        self._loop.call_soon_threadsafe(self._let.set)


@pytest.fixture
def service(tmp_path):
    return Service(
        [
            ScriptedModel(capitals, spec="openai/capitals"),
            ScriptedModel(lambda _: "<answer> 42 </answer>", spec="openai/other"),
        ],
        indexes={"capitals": build_index(tmp_path / "index")},
        data=tmp_path / "data",
    )


def send(page, text):
    page.locator("#send:enabled").wait_for()  # the script is there
    page.get_by_label("Question", exact=True).fill(text)
    page.keyboard.press("Enter")


def ask(page, text):
    send(page, text)
    exchange = page.locator(".exchange").last
    exchange.get_by_role("heading", name=text).wait_for()
    exchange.locator(".reply:not([aria-busy])").wait_for()
    return exchange


def test_an_answer_comes_with_its_decision_its_search_its_passages_and_its_cost(chromium, served, service):
    page = chromium.page(served(service) + "/ask")
    exchange = ask(page, "What is the capital of Nepal?")
    assert exchange.locator(".answer-text").inner_text() == "Kathmandu"
    facts = exchange.locator(".facts").inner_text()
    assert "does not know" in facts
    assert "1 search" in facts
    assert "tokens" in facts
    kinds = exchange.locator(".step .kind").all_inner_texts()
    assert kinds == ["decision", "search", "found", "thought", "answer"]
    assert "I recall maps." in exchange.locator(".step.decision").inner_text()
    assert exchange.locator(".query").inner_text() == "capital of Nepal"
    first = exchange.locator(".passage").first
    assert "The capital of Nepal is Kathmandu." in first.inner_text()
    assert first.locator("mark").all_inner_texts() == ["Kathmandu"]
    assert page.get_by_role("status").first.inner_text() == "Answer: Kathmandu"

    known = ask(page, "What is the capital of Peru?")
    assert known.locator(".answer-text").inner_text() == "Lima"
    assert "no search" in known.locator(".facts").inner_text()
    assert page.locator(".exchange").count() == 2


def test_strategy_model_and_index_are_picked(chromium, served, service, tmp_path):
    ken.Index.build([Passage(id="moon", text="The capital of Nepal is Luna.")], tmp_path / "moon")
    service.indexes["moon"] = tmp_path / "moon"
    page = chromium.page(served(service) + "/ask")
    page.get_by_label("Strategy").select_option("rag")
    assert "retrieves once" in page.locator("#words").inner_text()
    page.get_by_label("Index", exact=True).select_option("moon")
    exchange = ask(page, "What is the capital of Nepal?")
    assert exchange.locator(".answer-text").inner_text() == "Luna"
    assert "rag · openai/capitals · moon" in exchange.inner_text()
    page.get_by_label("Model").select_option("openai/other")
    page.get_by_label("Strategy").select_option("direct")
    assert ask(page, "What is the capital of Nepal?").locator(".answer-text").inner_text() == "42"


def test_every_strategy_that_is_offered_says_what_it_does(chromium, served, service):
    every = Service(service.models.values(), graph=TripleStore.of([]), data=service.data, offered=list(STRATEGIES))
    page = chromium.page(served(every) + "/ask")
    said = page.locator("#strategy option").evaluate_all("all => all.map(o => [o.value, o.dataset.words])")
    assert {name for name, _ in said} == set(STRATEGIES)
    assert [name for name, words in said if not words] == []
    assert page.locator("#strategy > option").count() == 0, "one is in no group"


def test_a_strategy_without_words_is_offered_with_its_name_alone(chromium, served, service, monkeypatch):
    monkeypatch.setitem(STRATEGIES, "of-ones-own", STRATEGIES["direct"])
    own = Service(service.models.values(), data=service.data, offered=["direct", "of-ones-own"])
    page = chromium.page(served(own) + "/ask")
    page.get_by_label("Strategy").select_option("of-ones-own")
    assert page.locator("#words").inner_text() == ""


UNDER_THE_COMPOSER = """() => {
  const [focus, over] = [document.activeElement, document.querySelector(".composer")];
  if (focus === document.body || over.contains(focus)) return null; // the body: no element has it
  const [a, b] = [focus.getBoundingClientRect(), over.getBoundingClientRect()];
  const hidden = a.top < b.bottom && b.top < a.bottom && a.left < b.right && b.left < a.right;
  return hidden ? focus.outerHTML.slice(0, 80) : null;
}"""


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("key", ["Tab", "Shift+Tab"])
def test_what_has_the_focus_is_never_behind_the_composer(chromium, served, service, key, size):
    page = chromium.page(served(service) + "/ask", size=size)
    page.locator("#settings").evaluate("settings => { settings.open = true; }")
    page.get_by_label("Strategy").select_option("ircot")
    for land in ("Nepal", "Ghana", "Cuba"):
        ask(page, f"What is the capital of {land}?")
    asked = page.locator(".exchange").last.get_by_role("heading").bounding_box()["y"]
    assert 50 < asked < 150, "the newest question does not stand at the top of the window"
    page.keyboard.type("and what else?")
    assert page.locator(".exchange").last.get_by_role("heading").bounding_box()["y"] == asked, "typing scrolls the page"
    page.locator("details.how").evaluate_all("all => all.forEach(how => { how.open = true; })")
    passages = page.locator(".passage summary").count()
    assert passages >= 6
    page.locator("#question").focus()
    seen, hidden = set(), []
    for _ in range(3 * passages + 40):
        page.keyboard.press(key)
        if under := page.evaluate(UNDER_THE_COMPOSER):
            hidden.append(under)
        seen.add(page.evaluate("[...document.querySelectorAll('.passage summary')].indexOf(document.activeElement)"))
    assert seen >= set(range(passages)), "the keys did not walk through all"
    assert hidden == []


def test_a_wrong_number_in_the_closed_settings_is_shown_and_not_silence(chromium, served, service):
    page = chromium.page(served(service) + "/ask", size=PHONE)
    page.locator("#send:enabled").wait_for()
    page.locator("#settings > summary").click()
    page.get_by_label("Passages").fill("0")
    page.locator("#settings > summary").click()
    assert page.get_by_label("Passages").is_hidden()
    send(page, "What is the capital of Peru?")
    page.locator("#settings[open]").wait_for()
    assert page.evaluate("document.activeElement.id") == "top_k"  # where the browser says what is wrong with it
    assert page.locator(".exchange").count() == 0
    assert page.get_by_label("Question", exact=True).input_value() == "What is the capital of Peru?"


def test_an_answer_without_a_word_is_told_to_be_none(chromium, served, service):
    mute = Service([ScriptedModel(lambda _: "")], indexes=service.indexes, data=service.data)
    page = chromium.page(served(mute) + "/ask")
    page.get_by_label("Strategy").select_option("tree")  # which takes what it was told, and that is ""
    exchange = ask(page, "What is the capital of Peru?")
    assert exchange.locator(".answer-text").inner_text() == "It gave no answer."
    assert page.get_by_role("status").first.inner_text() == "It gave no answer."
    assert exchange.locator(".step.malformed").count() > 0
    assert exchange.locator(".step pre:empty, .step .words:empty").count() == 0
    page.reload()
    assert page.locator(".answer-text").inner_text() == "It gave no answer."


def test_steps_show_as_they_come_and_stop_stops_the_model(chromium, served, tmp_path):
    model = Held(capitals)
    page = chromium.page(served(Service([model], data=tmp_path)) + "/ask")
    assert page.get_by_label("Strategy").input_value() == "direct"  # the others search, and there is no index
    page.get_by_label("Question", exact=True).fill("What is the capital of Peru?")
    page.get_by_role("button", name="Ask", exact=True).click()
    assert model.asked.wait(SECONDS)
    assert page.locator(".answer-text").inner_text() == "Waiting for the model …"
    page.get_by_role("button", name="Stop").click()
    assert model.stopped.wait(SECONDS), "the attempt went on"
    page.get_by_text("Stopped.").wait_for()
    model.asked.clear()
    page.get_by_role("button", name="Ask again").click()
    assert model.asked.wait(SECONDS)
    model.let()
    page.locator(".exchange").last.get_by_text("Lima").first.wait_for()


def test_a_follow_up_is_read_with_what_was_said_before(chromium, served, tmp_path):
    def talk(prompt):
        if "<rewrite>" in prompt:
            assert "Q1: What is the capital of Peru?\nA1: Lima" in prompt
            return "<think> Japan </think>\n<rewrite>What is the capital of Japan?</rewrite>"
        return capitals(prompt)

    page = chromium.page(served(Service([ScriptedModel(talk)], data=tmp_path)) + "/ask")
    ask(page, "What is the capital of Peru?")
    page.get_by_label("Follow-up").check()
    follow_up = ask(page, "And of Japan?")
    assert follow_up.locator(".answer-text").inner_text() == "Tokyo"
    assert "asked as: What is the capital of Japan?" in follow_up.inner_text()


def test_text_shows_while_it_is_written(chromium, served, tmp_path):
    class Slow(Held):
        """Says the beginning of its answer at once."""

        async def generate(self, conversation, *, on_text=None, **settings):
            on_text("<think> old maps </think><answer> Li")
            answer = await super().generate(conversation, **settings)
            on_text("ma </answer>")
            return answer

    model = Slow(lambda _: "<think> old maps </think><answer> Lima </answer>")
    page = chromium.page(served(Service([model], data=tmp_path)) + "/ask")
    send(page, "What is the capital of Peru?")
    page.locator(".answer-text").get_by_text("Li", exact=True).wait_for()
    assert page.locator(".step.live .kind").inner_text() == "answering"
    model.let()
    page.locator(".answer-text").get_by_text("Lima", exact=True).wait_for()


def test_closing_the_page_stops_the_model(chromium, served, tmp_path):
    model = Held(capitals)
    page = chromium.page(served(Service([model], data=tmp_path)) + "/ask")
    send(page, "What is the capital of Peru?")
    assert model.asked.wait(SECONDS)
    page.close()
    assert model.stopped.wait(SECONDS)


def test_what_a_document_or_a_model_says_stays_text(chromium, served, tmp_path):
    ken.Index.build([Passage(id=f"doc {HOSTILE}", title=HOSTILE, text=f"capital {HOSTILE}")], tmp_path / "index")
    said = f"<think> {HOSTILE} </think><answer> {HOSTILE} </answer>"
    service = Service([ScriptedModel(lambda _: said, spec="m")], indexes={HOSTILE: tmp_path / "index"}, data=tmp_path)
    page = chromium.page(served(service) + "/ask")
    page.get_by_label("Strategy").select_option("rag")
    exchange = ask(page, f"capital {HOSTILE}")
    assert exchange.locator(".answer-text").inner_text() == HOSTILE
    assert exchange.locator(".passage p").first.inner_text() == f"capital {HOSTILE}"
    assert page.locator("main img, main script").count() == 0
    page.reload()  # what was kept is drawn again, by the same rules
    assert page.locator(".answer-text").inner_text() == HOSTILE
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Ask · Ken"


def test_a_model_that_fails_is_said_in_place_and_the_question_is_not_lost(chromium, served, tmp_path):
    def fail(prompt):
        raise ModelError("openai/m did not answer; is the server up?")

    page = chromium.page(served(Service([ScriptedModel(fail)], data=tmp_path)) + "/ask")
    exchange = ask(page, "Who?")
    assert exchange.get_by_role("alert").inner_text() == "openai/m did not answer; is the server up?"
    assert page.get_by_label("Question", exact=True).input_value() == "Who?"


def test_a_server_that_is_gone_is_said_in_place(chromium, service):
    with running(service) as address:
        page = chromium.page(address + "/ask")
        page.locator("#send:enabled").wait_for()
    exchange = ask(page, "What is the capital of Peru?")
    assert "cannot be reached" in exchange.get_by_role("alert").inner_text()
    assert page.get_by_label("Question", exact=True).input_value() == "What is the capital of Peru?"
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in chromium.close_pages())


def test_without_its_script_the_page_says_so_and_sends_nothing(chromium, served, service):
    page = chromium.page(served(service) + "/ask", script=False)
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    page.get_by_label("Question", exact=True).fill("What is the capital of Peru?")
    assert page.get_by_role("button", name="Ask", exact=True).is_disabled()
    page.get_by_label("Passages").press("Enter")  # a browser sends a form so, were it one that is sent
    assert page.get_by_label("Question", exact=True).input_value() == "What is the capital of Peru?"
    assert page.url.endswith("/ask")


def test_a_server_without_a_model_says_how_to_start_it(chromium, served, tmp_path):
    page = chromium.page(served(Service([], data=tmp_path)) + "/ask")
    assert "ken serve --model" in page.locator(".error").inner_text()
    assert "Ask something" not in page.locator("main").inner_text()
    assert page.get_by_role("button", name="Ask", exact=True).is_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_goes_by_keyboard(chromium, served, service, scheme):
    page = chromium.page(served(service) + "/ask", size=PHONE, scheme=scheme)
    page.locator("#send:enabled").wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "question":
            break
    page.keyboard.type("What is the capital of Nepal?")
    page.keyboard.press("Enter")
    page.locator(".reply:not([aria-busy])").wait_for()
    assert page.evaluate("document.activeElement.id") == "question"
    page.get_by_text("How it came to this").click()
    page.get_by_text("Add documents").click()
    assert faults(page) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ('{"question": 1}', 400),
        ('{"question": "x", "unknown": 1}', 400),
        ('{"question": "x", "top_k": 0}', 400),
        ('{"question": "' + "x" * (1 << 20) + '"}', 413),
        ('{"question": "x", "history": [{"query": 1}]}', 400),
    ],
)
def test_a_broken_request_gets_one_sentence(served, service, body, status):
    refused = httpx.post(served(service) + "/ask/stream", content=body)
    assert refused.status_code == status
    assert refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "asked",
    [{"strategy": "none"}, {"model": "none"}, {"index": "none"}, {"question": "  "}],
    ids=lambda a: next(iter(a)),
)
def test_what_cannot_be_asked_ends_the_stream_with_a_sentence(served, service, asked):
    answered = httpx.post(served(service) + "/ask/stream", json={"question": "Who?", **asked})
    assert answered.headers["content-type"].startswith("text/event-stream")
    assert answered.text.startswith("event: failed\n")


# --- uploads ---


def upload(page, name, *files):
    if not page.locator("#documents").get_attribute("open"):
        page.locator("#documents").evaluate("details => { details.open = true; }")
    page.get_by_label("Files", exact=True).set_input_files([{"name": n, "mimeType": "", "buffer": b} for n, b in files])
    page.get_by_label("Name of the index").fill(name)
    page.get_by_role("button", name="Build").click()
    page.locator("#uploaded > *").first.wait_for()
    return page.locator("#uploaded").inner_text()


def test_uploaded_files_become_an_index_that_can_be_asked_at_once_and_after_a_restart(chromium, tmp_path):
    def fresh():
        return Service([ScriptedModel(capitals, spec="m")], data=tmp_path / "data")

    table = "".join(
        f'{{"id": "{land}", "contents": "The capital of {land} is {city}."}}\n' for land, city in CAPITALS.items()
    )
    with running(fresh()) as address:
        page = chromium.page(address + "/ask")
        said = upload(
            page,
            "моё-дело",
            ("lands.jsonl", table.encode()),
            ("a.md", b"# Atlantis\nIt sank."),
            ("b.html", b"<p>Hello</p>"),
        )
        assert said == "The index моё-дело is ready and chosen: 10 documents, 10 passages."
        assert page.get_by_label("Index", exact=True).input_value() == "моё-дело"
        assert page.get_by_label("Strategy").input_value() == "adaptive"
        assert ask(page, "What is the capital of Cuba?").locator(".answer-text").inner_text() == "Havana"
    with running(fresh()) as address:
        page = chromium.page(address + "/ask")
        assert ask(page, "What is the capital of Cuba?").locator(".answer-text").inner_text() == "Havana"


BOMB = b"""%%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/Contents 4 0 R>>endobj
4 0 obj<</Length %d/Filter/FlateDecode>>stream
%s
endstream endobj
trailer<</Root 1 0 R>>
"""


def bomb() -> bytes:
    """A pdf of some hundred kilobytes whose page unpacks to a quarter of a gigabyte."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(256)) + packer.flush()
    return BOMB % (len(packed), packed)


def test_files_that_cannot_be_read_are_named_and_nothing_is_left(chromium, served, service):
    page = chromium.page(served(service) + "/ask")
    good = ("good.txt", b"The capital of Peru is Lima.")
    assert upload(page, "broken", good, ("bad.pdf", b"%PDF-1.4 nonsense")).startswith(
        "bad.pdf:1: the pdf cannot be read"
    )
    assert upload(page, "broken", good, ("latin.txt", "é".encode("latin-1"))).startswith("latin.txt:1: not UTF-8")
    assert upload(page, "broken", good, ("rows.jsonl", b'{"id": 1}\n')).startswith("rows.jsonl:1: expected the key")
    assert "bomb.pdf" in upload(page, "broken", good, ("bomb.pdf", bomb()))
    assert list((service.data / "indexes").iterdir()) == []
    assert list(service.indexes) == ["capitals"]
    page.get_by_label("Leave out files that cannot be read").check()
    assert "ready and chosen: 1 document, 1 passage." in upload(page, "broken", good, ("bad.pdf", b"%PDF-1.4 nonsense"))
    assert "bad.pdf:1: the pdf cannot be read" in page.locator("#uploaded").inner_text()


@pytest.mark.parametrize(
    ("name", "file", "says"),
    [
        ("new", "../../evil.txt", "is a path"),
        ("new", "a\\b.txt", "is a path"),
        ("new", ".hidden.md", "cannot be used"),
        ("new", "archive.zip", "of no kind that can be read"),
        ("new", "x" * 200 + ".txt", "cannot be used"),
        ("..", "a.txt", "cannot be a name"),
        ("a/b", "a.txt", "cannot be a name"),
        ("", "a.txt", "cannot be a name"),
        ("capitals", "a.txt", "there is an index 'capitals' already"),
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(served, service, name, file, says):
    refused = httpx.post(served(service) + "/ask/indexes", data={"name": name}, files=[("files", (file, b"text"))])
    assert refused.status_code == 400
    assert says in refused.json()["error"]["message"]
    assert not [*service.data.rglob("*.txt"), *service.data.rglob("*.md")]


def test_an_upload_that_is_no_form_or_has_no_files_or_two_of_one_name_is_refused(served, service):
    address = served(service) + "/ask/indexes"
    assert httpx.post(address, content=b"x").status_code == 400
    broken = httpx.post(address, content=b"x", headers={"content-type": "multipart/form-data; boundary=y"})
    assert broken.status_code == 400
    assert "no files" in httpx.post(address, data={"name": "n"}, files={"other": b""}).json()["error"]["message"]
    twice = httpx.post(address, data={"name": "n"}, files=[("files", ("a.txt", b"1")), ("files", ("a.txt", b"2"))])
    assert "two of the files" in twice.json()["error"]["message"]


def test_an_upload_that_is_too_large_is_refused_before_and_after_it_is_sent(chromium, served, service):
    address = served(service, access=Access(upload_bytes=2 << 20))  # as `ken serve --max-upload 1` has it
    page = chromium.page(address + "/ask")
    assert "1 MB at a time" in page.locator("#documents").text_content()
    assert "upload at most 1 MB" in upload(page, "large", ("a.txt", b"x" * (1 << 21)))
    refused = httpx.post(address + "/ask/indexes", data={"name": "n"}, files=[("files", ("a.txt", b"x" * (1 << 21)))])
    assert refused.status_code == 413
    assert not list((service.data).rglob("a.txt"))


@pytest.fixture
def held_build(chromium, served, service, monkeypatch):
    """A page on which an index is being built; the child waits at a named pipe for ever."""
    monkeypatch.setattr(uploads, "_save", lambda part, path: os.mkfifo(path))
    page = chromium.page(served(service) + "/ask")
    page.locator("#documents").evaluate("details => { details.open = true; }")
    page.get_by_label("Files", exact=True).set_input_files([{"name": "a.txt", "mimeType": "", "buffer": b"x"}])
    assert page.get_by_label("Name of the index").input_value() == "a"
    page.get_by_role("button", name="Build").click()
    page.get_by_text("Reading and indexing").wait_for()
    return page


def test_a_build_is_cancelled_and_leaves_nothing(held_build, service):
    held_build.get_by_role("button", name="Cancel").click()
    held_build.get_by_text("cancelled; nothing was kept").wait_for()
    assert list((service.data / "indexes").iterdir()) == []


def test_a_build_that_the_system_ends_says_so_and_leaves_nothing(held_build, service):
    """As it ends one that takes more memory or time than the limits allow."""
    children = [
        int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    (child,) = [pid for pid in children if b"ken.serving.building" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(child, signal.SIGKILL)
    held_build.get_by_text("took more memory or time than one upload may have").wait_for()
    assert list((service.data / "indexes").iterdir()) == []


# --- the real thing ---


@pytest.mark.slow
def test_ken_serve_answers_in_the_browser_through_an_endpoint(chromium, tmp_path):
    arguments = ("--model", "openai/m", "--upstream-key", "k", "--index", build_index(tmp_path / "capitals"))
    with (
        FaultyServer(serve) as upstream,
        ken_serve(*arguments, "--base-url", upstream.base_url, folder=tmp_path) as server,
    ):
        page = chromium.page(server.address + "/")
        assert ask(page, "What is the capital of Ghana?").locator(".answer-text").inner_text() == "Accra"
