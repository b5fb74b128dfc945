"""When servers fail, hang, babble or hang up, every question is answered or reported, and the run ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from capitals import QUESTIONS, build_index, run_ken, serve, write_questions
from faulty_server import (
    ERROR_200,
    GARBAGE,
    HTML,
    NO_CHOICES,
    TRUNCATED,
    Action,
    Drip,
    Drop,
    FaultyServer,
    Hang,
    Status,
    refused_url,
)

import ken
from ken.auditing import AuditReport
from ken.auditing.run import GIVE_UP_AFTER
from ken.core import Question
from ken.models.endpoint import EndpointModel

FAULTS: dict[str, Action] = {
    "429": Status(429, {"error": {"message": "slow down"}}, {"retry-after": "0"}),
    "500": Status(500, "boom"),
    "503 in HTML": Status(503, HTML.body.decode()),
    "garbage": GARBAGE,
    "HTML": HTML,
    "truncated JSON": TRUNCATED,
    "no choices": NO_CHOICES,
    "an error in a 200": ERROR_200,
    "hang": Hang(),
    "drip": Drip(),
    "drop": Drop(),
    "drop in the middle": Drop(60),
}

STRATEGIES = 4
SAMPLES = 2
ATTEMPTS = len(QUESTIONS) * (STRATEGIES + SAMPLES)


def endpoint(server: FaultyServer, **options: Any) -> EndpointModel:
    """An impatient client, so that the tests are quick; the number of retries is the usual one."""
    return EndpointModel("m", base_url=server.base_url, timeout=0.5, backoff_base=0.01, backoff_cap=0.05, **options)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("capitals") / "index")


def audit(plan: Callable[[int, dict[str, Any]], Action], index: Path, out: Path, **options: Any) -> AuditReport:
    with FaultyServer(plan) as server:
        return ken.audit(QUESTIONS, model=endpoint(server, **options), index=index, samples=SAMPLES, out=out)


def accounted(report: AuditReport, out: Path) -> None:
    """Every attempt is in the log once, answered or with an error, or counted as not made."""
    lines = [json.loads(line) for line in (out / "trajectories.jsonl").read_text().splitlines()]
    keys = {(t["question"]["id"], t["strategy"], t["sample"]) for t in lines}
    assert len(keys) == len(lines)
    assert len(lines) + report.unasked == ATTEMPTS
    assert sum(t["error"] is not None for t in lines) == report.failed
    assert all(t["error"] or t["steps"][-1]["kind"] == "answer" for t in lines)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_audit_gets_over_a_fault_in_every_third_reply(fault, index, tmp_path):
    report = audit(
        lambda n, payload: FAULTS[fault] if n % 3 == 0 else serve(n, payload), index, tmp_path / "a", retries=20
    )
    accounted(report, tmp_path / "a")
    assert (report.failed, report.unasked, report.known) == (0, 0, 0.5)
    assert [s.em for s in report.strategies] == [0.5, 1.0, 1.0, 1.0]


def test_an_audit_of_a_server_with_all_faults_in_turn_ends_and_loses_nothing(index, tmp_path):
    faults = list(FAULTS.values())

    def plan(number: int, payload: dict[str, Any]) -> Action:
        return serve(number, payload) if number % 2 else faults[number // 2 % len(faults)]

    report = audit(plan, index, tmp_path / "a", retries=2)
    accounted(report, tmp_path / "a")
    assert report.questions == len(QUESTIONS)


@pytest.mark.parametrize("fault", FAULTS)
def test_questions_that_the_server_never_answers_are_reported_with_the_reason_and_the_others_answered(
    fault, index, tmp_path
):
    def plan(number: int, payload: dict[str, Any]) -> Action:
        return FAULTS[fault] if "Cuba?" in str(payload["messages"]) else serve(number, payload)

    report = audit(plan, index, tmp_path / "a", retries=1)
    accounted(report, tmp_path / "a")
    assert {identifier for identifier, *_ in report.failures} == {"cuba"}
    assert report.failed == STRATEGIES + SAMPLES
    assert all("openai/m gave no answer in 2 attempts" in error for *_, error in report.failures)
    assert all(s.answered == len(QUESTIONS) - 1 for s in report.strategies)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_question_is_answered_or_reported(fault, tmp_path):
    with FaultyServer(lambda n, payload: FAULTS[fault]) as server:
        failed = ken.ask(QUESTIONS[0], model=endpoint(server, retries=1), strategy="direct")
    assert failed.answer is None
    assert failed.error is not None
    assert failed.question == QUESTIONS[0]
    with FaultyServer(lambda n, payload: FAULTS[fault] if n == 0 else serve(n, payload)) as server:
        answered = ken.ask(QUESTIONS[0], model=endpoint(server), strategy="direct")
    assert (answered.answer, answered.error) == ("Nairobi", None)


def test_ten_thousand_questions_to_a_server_that_is_down_end_soon_and_wait_for_it(tmp_path):
    questions = [
        Question(id=str(i), text=f"What is the capital of Peru? {i}", answers=("Lima",)) for i in range(10_000)
    ]
    model = EndpointModel("m", base_url=refused_url(), backoff_base=0.01)
    report = ken.audit(questions, model=model, strategies="direct", samples=0, out=tmp_path / "a")
    assert report.failed == GIVE_UP_AFTER
    assert report.unasked == 10_000 - GIVE_UP_AFTER
    assert "failed 20 times in a row" in report.notes[0]
    assert "check that the server is running" in report.notes[0]


# --- the same through the real command -------------------------------------------------------------------------------


def line(url: str, *options: object) -> list[object]:
    return ["audit", "--questions", "q.jsonl", "--model", "openai/m", "--base-url", url, *options, "--out", "out"]


def test_the_command_lists_what_failed_ends_with_status_1_and_completes_when_given_again(index, tmp_path):
    write_questions(tmp_path / "q.jsonl")
    refuse = {"error": {"message": "the prompt is not to my liking"}}

    def plan(number: int, payload: dict[str, Any]) -> Action:
        return Status(400, refuse) if "Cuba?" in str(payload["messages"]) else serve(number, payload)

    with FaultyServer(plan) as server:
        done = run_ken(*line(server.base_url, "--index", index, "--samples", 0), cwd=tmp_path)
        assert done.returncode == 1
        assert "ken: 4 attempts failed; `ken audit` as before tries them again:" in done.stderr
        for strategy in ("direct", "rag", "search", "adaptive"):
            assert f"  cuba ({strategy}): openai/m gave no answer:" in done.stderr
        assert "not to my liking" in done.stderr
        asked = len(server.requests)
        server.plan = serve
        done = run_ken(*line(server.base_url, "--index", index, "--samples", 0), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(server.requests) - asked == 1 + 1 + 2 + 3, "direct, rag, search and adaptive on Cuba, nothing else"


def test_the_command_stops_when_the_server_is_down_and_says_how_to_go_on(tmp_path):
    write_questions(tmp_path / "q.jsonl", [QUESTIONS[0].model_copy(update={"id": str(i)}) for i in range(100)])
    done = run_ken(*line(refused_url(), "--strategies", "direct", "--samples", 1), cwd=tmp_path)
    assert done.returncode == 1
    told = " ".join(done.stdout.split())
    assert "180 of 200 attempts were not made: direct failed 20 times in a row" in told
    assert "`ken audit` as before goes on from here" in told
    assert "20 attempts failed" in done.stderr
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url, "--strategies", "direct", "--samples", 1), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.requests) == 200


def test_a_dead_retriever_is_reported_and_its_attempts_are_not_taken_for_answers(tmp_path):
    write_questions(tmp_path / "q.jsonl")
    dead = refused_url().removesuffix("/v1")
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url, "--index", dead, "--samples", 0), cwd=tmp_path)
    assert done.returncode == 1
    assert f"the search failed: the retriever {dead}/retrieve did not answer after 4 attempts" in done.stderr
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    failed = {(identifier, strategy) for identifier, strategy, _ in report["failures"]}
    knew = {"kenya", "norway", "peru", "japan"}
    assert {i for i, s in failed if s == "adaptive"} == {q.id for q in QUESTIONS} - knew
    assert {i for i, s in failed if s == "rag"} == {i for i, s in failed if s == "search"} == {q.id for q in QUESTIONS}
    assert not [i for i, s in failed if s == "direct"]


def test_ask_with_a_dead_retriever_says_so(tmp_path):
    dead = refused_url().removesuffix("/v1")
    with FaultyServer(serve) as server:
        options = ["--model", "openai/m", "--base-url", server.base_url, "--index", dead, "--strategy", "rag"]
        done = run_ken("ask", "What is the capital of Cuba?", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ken: the search failed: the retriever")
    assert done.stderr.count("\n") == 1
