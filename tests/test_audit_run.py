"""An audit can be interrupted in any way and goes on; it asks nothing twice, and stops when nobody answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from capitals import CAPITALS, DOCUMENTS, QUESTIONS, build_index, command, environment, run_ken, serve, write_questions
from faulty_server import Answer, FaultyServer, Hang

import ken
from ken.auditing.log import LogWriter, read_log
from ken.auditing.run import GIVE_UP_AFTER, IN_FLIGHT
from ken.core import BadInput, ModelError, Passage, Question, SourceError, Unsupported
from ken.models import Generation
from ken.models.scripted import ScriptedModel


class Capital(ScriptedModel):
    """Answers closed book; counts what it was asked. `down` makes every call fail."""

    def __init__(self, down: bool = False) -> None:
        super().__init__(lambda prompt: "<answer> Oslo </answer>", spec="scripted")
        self.down = down
        self.dropped: set[str] = set()

    async def generate(self, *args: Any, **kwargs: Any) -> list[Generation]:
        generations = await super().generate(*args, **kwargs)
        if self.down:
            raise ModelError("scripted gave no answer: it is down; start it")
        return generations


def many(count: int) -> list[Question]:
    return [Question(id=f"q{i}", text=f"Question {i}?", answers=("Oslo",)) for i in range(count)]


def test_it_measures_what_it_ran_and_leaves_three_files_and_the_log(tmp_path):
    report = ken.audit(many(3), model=Capital(), strategies="direct", samples=2, out=tmp_path / "a")
    assert (report.questions, report.known, report.failed, report.unasked) == (3, 1.0, 0, 0)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"run.json", "trajectories.jsonl", "audit.json", "audit.html"}


def test_rescore_gives_the_same_audit_json_byte_for_byte(tmp_path):
    index = ken.Index.build(DOCUMENTS, tmp_path / "index")
    out = tmp_path / "a"
    with FaultyServer(serve) as server:
        report = ken.audit(QUESTIONS, model="openai/m", base_url=server.base_url, index=index, samples=2, out=out)
    before = {name: (out / name).read_bytes() for name in ("audit.json", "audit.html")}
    for name in before:
        (out / name).unlink()
    assert ken.rescore(out) == report
    assert {name: (out / name).read_bytes() for name in before} == before


def test_an_audit_that_is_complete_asks_nothing(tmp_path):
    ken.audit(many(3), model=Capital(), strategies="direct", samples=2, out=tmp_path / "a")
    again = Capital()
    ken.audit(many(3), model=again, strategies="direct", samples=2, out=tmp_path / "a")
    assert again.calls == []


def test_failed_attempts_are_tried_again_and_only_those(tmp_path):
    class Moody(Capital):
        async def generate(self, conversation: Any, **kwargs: Any) -> list[Generation]:
            if "Question 1?" in str(conversation):
                self.calls.append(None)  # type: ignore[arg-type]
                raise ModelError("no answer to this one; ask again")
            return await super().generate(conversation, **kwargs)

    report = ken.audit(many(3), model=Moody(), strategies="direct", samples=1, out=tmp_path / "a")
    assert [(i, s) for i, s, _ in report.failures] == [("q1", "direct"), ("q1", "direct, sample 0")]
    model = Capital()
    report = ken.audit(many(3), model=model, strategies="direct", samples=1, out=tmp_path / "a")
    assert len(model.calls) == 2
    assert (report.failed, report.unasked, report.questions) == (0, 0, 3)


def test_when_nobody_answers_it_stops_asking_and_says_what_is_left(tmp_path):
    dead = Capital(down=True)
    report = ken.audit(many(1000), model=dead, strategies="direct", samples=0, out=tmp_path / "a")
    assert report.failed == GIVE_UP_AFTER
    assert report.unasked == 1000 - GIVE_UP_AFTER
    assert len(dead.calls) <= IN_FLIGHT + GIVE_UP_AFTER
    assert (
        f"direct failed {GIVE_UP_AFTER} times in a row (scripted gave no answer: it is down; start it)"
        in report.notes[0]
    )
    report = ken.audit(many(1000), model=Capital(), strategies="direct", samples=0, out=tmp_path / "a")
    assert (report.failed, report.unasked, report.notes) == (0, 0, ken.rescore(tmp_path / "a").notes)
    assert not any("not made" in note for note in report.notes)


def test_what_failed_before_waits_until_everything_else_was_asked(tmp_path):
    """Else twenty questions that can never be answered would hold up the rest for ever."""

    class Picky(Capital):
        async def generate(self, conversation: Any, **kwargs: Any) -> list[Generation]:
            generations = await super().generate(conversation, **kwargs)
            if int(conversation[1].content.split()[1][:-1]) < 2 * GIVE_UP_AFTER:
                raise ModelError("too long; shorten it")
            return generations

    for _ in range(4):
        report = ken.audit(many(300), model=Picky(), strategies="direct", samples=0, out=tmp_path / "a")
    assert report.failed == 2 * GIVE_UP_AFTER
    assert report.unasked == 0


def test_a_dead_search_engine_stops_it_too_and_its_victims_are_asked_again(tmp_path):
    class Dead:
        name = "engine"
        alive = False

        async def search(self, query: str, k: int) -> list[Passage]:
            await asyncio.sleep(0)
            if not self.alive:
                raise SourceError("the engine is off; switch it on")
            return [Passage(id="d", text="Oslo")]

        async def close(self) -> None:
            pass

    class Searcher(ScriptedModel):
        def __init__(self) -> None:
            super().__init__(
                lambda p: (
                    "<answer> Oslo </answer>" if "<information>" in p.split("capital")[-1] else "<search> x </search>"
                ),
                spec="scripted",
            )

    questions = [Question(id=f"q{i}", text=f"capital {i}?", answers=("Oslo",)) for i in range(100)]
    engine = Dead()
    arguments: dict[str, Any] = {"index": engine, "strategies": "direct,search", "samples": 0, "out": tmp_path / "a"}
    report = ken.audit(questions, model=Searcher(), **arguments)
    assert report.unasked > 0
    assert {strategy for _, strategy, _ in report.failures} == {"search"}
    assert all("the search failed: the engine is off" in error for *_, error in report.failures)
    engine.alive = True
    report = ken.audit(questions, model=Searcher(), **arguments)
    assert (report.failed, report.unasked) == (0, 0)
    assert next(s for s in report.strategies if s.strategy == "search").em == 1.0


def test_parameters_that_the_server_refused_are_in_the_report_and_stay_there(tmp_path):
    model = Capital()
    model.dropped = {"seed"}
    report = ken.audit(many(2), model=model, strategies="direct", samples=1, out=tmp_path / "a")
    assert any("does not take the parameter seed" in note for note in report.notes)
    assert ken.rescore(tmp_path / "a").notes == report.notes
    again = ken.audit(many(2), model=Capital(), strategies="direct", samples=1, out=tmp_path / "a")
    assert again.notes == report.notes


def test_what_the_model_cannot_do_is_raised_as_it_is_and_what_was_answered_is_kept(tmp_path):
    class Limited(Capital):
        async def generate(self, conversation: Any, **kwargs: Any) -> list[Generation]:
            generations = await super().generate(conversation, **kwargs)
            if "Question 7?" in str(conversation):
                raise Unsupported("this model cannot do that; use another")
            return generations

    with pytest.raises(Unsupported, match="this model cannot do that"):
        ken.audit(many(300), model=Limited(), strategies="direct", samples=0, out=tmp_path / "a")
    report = ken.audit(many(300), model=Capital(), strategies="direct", samples=0, out=tmp_path / "a")
    assert (report.questions, report.failed, report.unasked) == (300, 0, 0)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 3}, "samples was 2 and is 3"),
        ({"threshold": 0.9}, "threshold was 0.5 and is 0.9"),
        ({"sampling": ken.Sampling(max_tokens=7)}, "max_tokens was 512 and is 7"),
        ({"questions": many(3)[:2]}, "there were 3 questions and are 2"),
        ({"questions": [*many(2), Question(id="q2", text="Else?")]}, "the questions or their answers are others"),
    ],
)
def test_an_audit_with_other_settings_is_refused_and_nothing_is_touched(tmp_path, changes, said):
    arguments: dict[str, Any] = {"questions": many(3), "samples": 2}
    ken.audit(**arguments, model=Capital(), strategies="direct", out=tmp_path / "a")
    before = snapshot(tmp_path / "a")
    model = Capital()
    with pytest.raises(BadInput, match="other settings") as caught:
        ken.audit(**{**arguments, **changes}, model=model, strategies="direct", out=tmp_path / "a")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path / "a") == before
    assert model.calls == []


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="is not empty and holds no audit"):
        ken.audit(many(1), model=Capital(), strategies="direct", out=tmp_path)
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_what_a_kill_left_of_writing_the_settings_is_no_foreign_folder(tmp_path):
    (tmp_path / ".run.json.4711").write_text("{")
    assert ken.audit(many(1), model=Capital(), strategies="direct", samples=0, out=tmp_path).questions == 1


def test_a_folder_in_use_is_refused(tmp_path):
    ken.audit(many(1), model=Capital(), strategies="direct", samples=0, out=tmp_path / "a")
    log = LogWriter(tmp_path / "a" / "trajectories.jsonl")
    with pytest.raises(BadInput, match="another audit is writing"):
        ken.audit(many(1), model=Capital(), strategies="direct", samples=0, out=tmp_path / "a")
    log.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions": []}, "no questions"),
        ({"questions": [*many(1), *many(1)]}, "'q0' is used 2 times"),
        ({"questions": [Question(id="q", text="\ud800")]}, "cannot be written"),
        ({"samples": -1}, "samples is -1"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"strategies": "direct,psychic"}, "no strategy 'psychic'"),
        ({"strategies": ["rag"]}, "no index was given, and 'rag' needs one"),
        ({"top_k": 0}, "top_k is 0"),
        ({"index": 3}, "not int"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_asked_or_written(tmp_path, changes, said):
    model = Capital()
    arguments: dict[str, Any] = {"questions": many(1), "strategies": "direct", **changes}
    with pytest.raises(BadInput) as caught:
        ken.audit(**arguments, model=model, out=tmp_path / "a")
    assert said in str(caught.value)
    assert model.calls == []
    assert not (tmp_path / "a").exists()


def test_an_audit_of_nothing_cannot_be_rescored(tmp_path):
    with pytest.raises(BadInput, match=r"holds no audit \(there is no run\.json\)"):
        ken.rescore(tmp_path)
    (tmp_path / "run.json").write_text('{"model": 3}')
    with pytest.raises(BadInput, match=r"run\.json cannot be read"):
        ken.rescore(tmp_path)


def test_progress_counts_what_earlier_runs_did(tmp_path):
    ken.audit(many(2), model=Capital(), strategies="direct", samples=0, out=tmp_path / "a")
    log = tmp_path / "a" / "trajectories.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    seen: list[tuple[int, int, int]] = []
    ken.audit(
        many(2),
        model=Capital(),
        strategies="direct",
        samples=0,
        out=tmp_path / "a",
        on_progress=lambda p: seen.append((p.done, p.total, p.failed)),
    )
    assert seen == [(1, 2, 0), (2, 2, 0)]


# --- the real command, killed and interrupted ------------------------------------------------------------------------


class Blocking:
    """A server plan that answers `free` requests and then hangs, until `free` is raised."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.answered: Counter[str] = Counter()
        self.blocked = threading.Event()

    def __call__(self, number: int, payload: dict[str, Any]) -> Answer | Hang:
        if self.answered.total() >= self.free:
            self.blocked.set()
            return Hang()
        self.answered[json.dumps([payload["messages"], payload["seed"]])] += 1
        return serve(number, payload)  # type: ignore[return-value]


