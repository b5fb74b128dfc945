"""`ken ask` as a user types it, against a server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from capitals import build_index, run_ken, serve
from faulty_server import Action, Answer, FaultyServer, Status

import ken
from ken.core import Passage, Trajectory


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("capitals") / "index")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(serve) as running:
        yield running


def ask(server: FaultyServer, *arguments: object, cwd: Path) -> Any:
    return run_ken("ask", *arguments, "--model", "openai/m", "--base-url", server.base_url, cwd=cwd)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_what_the_model_knows_is_answered_without_a_search(server, index, tmp_path):
    done = ask(server, "What is the capital of Norway?", "--index", index, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout) == ["decision knows", "because I recall maps.", "answer Oslo"]


def test_what_it_does_not_know_is_searched_and_the_passage_and_its_file_are_shown(server, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "nepal.md").write_text("# Nepal\n\nThe capital of Nepal is Kathmandu.\n")
    assert run_ken("index", "build", "docs", "index", cwd=tmp_path).returncode == 0
    done = ask(server, "What is the capital of Nepal?", "--index", "index", cwd=tmp_path)
    assert done.returncode == 0
    shown = lines(done.stdout)
    assert shown[:4] == [
        "decision does not know",
        "because I recall maps.",
        "searched capital of Nepal",
        "answer Kathmandu",
    ]
    assert "nepal.md" in " ".join(shown[4:])


def test_a_trace_shows_every_step_in_order(server, index, tmp_path):
    done = ask(server, "What is the capital of Cuba?", "--index", index, "--top-k", 1, "--trace", cwd=tmp_path)
    starts = [line.split()[0] for line in lines(done.stdout)]
    assert starts == ["decision", "search", "[1]", "thought", "answer"]


def test_json_is_the_whole_trajectory(server, index, tmp_path):
    done = ask(server, "What is the capital of Cuba?", "--index", index, "--json", cwd=tmp_path)
    trajectory = Trajectory.model_validate(json.loads(done.stdout))
    assert (trajectory.answer, trajectory.error) == ("Havana", None)
    assert done.stdout.isascii()


def test_without_an_answer_it_shows_what_the_model_wrote(index, tmp_path):
    with FaultyServer(lambda number, payload: Answer("I would rather not say.")) as server:
        done = ask(server, "Why?", "--strategy", "direct", cwd=tmp_path)
    assert done.returncode == 0
    assert "no answer" in done.stdout
    assert "it wrote: I would rather not say." in " ".join(done.stdout.split())


def test_a_model_that_fails_is_one_line_and_status_1(index, tmp_path):
    with FaultyServer(lambda number, payload: Status(401, {"error": {"message": "no\nsuch \x1b[31mkey"}})) as server:
        done = ask(server, "Why?", "--strategy", "direct", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ken: openai/m gave no answer:")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_without_any_model_it_says_so_and_shows_the_best_passages(index, tmp_path):
    done = run_ken("ask", "capital of Peru", "--index", index, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("no model was given")
    assert "The capital of Peru is Lima." in done.stdout
    as_json = run_ken("ask", "capital of Peru", "--index", index, "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout)[0]["id"] == "peru"


HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]boo[/] [link=http://evil]x[/link] \u202ekcab \x9b31m [/nope]"


def hostile_model(number: int, payload: dict[str, Any]) -> Action:
    if "<assessment>" in payload["messages"][0]["content"]:
        return Answer(f"{HOSTILE} <assessment>no</assessment>")
    if len(payload["messages"]) < 3:
        return Answer(f"<think>{HOSTILE}</think><search>zzz {HOSTILE}</search>")
    return Answer(f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>")


@pytest.mark.parametrize("options", [[], ["--trace"]])
def test_hostile_text_of_model_and_documents_is_shown_but_never_obeyed(tmp_path, options):
    ken.Index.build([Passage(id="d", title=f"t {HOSTILE}", text=f"zzz {HOSTILE}")], tmp_path / "index")
    with FaultyServer(hostile_model) as server:
        done = ask(server, "zzz?", "--index", "index", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stdout)
    for line in ("answer", "search", "t "):
        assert line in done.stdout
    assert done.stdout.count("[bold red]boo[/]") >= 4, "square brackets are text, not markup"
    assert "[/nope]" in done.stdout


def test_json_escapes_what_a_terminal_could_obey(tmp_path):
    ken.Index.build([Passage(id="d", text=f"zzz {HOSTILE}")], tmp_path / "index")
    with FaultyServer(hostile_model) as server:
        done = ask(server, "zzz?", "--index", "index", "--json", cwd=tmp_path)
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stdout)
    assert HOSTILE.strip() in json.loads(done.stdout)["steps"][-1]["text"]
