"""Ask and audit against a server that this project did not write: `transformers serve` on the model of FactWorld."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from capitals import run_ken, write_questions
from conftest import Served

import ken
from ken.core import Question, Sampling, Trajectory
from ken.lab import FactWorld, render

SAMPLING = Sampling(max_tokens=48)
COUNT = 8


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Some that were seen most often in pretraining, and some that never were."""
    asked = sorted(render.questions(FactWorld()), key=lambda q: -int(str(q.meta["exposures"])))
    return [*asked[: COUNT // 2], *asked[-COUNT // 2 :]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factworld") / "index"
    ken.Index.build(render.documents(FactWorld()), folder)
    return folder


@pytest.fixture
def model(lab_server: Served) -> Any:
    options = {"base_url": lab_server.base_url, "control_tokens": True, "retries": 1}
    return ken.load_model(f"openai/{lab_server.model}", **options)


def words(t: Trajectory) -> tuple[Any, ...]:
    """What an attempt came to, without the white space that differs between decoders."""
    answer = None if t.answer is None else t.answer.split()
    return t.error, answer, [s.query.split() for s in t.searches], t.decision and t.decision.knows, t.malformed


@pytest.mark.parametrize("strategy", ["direct", "rag", "search", "adaptive"])
def test_ask_gives_the_answers_of_the_same_model_in_this_process(model, questions, index, strategy):
    here = ken.load_model("lab/factworld")
    for question in questions[:: COUNT // 4]:
        options: dict[str, Any] = {"index": index, "strategy": strategy, "top_k": 2, "sampling": SAMPLING}
        served = ken.ask(question, model=model, **options)
        local = ken.ask(question, model=here, **options)
        assert words(served) == words(local)
        assert served.error is None
        assert served.usage.completion_tokens > 0


def test_facts_that_it_saw_often_are_answered_closed_book(model, questions):
    known = [ken.ask(q, model=model, strategy="direct", sampling=SAMPLING) for q in questions[: COUNT // 2]]
    assert [t.error for t in known] == [None] * len(known)
    right = sum(t.answer == t.question.answers[0] for t in known)
    assert right > len(known) / 2


def test_an_audit_of_it_is_complete_and_closed_book_accuracy_follows_exposure(model, questions, index, tmp_path):
    report = ken.audit(
        questions, model=model, index=index, samples=2, top_k=2, sampling=SAMPLING, out=tmp_path / "audit"
    )
    assert (report.questions, report.failed, report.unasked) == (COUNT, 0, 0)
    assert [s.strategy for s in report.strategies] == ["direct", "rag", "search", "adaptive"]
    direct, rag = report.strategies[:2]
    assert rag.cost is not None
    assert rag.cost.searches == 1
    assert report.known is not None
    assert 0 < report.known < 1
    frame = ken.load_audit(tmp_path / "audit")
    closed = frame[(frame["strategy"] == "direct") & frame["sample"].isna()]
    seen = closed.groupby(closed["meta.exposures"] > 0)["em"].mean()
    assert seen[True] > seen[False]
    assert direct.em == pytest.approx(float(closed["em"].mean()))


def test_the_commands_ask_and_audit_it(lab_server, questions, index, tmp_path):
    options = ["--model", f"openai/{lab_server.model}", "--base-url", lab_server.base_url, "--control-tokens"]
    options += ["--index", index, "--max-tokens", 48, "--top-k", 2]
    done = run_ken("ask", questions[0].text, *options, "--strategy", "direct", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["steps"][-1]["text"] == questions[0].answers[0]
    write_questions(tmp_path / "q.jsonl", questions[:5])
    arguments = ["--questions", "q.jsonl", "--samples", 2, "--out", "out"]
    done = run_ken("audit", *arguments, *options, cwd=tmp_path, seconds=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 questions, of which the model can answer" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["failures"] == []