def audit_command(tmp_path: Path, url: str) -> list[str]:
    questions, index = write_questions(tmp_path / "q.jsonl"), tmp_path / "index"
    if not index.exists():
        build_index(index)
    options = ["--questions", questions, "--index", index, "--model", "openai/m", "--base-url", url]
    return command("audit", *options, "--samples", 2, "--concurrency", 2, "--out", tmp_path / "out")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_or_interrupted_audit_goes_on_and_asks_nothing_twice_that_was_answered(tmp_path, end):
    plan = Blocking(free=20)
    with FaultyServer(plan) as server:
        line = audit_command(tmp_path, server.base_url)
        process = subprocess.Popen(
            line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        try:
            assert plan.blocked.wait(60), "it never asked that much"
            assert server.wait_until(lambda: server.in_flight == 2, 60), "two requests hang"
            os.kill(process.pid, end)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
        if end == signal.SIGINT:
            assert process.returncode == 130
            assert err == "ken: interrupted; what was answered is kept: give the same command again to go on\n"
            assert out == ""
        else:
            assert process.returncode == -end
        done = read_log(tmp_path / "out" / "trajectories.jsonl")
        assert len(done) >= 5
        assert all(t.error is None for t in done.values())

        plan.free = 10_000
        before = Counter(plan.answered)
        done_questions = {(t.question.id, t.strategy, t.sample) for t in done.values()}
        finished = subprocess.run(
            line, env=environment(), capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
        )
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (report["questions"], report["unasked"], report["failures"]) == (len(CAPITALS), 0, [])
    # A request is answered twice only if its attempt was under way at the end: at most two were.
    twice = [key for key, count in plan.answered.items() if count > 1]
    assert all(before[key] == 1 and plan.answered[key] == 2 for key in twice)
    logged = read_log(tmp_path / "out" / "trajectories.jsonl")
    assert done_questions < logged.keys()
    assert {key: logged[key] for key in done} == done
    lines = (tmp_path / "out" / "trajectories.jsonl").read_bytes().splitlines()
    assert len(lines) == len(logged), "no attempt was made twice"
    asked_anew = {key for key, t in logged.items() if key not in done}
    calls = sum(logged[key].usage.model_calls for key in asked_anew)
    assert plan.answered.total() - before.total() == calls, "the second run asked what was missing and no more"


def test_a_second_audit_of_the_same_folder_is_refused_while_one_runs(tmp_path):
    plan = Blocking(free=3)
    with FaultyServer(plan) as server:
        line = audit_command(tmp_path, server.base_url)
        process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert plan.blocked.wait(60)
            second = run_ken(*line[1:], cwd=tmp_path)
        finally:
            process.kill()
            process.wait()
    assert second.returncode == 2
    assert "another audit is writing" in second.stderr
    assert second.stderr.count("\n") == 1
