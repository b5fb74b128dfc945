"""`ken.ask` from a script, from a notebook, from threads; and what it refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ken
from ken.agents.background import run
from ken.core import BadInput, ModelError, Passage, SourceError
from ken.models.scripted import ScriptedModel

DOCUMENTS = [Passage(id="elbe", title="Elbe", text="The Elbe flows into the North Sea at Cuxhaven.")]


def reply(prompt: str) -> str:
    if "verdict" in prompt:
        return "Not sure. <assessment>no</assessment>"
    return "<answer> North Sea </answer>" if "Cuxhaven" in prompt else "<search> Elbe </search>"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ken.Index:
    return ken.Index.build(DOCUMENTS, tmp_path_factory.mktemp("ask") / "index")


def test_a_question_is_answered_with_its_decision_searches_and_passages(index: ken.Index) -> None:
    for given in (index, index.path, str(index.path)):
        trajectory = ken.ask("Where does the Elbe end?", model=ScriptedModel(reply), index=given)
        assert (trajectory.answer, trajectory.decision.knows) == ("North Sea", False)
        assert [passage.document_id for passage in trajectory.passages] == ["elbe"]


def test_it_works_where_an_event_loop_already_runs(index: ken.Index) -> None:
    async def cell() -> str | None:
        return ken.ask("Where does the Elbe end?", model=ScriptedModel(reply), index=index).answer

    assert asyncio.run(cell()) == "North Sea"


def test_it_can_be_awaited(index: ken.Index) -> None:
    asked = ken.ask_async("Where does the Elbe end?", model=ScriptedModel(reply), index=index)
    assert asyncio.run(asked).answer == "North Sea"


def test_many_threads_can_ask_one_model(index: ken.Index) -> None:
    model = ScriptedModel(reply)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ken.ask, "Where does the Elbe end?", model=model, index=index) for _ in range(64)]
        assert [future.result(timeout=60).answer for future in asked] == ["North Sea"] * 64


def test_a_model_that_does_not_answer_gives_a_trajectory_with_its_error(index: ken.Index) -> None:
    def fail(prompt: str) -> str:
        raise ModelError("no answer after 4 tries")

    assert ken.ask("Why?", model=ScriptedModel(fail), index=index).error == "no answer after 4 tries"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"question": ""}, "the question is empty"),
        ({"question": " \n"}, "the question is empty"),
        ({"question": "caf\udce9?"}, "no valid text"),
        ({"top_k": 0}, "top_k is 0"),
        ({"strategy": "guess"}, "there is no strategy 'guess'"),
        ({"model": "gpt-4o"}, "is not a model"),
        ({"model": "foo/bar"}, "is not a model"),
        ({"model": None}, "not NoneType"),
        ({"index": None}, "no index was given"),
        ({"index": 7}, "not int"),
        ({"model": "openai/x", "colour": "red"}, "no option 'colour'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(index: ken.Index, wrong: dict, message: str) -> None:
    arguments = {"question": "Why?", "model": ScriptedModel(reply), "index": index, **wrong}
    with pytest.raises(BadInput, match=message) as error:
        ken.ask(arguments.pop("question"), **arguments)
    assert "\n" not in str(error.value)


def test_a_missing_index_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        ken.ask("Why?", model=ScriptedModel(reply), index=tmp_path / "nowhere")


def test_the_index_and_the_model_of_the_caller_stay_open(index: ken.Index) -> None:
    class Watched(ScriptedModel):
        closed = False

        async def close(self) -> None:
            self.closed = True

    model = Watched(reply)
    ken.ask("Where does the Elbe end?", model=model, index=index)
    assert not model.closed
    assert index.search("Elbe")


def test_a_model_and_a_retriever_opened_by_ask_are_closed_even_when_loading_fails(
    index: ken.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.sources.search.retriever import IndexRetriever

    closed = []

    async def close(self: IndexRetriever) -> None:
        closed.append(self.name)

    monkeypatch.setattr(IndexRetriever, "close", close)
    with pytest.raises(BadInput):
        ken.ask("Why?", model="foo/bar", index=index.path)
    assert closed == [str(index.path)]


def test_asking_from_inside_is_refused_instead_of_waiting_for_itself() -> None:
    async def inside() -> object:
        return ken.ask("Why?", model=ScriptedModel(reply), strategy="direct")

    with pytest.raises(BadInput, match="await"):
        run(inside())


@pytest.mark.skipif(os.name != "posix", reason="signals to one's own process are sent differently elsewhere")
def test_ctrl_c_waits_until_the_work_has_cleaned_up() -> None:
    events = []

    async def work() -> None:
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            events.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert events == ["cleaned up"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_can_ask_too() -> None:
    import subprocess
    import sys

    code = """
import os, asyncio
from ken.agents.background import run
async def one(): return 1
assert run(one()) == 1
child = os.fork()
if child == 0:
    os._exit(0 if run(one()) == 1 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
