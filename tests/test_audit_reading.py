"""`ken audit reading`: any model on long documents, whole and in chunks, and what that advises."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from capitals import run_ken
from faulty_server import Action, Answer, FaultyServer, Status

from ken.agents.router import read_routing
from ken.auditing.reading import ANSWERS, PREDICTIONS, REPORT, ROUTING, audit_reading, estimate, written_questions
from ken.cli import main
from ken.core import BadInput, ModelError, Question
from ken.core.long_documents import question_record, read_long_questions
from ken.lab.reports import LENGTHS, NOT_STATED, ReportsWorld
from ken.models.scripted import ScriptedModel
from ken.papers.replay import replay
from ken.training.question_generator import Plan, QuestionGenerator, RuleWriter

Capture = pytest.CaptureFixture[str]
WORLD = ReportsWorld()
REPORTS = {report.name: report for length in LENGTHS for report in WORLD.reports(length, 2)}
TEXTS = {name: report.passage for name, report in REPORTS.items()}


def questions() -> list[Question]:
    made = []
    for report in REPORTS.values():
        plan = Plan(2, 2, 2, 2, whole=False)
        writing = QuestionGenerator(RuleWriter([report])).write(
            report.passage, plan, kind="report", length=report.length, parts=report.parts[:3]
        )
        made += asyncio.run(writing).questions
    return made


ASKED = questions()


def reader(prompt: str) -> str:
    """Reads without a fault what it is shown, but is lost in long texts: there it makes up what it cannot find."""
    shown = " ".join(prompt.rsplit("<information>", maxsplit=1)[-1].split("</information>", maxsplit=1)[0].split())
    question = prompt.strip().rsplit("\n", maxsplit=1)[-1]
    if "Which was larger" in question:
        keys = re.findall(r"larger, (\w+) or (\w+)\?", question)[0]
    elif "sum of" in question or "difference" in question:
        keys = re.findall(r"(\w+) and (\w+)\?", question)[0]
    else:
        keys = (re.findall(r"the (\w+)\?", question)[0],)
    values = [re.findall(rf" {key} (\w+) (?:in this|was on|without)", shown) for key in keys]
    if not all(values):
        said = "77" if len(shown.split()) > 500 else NOT_STATED
    elif len(keys) == 1:
        said = values[0][0]
    else:
        a, b = int(values[0][0]), int(values[1][0])
        said = keys[a < b] if "larger" in question else str(a + b if "sum" in question else abs(a - b))
    return f"<think> {keys} </think> <answer> {said} </answer>"


def audit(out: Path, model: Any = None, **options: Any):
    options = {"chunk_words": (34,), "overlap": 7, **options}
    return audit_reading(ASKED, TEXTS, model=model or ScriptedModel(reader), out=out, **options)


def test_the_tables_say_what_the_answers_hold(tmp_path: Path) -> None:
    report = audit(tmp_path / "out", chunks=(1,))
    assert report.questions == len(ASKED)
    whole = {s.length: s for s in report.scores if s.variant.mode == "lc"}
    assert whole["short"].overall.estimate == 1.0
    assert whole["long"].tasks == {"location": 1.0, "reasoning": 1.0, "comparison": 1.0, "hallucination": 0.0}
    assert whole["long"].overall.estimate == 0.75
    row = report.advise("long", "hallucination")
    assert row is not None
    assert (row.gap.estimate, row.advice) == (-1.0, "rag")
    comparing = report.advise("long", "comparison")
    assert comparing is not None
    assert comparing.gap.estimate > 0
    assert report.advise("medium") is None
    assert (report.truncated, report.empty, report.failed) == (0.0, 0, 0)
    assert report.profile["long"]["lc"] == {0: 1.0, 1: 1.0, 2: 1.0}
    by = {row.chooser: row for row in report.routers}
    assert by["always whole"].whole == 1
    assert by["oracle"].accuracy >= max(row.accuracy for row in by.values())
    assert by["always retrieved"].tokens < by["always whole"].tokens


def test_answers_are_written_as_lara_writes_them_and_replayed(tmp_path: Path) -> None:
    report = audit(tmp_path / "out", model=ScriptedModel(reader, spec="openai/vendor/some model"))
    folder = tmp_path / "out" / PREDICTIONS
    assert [p.name for p in folder.iterdir()] == ["vendor-some-model"]
    path = folder / "vendor-some-model" / "full_preds_vendor-some-model_long_report_comp.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    assert {"type", "level", "file", "comp_parts", "question", "prediction", "ground_truth"} <= set(line)
    assert line["level"] == "comp"
    again = replay("lara", [folder])
    (matrix,) = (t for t in again.tables if t.title.startswith("Accuracy at short"))
    assert [row[0] for row in matrix.rows] == ["vendor-some-model"]
    assert str(matrix.rows[0][-1]).startswith("100.0 | ")
    assert again.notes[0].startswith(f"{2 * report.questions:,} predictions")


def test_a_routing_is_learnt_and_can_be_read(tmp_path: Path) -> None:
    audit(tmp_path / "out")
    routing = read_routing(tmp_path / "out" / ROUTING)
    assert {gap.task for gap in routing.gaps} == {"lookup", "reasoning", "comparison"}


def test_nothing_is_asked_twice_and_other_settings_are_refused(tmp_path: Path) -> None:
    first, second = ScriptedModel(reader), ScriptedModel(reader)
    one = audit(tmp_path / "out", first)
    assert len(first.calls) == 2 * len(ASKED)
    assert audit(tmp_path / "out", second) == one
    assert not second.calls
    with pytest.raises(BadInput, match=r"other settings \(chunks was"):
        audit(tmp_path / "out", chunks=(3,))
    with pytest.raises(BadInput, match="there were"):
        audit_reading(ASKED[1:], TEXTS, model=second, out=tmp_path / "out", chunk_words=(34,), overlap=7)


def test_failed_calls_count_as_wrong_and_are_tried_again(tmp_path: Path) -> None:
    def flaky(prompt: str) -> str:
        if "Which was larger" in prompt:
            raise ModelError("the server is busy")
        return reader(prompt)

    report = audit(tmp_path / "out", ScriptedModel(flaky))
    comparisons = sum(q.meta["level"] == "comparison" for q in ASKED)
    assert (report.failed, report.empty, report.error) == (2 * comparisons, 2 * comparisons, "the server is busy")
    assert all(s.tasks["comparison"] == 0 for s in report.scores)
    mended = ScriptedModel(reader)
    assert audit(tmp_path / "out", mended).failed == 0
    assert len(mended.calls) == 2 * comparisons
    with pytest.raises(ModelError, match="did not answer"):
        audit(tmp_path / "dead", ScriptedModel(lambda prompt: (_ for _ in ()).throw(ModelError("gone"))))


def test_a_sweep_has_a_row_for_every_number_and_size(tmp_path: Path) -> None:
    report = audit(tmp_path / "out", modes=("rag",), chunks=(1, 5), chunk_words=(20, 40))
    shown = [(s.variant.chunks, s.variant.words) for s in report.scores if s.length == "long"]
    assert shown == [(1, 20), (5, 20), (1, 40), (5, 40)]
    assert report.gaps == ()


def test_a_second_judge_is_compared_with_the_first(tmp_path: Path) -> None:
    def judge(prompt: str) -> str:
        if "made something up" in prompt:
            return "right" if NOT_STATED in prompt.rsplit("Answer:", maxsplit=1)[-1] else "hm"
        return "wrong"

    report = audit(tmp_path / "out", judge=ScriptedModel(judge, spec="judge"))
    assert report.judge == "judge"
    assert report.unreadable == sum(q.meta["level"] == "hallucination" and q.meta["length"] == "long" for q in ASKED)
    assert report.kappa is not None
    assert -1 <= report.kappa <= 1
    # What equals a gold needs no judge, so that it only speaks of the rest.
    assert {s.length: s for s in report.scores if s.variant.mode == "lc"}["short"].overall.estimate == 1.0


def test_a_document_that_does_not_fit_is_cut_and_counted(tmp_path: Path) -> None:
    model = ScriptedModel(reader)
    model.limit = 700  # type: ignore[attr-defined]
    cost = estimate(ASKED, TEXTS, model=model)
    report = audit(tmp_path / "out", model)
    longs = sum(q.meta["length"] == "long" for q in ASKED)
    assert cost.truncated == longs
    assert cost.calls == 2 * len(ASKED)
    assert report.truncated == pytest.approx(longs / len(ASKED))
    assert 0.1 < report.left_out < 0.9


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"modes": ()}, "modes are none"),
        ({"modes": ("lc", "lc")}, "each once"),
        ({"chunks": (0,)}, "number of chunks"),
        ({"chunk_words": (7,)}, "exceed the overlap"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path, options: Any, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        audit(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_questions_without_a_document_or_a_task_are_refused(tmp_path: Path) -> None:
    stray = ASKED[0].model_copy(update={"meta": {**ASKED[0].meta, "file": "lost"}})
    with pytest.raises(BadInput, match="about 'lost'"):
        audit_reading([stray], TEXTS, model=ScriptedModel(reader), out=tmp_path / "out")
    with pytest.raises(BadInput, match="lacks a gold, a task or a file"):
        audit_reading([Question(id="q", text="?")], TEXTS, model=ScriptedModel(reader), out=tmp_path / "out")
    with pytest.raises(BadInput, match="no questions"):
        audit_reading([], TEXTS, model=ScriptedModel(reader), out=tmp_path / "out")


def test_questions_are_written_for_documents_and_read_back(tmp_path: Path) -> None:
    documents = [report.passage for report in WORLD.reports("short", 4)]
    lines = written_questions(documents, RuleWriter(WORLD.reports("short", 4)), tmp_path / "q.jsonl", per_task=6)
    asked = list(read_long_questions(tmp_path / "q.jsonl"))
    assert [q.meta["level"] for q in asked].count("comparison") >= 5
    assert lines[0].startswith("location: 6 questions")
    assert question_record(asked[0])["question"] == asked[0].text
    with pytest.raises(BadInput, match="no question that passed"):
        written_questions(documents, ScriptedModel(lambda prompt: "no"), tmp_path / "none.jsonl", per_task=2)
    assert not (tmp_path / "none.jsonl").exists()


# --- the command ------------------------------------------------------------------------------------------------------


def serve(number: int, payload: dict[str, Any]) -> Action:
    instruction, said = (payload["messages"][i]["content"] for i in (0, -1))
    if "You check a question" in instruction:
        return Answer("pass")
    if "You design questions" in instruction:
        silent = "not answered there at all" in instruction
        gold = "The document does not say." if silent else "Amber."
        return Answer(json.dumps({"Q": f"What is the colour number {number}?", "A": gold}))
    return Answer("<think> x </think><answer> Amber </answer>" if "amber" in said else "<answer> no </answer>")


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    folder = tmp_path / "contracts"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.md").write_text(f"# {name}\n\n" + "\n\n".join(f"Clause {i} is amber." for i in range(80)))
    return folder


def test_the_command_answers_whole_or_in_chunks_for_a_users_documents(contracts: Path, tmp_path: Path) -> None:
    def line(url: str, *more: object) -> list[object]:
        given = ["--documents", contracts, "--per-task", 4, "--chunk-words", 40, "--overlap", 5, "--out", "out"]
        return ["audit", "reading", *given, "--model", "openai/m", "--base-url", url, "--api-key", "k", *more]

    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url), cwd=tmp_path)
        asked = len(server.requests)
        again = run_ken(*line(server.base_url), cwd=tmp_path)
        assert len(server.requests) == asked
    assert done.returncode == 0, done.stderr
    assert "16 questions, 32 calls, about" in done.stderr
    assert (tmp_path / "out-questions.jsonl").is_file()
    told = " ".join(done.stdout.split())
    assert "16 questions, judged by rule; accuracy" in told
    assert "no clear winner" in told
    assert "routing.json for `ken ask --strategy router:" in told
    assert all(len(row) <= 80 for row in done.stdout.splitlines() if "routing.json" not in row)
    assert again.stdout == done.stdout
    report = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert {s["variant"]["mode"] for s in report["scores"]} == {"lc", "rag"}


@pytest.mark.usefixtures("contracts")
def test_calls_that_fail_end_the_command_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    asked = [q.model_copy(update={"meta": {**q.meta, "file": "one.md"}}) for q in ASKED[:4]]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(question_record(q)) + "\n" for q in asked))

    def broken(number: int, payload: dict[str, Any]) -> Action:
        return Status(400) if asked[0].text in payload["messages"][-1]["content"] else serve(number, payload)

    monkeypatch.chdir(tmp_path)
    given = ["--documents", "contracts/one.md", "--questions", "q.jsonl", "--out", "out", "--model", "openai/m"]
    with FaultyServer(broken) as server:
        monkeypatch.setattr(sys, "argv", ["ken", "audit", "reading", *given, "--base-url", server.base_url])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    assert "calls failed (" in capsys.readouterr().err
    assert (tmp_path / "out" / ANSWERS).is_file()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "--documents DIR"),
        (["--documents", "nowhere"], "there is no file or folder nowhere"),
        (["--lara", "nowhere"], "git clone"),
        (["--documents", "contracts", "--chunks", "many", "--questions", "x"], "there is no file x"),
    ],
)
@pytest.mark.usefixtures("contracts")
def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, given: list[str], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["audit", "reading", *given, "--out", "out", "--model", "openai/m", "--base-url", "http://127.0.0.1:9"]
    monkeypatch.setattr(sys, "argv", ["ken", *line, "--api-key", "k"])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (2, 1)
    assert problem in err
    assert not (tmp_path / "out").exists()
