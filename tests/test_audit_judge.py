"""`ken audit --judge`: answers that exact match cannot grade are judged by a model, once, and counted apart where it
says nothing that can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from capitals import CAPITALS, KNOWN, QUESTIONS, build_index, run_ken, write_questions
from faulty_server import Action, Answer, FaultyServer, Status
from test_report import Page

import ken
from ken.auditing.asking import TOGETHER
from ken.auditing.verdicts import VERDICTS
from ken.core import BadInput, ModelError, Question
from ken.metrics import wilson
from ken.models.scripted import ScriptedModel


def answer(prompt: str) -> str:
    """Right about what it knows, in more words than the golds; Norway in one word; nothing about Japan."""
    land = re.findall(r"capital of (\w+)\?", prompt)[-1]
    if land == "Japan":
        return "I would rather not say."
    if land == "Norway":
        return "<answer> Oslo </answer>"
    return f"<answer> It is the city of {CAPITALS[land] if land in KNOWN else 'Atlantis'} </answer>"


def verdict(prompt: str) -> str:
    """A judge that reads well, and mumbles about Peru."""
    if "capital of Peru" in prompt:
        return "Well."
    gold = re.findall(r"Accepted answers:\n(\w+)", prompt)[-1]
    return "right" if f"city of {gold}" in prompt else "wrong"


def audit(out: Path, judge: Any, **more: Any) -> ken.auditing.AuditReport:
    options = {"strategies": "direct", "samples": 1, **more}
    return ken.audit(QUESTIONS, model=ScriptedModel(answer), judge=judge, out=out, **options)


def judge_of(reply: Any = verdict) -> ScriptedModel:
    return ScriptedModel(reply, spec="judge")


def test_a_judge_grades_what_exact_match_cannot(tmp_path: Path) -> None:
    judge = judge_of()
    report = audit(tmp_path / "a", judge)
    (direct,) = report.strategies
    assert direct.em == 1 / 8, "Norway alone"
    j = direct.judged
    assert j is not None
    # Kenya and Norway right, Japan unanswered, Egypt, Cuba, Nepal and Ghana wrong; about Peru nothing could be read.
    assert (j.accuracy, j.answers, j.unreadable, j.unjudged) == (2 / 7, 7, 1, 0)
    assert j.interval == wilson(2, 7)
    assert j.gain is None, "it is closed book itself"
    assert {re.findall(r"capital of (\w+)", call.prompt)[-1] for call in judge.calls} == CAPITALS.keys() - {
        "Norway",
        "Japan",
    }, "what equals a gold, or is no answer, needs no judge"
    assert any("judge said nothing readable about 1 answers" in note for note in report.notes)


def test_verdicts_are_kept_and_never_asked_for_twice(tmp_path: Path) -> None:
    report = audit(tmp_path / "a", judge_of())
    nobody = judge_of(lambda prompt: pytest.fail("all of it was judged, also what could not be read"))
    assert audit(tmp_path / "a", nobody) == report
    with (tmp_path / "a" / VERDICTS).open("a") as file:
        file.write('{"kind": "judge", "id": "edited"}\n{"kind": "judge", "id"')  # by hand, and torn by a kill
    before = (tmp_path / "a" / "audit.json").read_bytes()
    assert ken.rescore(tmp_path / "a") == report
    assert (tmp_path / "a" / "audit.json").read_bytes() == before
    lines = [json.loads(line) for line in (tmp_path / "a" / VERDICTS).read_text().splitlines()[:-2]]
    assert {line["question"]: line["right"] for line in lines} == {
        f"What is the capital of {land}?": right
        for land, right in [("Kenya", True), ("Peru", None), *((x, False) for x in ("Egypt", "Cuba", "Nepal", "Ghana"))]
    }
    assert {tuple(line["golds"]) for line in lines} >= {("Nairobi",)}


def test_a_judge_may_come_later_stays_and_can_be_another(tmp_path: Path) -> None:
    plain = audit(tmp_path / "a", None)
    assert plain.strategies[0].judged is None
    model = ScriptedModel(lambda prompt: pytest.fail("the answers are there"))
    options: dict[str, Any] = {"strategies": "direct", "samples": 1, "out": tmp_path / "a"}
    judged = ken.audit(QUESTIONS, model=model, judge=judge_of(), **options)
    assert judged.strategies[0].judged is not None
    assert judged.strategies[0].em == plain.strategies[0].em
    assert ken.audit(QUESTIONS, model=model, **options) == judged, "without --judge the verdicts stay"
    other = ken.audit(QUESTIONS, model=model, judge=ScriptedModel(lambda _: "right", spec="kind"), **options)
    assert other.strategies[0].judged is not None
    assert other.strategies[0].judged.accuracy == 7 / 8, "all but the one that was not answered"
    assert other.settings.judge == "kind"


def test_the_same_answer_of_several_strategies_is_judged_once(tmp_path: Path) -> None:
    judge = judge_of()
    index = ken.Index.open(build_index(tmp_path / "index"))
    report = audit(tmp_path / "a", judge, strategies="direct,rag", index=index)
    assert len(judge.calls) == 5 + 3, "Peru three times, since nothing could be read"
    direct, rag = report.strategies
    assert direct.judged is not None
    assert rag.judged is not None
    assert rag.judged.accuracy == direct.judged.accuracy
    gain = rag.judged.gain
    assert gain is not None
    assert (gain.estimate, gain.low, gain.high) == (0, 0, 0)


def test_a_judge_that_fails_leaves_the_audit_and_is_asked_again(tmp_path: Path) -> None:
    def down(prompt: str) -> str:
        if "Kenya" in prompt:
            raise ModelError("the judge is out of credit.")
        return verdict(prompt)

    report = audit(tmp_path / "a", judge_of(down))
    j = report.strategies[0].judged
    assert j is not None
    assert (j.accuracy, j.answers, j.unreadable, j.unjudged) == (1 / 6, 6, 1, 1)
    assert any("1 answers have no verdict of the judge judge (the judge is out of credit)" in n for n in report.notes)
    assert report.unjudged == 1
    mended = judge_of()
    report = audit(tmp_path / "a", mended)
    assert len(mended.calls) == 1
    assert report.unjudged == 0
    assert not any("no verdict" in note for note in report.notes)


def test_a_judge_that_is_down_is_given_up(tmp_path: Path) -> None:
    def dead(prompt: str) -> str:
        raise ModelError("nobody is there.")

    judge = judge_of(dead)
    asked = [Question(id=f"q{i}", text=f"Question {i}?", answers=("Oslo",)) for i in range(3 * TOGETHER)]
    model = ScriptedModel(lambda prompt: "<answer> in Norway's capital </answer>")
    report = ken.audit(asked, model=model, judge=judge, strategies="direct", samples=0, out=tmp_path / "a")
    assert len(judge.calls) == TOGETHER * 3, "three tries each, then no more"
    j = report.strategies[0].judged
    assert j is not None
    assert (j.accuracy, j.interval, j.unjudged) == (None, None, 3 * TOGETHER)
    assert (report.strategies[0].em, report.failed) == (0, 0)


def serve(number: int, payload: dict[str, Any]) -> Action:
    text = "\n".join(message["content"] for message in payload["messages"])
    return Answer(verdict(text) if payload["model"] == "judge" else answer(text))


OPTIONS = ["audit", "--questions", "q.jsonl", "--model", "openai/m", "--strategies", "direct", "--samples", 1]


def test_the_command_shows_the_column_in_table_page_and_frame(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl")
    with FaultyServer(serve) as server:
        address = ["--base-url", server.base_url, "--judge", "openai/judge", "--out", "out"]
        done = run_ken(*OPTIONS, *address, cwd=tmp_path)
        asked = len(server.requests)
        again = run_ken(*OPTIONS, *address, cwd=tmp_path)
        assert len(server.requests) == asked
    assert (done.returncode, done.stderr) == (0, "")
    assert "judged by openai/judge" in done.stdout
    rows = [row.split() for row in done.stdout.splitlines() if row.strip()]
    assert ["strategy", "EM", "judged", "95%", "interval", "over", "direct", "unread", "missing"] in rows
    assert ["direct", "0.125", "0.286", "[0.082,", "0.641]", "1", "0"] in rows
    assert all(len(row) <= 80 for row in done.stdout.splitlines())
    assert again.stdout == done.stdout
    assert run_ken("audit", "rescore", "out", cwd=tmp_path).stdout == done.stdout
    page = Page((tmp_path / "out" / "audit.html").read_text(encoding="utf-8"))
    assert "judged" in page.text
    assert "0.286 [0.08, 0.64]" in page.text
    assert "or that openai/judge finds to mean the same (Wilson" in page.text
    frame = ken.load_audit(tmp_path / "out")
    final = frame[frame["sample"].isna()].set_index("question_id")["judged"]
    assert (bool(final["kenya"]), bool(final["egypt"]), bool(final["japan"])) == (True, False, False)
    assert final.isna().sum() == 1
    assert frame[frame["sample"].notna()]["judged"].isna().all()


def test_a_judge_at_another_address_is_not_sent_the_models_key(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl")
    with FaultyServer(serve) as server, FaultyServer(serve) as other:
        model = ["--base-url", server.base_url, "--api-key", "secret-of-the-model"]
        judge = ["--judge", "openai/judge", "--judge-base-url", other.base_url, "--judge-api-key", "of-the-judge"]
        done = run_ken(*OPTIONS, *model, *judge, "--out", "out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {request.payload["model"] for request in server.requests} == {"m"}
        assert {request.headers["authorization"] for request in other.requests} == {"Bearer of-the-judge"}
        run_ken(*OPTIONS, *model, *judge[:4], "--out", "other", cwd=tmp_path, OPENAI_API_KEY="of-the-shell")
        assert other.requests[-1].headers["authorization"] == "Bearer of-the-shell"


def test_a_judge_that_did_not_answer_is_said_and_the_status_is_1(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl")

    def broken(number: int, payload: dict[str, Any]) -> Action:
        return Status(401) if payload["model"] == "judge" else serve(number, payload)

    with FaultyServer(broken) as server:
        address = ["--base-url", server.base_url, "--judge", "openai/judge", "--out", "out"]
        done = run_ken(*OPTIONS, *address, cwd=tmp_path)
    assert done.returncode == 1
    assert "ken: 6 answers were not judged; `ken audit` as before asks again" in done.stderr
    assert "EM" in done.stdout
    assert (tmp_path / "out" / "audit.html").is_file()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--judge", "gpt"], "'gpt' is not a model"),
        (["--judge", "hf/x", "--judge-base-url", "http://x"], "for a judge of the form openai/NAME"),
    ],
)
def test_a_judge_that_cannot_be_used_is_one_sentence_before_anything_is_asked(
    tmp_path: Path, more: list[str], problem: str
) -> None:
    write_questions(tmp_path / "q.jsonl")
    done = run_ken(*OPTIONS, "--base-url", "http://127.0.0.1:1/v1", *more, "--out", "out", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert problem in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_samples_are_still_refused_before_a_judge_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="samples is -1"):
        audit(tmp_path / "a", "gpt", samples=-1)
