"""`ken audit feasibility`: any model's judgements of what it can do, counted against labels, without training."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from capitals import command, environment, run_ken
from conftest import Served
from faulty_server import Action, Answer, FaultyServer, Hang, Status

from ken.auditing.asking import TOGETHER
from ken.auditing.feasibility import JUDGEMENTS, MADE_UP, REPORT, audit_feasibility
from ken.core import BadInput, ModelError, Question, Sampling
from ken.models.scripted import ScriptedModel

# Questions with what is true of them; the word tells the model below what to say.
TASKS = [
    ("sure", "Who wrote the Odyssey?", True, None),
    ("sure", "What is the capital of Norway?", True, None),
    ("unsure", "Which metal melts at 1064 degrees?", True, None),
    ("mumble", "Which planet is largest?", True, None),
    ("unsure", "What will the weather be next year?", False, "after cut-off"),
    ("unsure", "Who is the better painter?", False, "no consensus"),
    ("sure", "How many grains of sand are there?", False, "complexity"),
    ("mumble", "What colour has it?", False, "missing context"),
    ("unsure", "Where is it?", False, "missing context"),
    ("sure", "What is beyond?", False, "unheard-of"),
]
SAYS = {"sure": "<assessment>yes</assessment>", "unsure": "<assessment>no</assessment>", "mumble": "well"}


def questions() -> list[Question]:
    return [
        Question(id=f"q{i}", text=f"{text} ({word})", meta={"answerable": can, **({"reason": why} if why else {})})
        for i, (word, text, can, why) in enumerate(TASKS)
    ]


def write(path: Path, asked: list[Question] | None = None) -> Path:
    lines = [json.dumps({"id": q.id, "question": q.text, **q.meta}) for q in asked or questions()]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def said(text: str) -> str:
    return next(reply for word, reply in SAYS.items() if f"({word})" in text)


def line(url: str, *more: object) -> list[object]:
    options = ["--questions", "q.jsonl", "--model", "openai/m", "--base-url", url, "--samples", 2, "--out", "out"]
    return ["audit", "feasibility", *options, *more]


def test_the_confusion_and_the_types_are_those_counted_by_hand(tmp_path: Path) -> None:
    report = audit_feasibility(questions(), model=ScriptedModel(said), out=tmp_path / "out", samples=3)
    single, voted = report.given.single, report.given.voted
    confusion = (single.feasible_feasible, single.feasible_infeasible, single.unread_feasible)
    assert confusion == (6, 3, 3)
    confusion = (single.infeasible_feasible, single.infeasible_infeasible, single.unread_infeasible)
    assert confusion == (6, 9, 3)
    assert (voted.feasible_feasible, voted.infeasible_infeasible, voted.n) == (2, 3, 10)
    assert single.accuracy == voted.accuracy == 0.5
    assert single.overconfident == pytest.approx(6 / 30)
    assert {name: (s.n, s.accuracy) for name, s in report.given.by_type.items()} == {
        "feasible": (12, 0.5),
        "temporal perception": (3, 1.0),
        "identification of ambiguity": (3, 1.0),
        "capability boundary": (3, 0.0),
        "contextual awareness": (6, 0.5),
        "unheard-of": (3, 0.0),
    }
    assert (report.failed, report.made_up) == (0, None)
    assert json.loads((tmp_path / "out" / REPORT).read_bytes()) == report.model_dump(mode="json")


def test_the_command_prints_both_tables_and_asks_nothing_twice(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl")
    with FaultyServer(lambda number, payload: Answer(said(payload["messages"][-1]["content"]))) as server:
        done = run_ken(*line(server.base_url), cwd=tmp_path)
        asked = len(server.requests)
        again = run_ken(*line(server.base_url), cwd=tmp_path)
        assert len(server.requests) == asked == 20
    assert (done.returncode, done.stderr) == (0, "")
    rows = [row.split() for row in done.stdout.splitlines() if row.strip()]
    assert ["feasible", "4", "2", "2"] in rows
    assert ["infeasible", "4", "6", "2"] in rows
    assert ["single", "0.500", "0.550", "0.600", "0.200", "0.100"] in rows
    assert ["contextual", "awareness", "4", "0.500", "0.000", "2"] in rows
    assert all(len(row) <= 80 for row in done.stdout.splitlines())
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_judgements_that_failed_are_said_and_tried_again(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl")

    def broken(number: int, payload: dict[str, Any]) -> Action:
        text = payload["messages"][-1]["content"]
        return Status(400) if "planet" in text else Answer(said(text))

    with FaultyServer(broken) as server:
        done = run_ken(*line(server.base_url), cwd=tmp_path)
    assert done.returncode == 1
    assert "ken: 2 judgements failed (" in done.stderr
    report = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert (report["given"]["failed"], report["given"]["single"]["unread_feasible"]) == (2, 2)
    with FaultyServer(lambda number, payload: Answer(SAYS["sure"])) as server:
        mended = run_ken(*line(server.base_url), cwd=tmp_path)
        assert len(server.requests) == 2
    assert mended.returncode == 0
    assert ["feasible", "6", "2", "0"] in [row.split() for row in mended.stdout.splitlines()]


def test_a_model_that_stops_answering_ends_it_and_what_was_judged_is_kept(tmp_path: Path) -> None:
    many = [
        Question(id=f"q{i}", text=f"What is {i}? (sure)", meta={"answerable": bool(i % 2)}) for i in range(TOGETHER + 9)
    ]
    calls: list[str] = []

    def dies(prompt: str) -> str:
        calls.append(prompt)
        if len(calls) > TOGETHER:
            raise ModelError("the server is gone.")
        return SAYS["sure"]

    sampling = Sampling(temperature=0.0, max_tokens=16)
    with pytest.raises(ModelError, match=r"did not answer 9 times in a row \(the server is gone\); mend that and give"):
        audit_feasibility(many, model=ScriptedModel(dies), out=tmp_path / "out", samples=1, sampling=sampling)
    assert not (tmp_path / "out" / REPORT).exists()
    seen: list[tuple[int, int]] = []
    model = ScriptedModel(said)
    report = audit_feasibility(
        many,
        model=model,
        out=tmp_path / "out",
        samples=1,
        sampling=sampling,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert len(model.calls) == 9
    assert seen == [(TOGETHER + more, TOGETHER + 9) for more in range(10)]
    assert report.given.single.says_feasible == 1


def test_an_interruption_keeps_what_was_judged(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl")
    hanging = threading.Event()

    def stuck(number: int, payload: dict[str, Any]) -> Action:
        text = payload["messages"][-1]["content"]
        if "planet" not in text:
            return Answer(said(text))
        hanging.set()
        return Hang()

    with FaultyServer(stuck) as server:
        process = subprocess.Popen(
            command(*line(server.base_url)), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
        )
        assert hanging.wait(timeout=120)
        kept = tmp_path / "out" / JUDGEMENTS
        deadline = time.monotonic() + 60
        while len(kept.read_bytes().splitlines()) < 9 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert "what was judged is kept" in err
    with FaultyServer(lambda number, payload: Answer(SAYS["sure"])) as server:
        done = run_ken(*line(server.base_url), cwd=tmp_path)
        assert len(server.requests) == 2
    assert done.returncode == 0


def test_tasks_of_its_own_are_judged_against_the_kind_asked_for(tmp_path: Path) -> None:
    turn = count()

    def reply(prompt: str) -> str:
        """Marks what it makes up by how it will judge it, and takes offensive topics to be feasible."""
        if "Kind: " not in prompt:
            return said(prompt)
        sure = "Kind: feasible" in prompt or "offensive" in prompt
        return f"a{next(turn)} b{next(turn)} c{next(turn)} d{next(turn)} ({'sure' if sure else 'unsure'})?"

    report = audit_feasibility(questions(), model=ScriptedModel(reply), out=tmp_path / "out", samples=2, made_up=20)
    own = report.made_up
    assert own is not None
    assert (own.tasks, own.single.n, own.voted.n) == (20, 40, 20)
    assert (own.single.feasible_feasible, own.single.infeasible_feasible) == (20, 2)
    assert (own.by_type["ethical integrity"].n, own.by_type["ethical integrity"].accuracy) == (4, 0.5)
    assert own.by_type["temporal perception"].accuracy == 1
    assert report.given.single.accuracy == 0.5, "what it makes up is no truth, and counted apart"
    assert (tmp_path / "out" / MADE_UP).is_file()
    first = [json.loads(row) for row in (tmp_path / "out" / JUDGEMENTS).read_text().splitlines()]
    assert [row["kind"] for row in first] == ["given"] * 10 + ["made up"] * 20
    nobody = ScriptedModel(lambda prompt: pytest.fail("all of it is known"))
    assert audit_feasibility(questions(), model=nobody, out=tmp_path / "out", samples=2, made_up=20) == report


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda line: line.replace('"answerable": true', '"answerable": "yes"'), "q.jsonl"),
        (lambda line: "", "no questions"),
        (lambda line: line.replace('"q1"', '"q0"'), "used before"),
    ],
    ids=["a mark that is none", "empty", "an id twice"],
)
def test_questions_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, change: Callable[[str], str], problem: str
) -> None:
    path = write(tmp_path / "q.jsonl")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    done = run_ken(*line("http://127.0.0.1:1/v1"), cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_work_are_one_sentence_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl")
    for more, problem in [
        (["--temperature", 0], "at temperature 0 are all the same"),
        (["--made-up", 1], "made_up is 1"),
        (["--made-up", 4, "--limit", 3], "the seed holds no infeasible tasks"),
        (["--questions", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "gpt"], "'gpt' is not a model"),
    ]:
        done = run_ken(*line("http://127.0.0.1:1/v1", *more), cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert problem in done.stderr
        assert not (tmp_path / "out").exists()
    done = run_ken("audit", "feasibility", "--model", "openai/m", cwd=tmp_path)
    assert done.returncode == 2
    assert "needs --questions FILE" in done.stderr


def test_a_folder_is_of_one_run_only(tmp_path: Path) -> None:
    audit_feasibility(questions(), model=ScriptedModel(said), out=tmp_path / "out", samples=2)
    with pytest.raises(BadInput, match=r"with other settings \(samples was 2 and is 3\)"):
        audit_feasibility(questions(), model=ScriptedModel(said), out=tmp_path / "out", samples=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty and holds no judgements"):
        audit_feasibility(questions(), model=ScriptedModel(said), out=tmp_path / "mine")


def test_an_endpoint_needs_no_torch() -> None:
    code = "import sys, ken.auditing.feasibility; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_served_model_judges_as_the_same_model_in_this_process(tmp_path: Path, lab_server: Served) -> None:
    from ken.lab import FactWorld, render

    facts = sorted(render.questions(FactWorld()), key=lambda q: -int(str(q.meta["exposures"])))
    asked = [
        Question(id=q.id, text=q.text, meta={"answerable": bool(q.meta["exposures"])})
        for q in [*facts[:4], *facts[-4:]]
    ]
    write(tmp_path / "q.jsonl", asked)
    options = ["--questions", "q.jsonl", "--samples", 1, "--temperature", 0, "--max-tokens", 16]
    address = ["--model", f"openai/{lab_server.model}", "--base-url", lab_server.base_url, "--control-tokens"]
    served = run_ken("audit", "feasibility", *options, *address, "--out", "served", cwd=tmp_path)
    assert served.returncode == 0, served.stderr
    local = run_ken("audit", "feasibility", *options, "--model", "lab/factworld", "--out", "local", cwd=tmp_path)
    assert local.returncode == 0, local.stderr
    one, other = (json.loads((tmp_path / out / REPORT).read_bytes())["given"] for out in ("served", "local"))
    assert one == other
    assert one["single"]["n"] == 8
    assert one["single"]["unread_feasible"] + one["single"]["unread_infeasible"] == 0
