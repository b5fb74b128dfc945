"""`ken demo` and `ken lab write`, as a newcomer runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ken.core.conversation import read_turns

pytest.importorskip("trl", reason="needs the extra `train`")

SHORT = ("--questions", "40", "--samples", "4", "--steps", "3")


def ken(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ken", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_demo_audits_four_strategies_and_shows_three_kinds_of_question(tmp_path: Path) -> None:
    done = ken("demo", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "direct",
        "rag",
        "search",
        "adaptive",
        "F1_aware",
        "One it knows",
        "One it must search",
        "wrongly believes",
        "Now it is taught",
        "before",
        "after",
    ):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines()[:12])) <= 80, "the table fits a terminal"
    report = json.loads((tmp_path / "ken-demo" / "audit" / "audit.json").read_text())
    by_name = {s["strategy"]: s for s in report["strategies"]}
    assert by_name["rag"]["cost"]["searches"] == 1
    assert by_name["direct"]["cost"]["searches"] == 0
    assert by_name["rag"]["em"] > by_name["direct"]["em"] + 0.2, "search helps on a world half of which is unknown"
    assert report["failures"] == []

    again = ken("demo", *SHORT, cwd=tmp_path)
    assert again.stdout == done.stdout, "the demo is the same every time"


@pytest.mark.slow
def test_the_demo_teaches_the_model_when_to_search(tmp_path: Path) -> None:
    done = ken("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    audits = [json.loads((tmp_path / "ken-demo" / name / "audit.json").read_text()) for name in ("before", "after")]
    (before, after) = ({s["strategy"]: s for s in audit["strategies"]}["adaptive"] for audit in audits)
    assert after["em"] > before["em"] + 0.1
    assert after["boundaries"][0]["aware"]["f1"] > before["boundaries"][0]["aware"]["f1"]
    assert 0.2 < after["cost"]["searches"] < 0.9, "it searches for some questions, and not for all"
    assert "One it now decides otherwise: What is" in done.stdout


def test_the_demo_touches_no_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "ken-demo").mkdir()
    (tmp_path / "ken-demo" / "thesis.txt").write_text("mine")
    done = ken("demo", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ken: ken-demo exists and is not a demo's folder")
    assert (tmp_path / "ken-demo" / "thesis.txt").read_text() == "mine"


def test_a_written_world_can_be_indexed_and_asked(tmp_path: Path) -> None:
    assert ken("lab", "write", "factworld", "world", cwd=tmp_path).returncode == 0
    names = {path.name for path in (tmp_path / "world").iterdir()}
    assert names == {"corpus.jsonl", "questions-train.jsonl", "questions-test.jsonl", "triples.tsv", "statements.jsonl"}
    assert ken("index", "build", "world/corpus.jsonl", "index", cwd=tmp_path).returncode == 0

    question = json.loads((tmp_path / "world" / "questions-test.jsonl").read_text().splitlines()[0])
    found = ken("search", question["question"], "--index", "index", "-k", "1", "--json", cwd=tmp_path)
    assert json.loads(found.stdout)[0]["id"] == question["metadata"]["supporting_ids"][0]
    asked = ken(
        "ask",
        question["question"],
        "--index",
        "index",
        "--model",
        "lab/factworld",
        "--strategy",
        "rag",
        "-k",
        "1",
        cwd=tmp_path,
    )
    assert question["golden_answers"][0] in asked.stdout

    assert ken("lab", "write", "factworld", "world", cwd=tmp_path).returncode == 2, "nothing is overwritten"
    assert ken("lab", "write", "conversations", "talk", cwd=tmp_path).returncode == 0
    turns = list(read_turns(tmp_path / "talk" / "turns-test.jsonl"))
    assert turns[1].history[0].query == turns[0].query
    assert all(turn.gold and turn.rewrite for turn in turns)
    assert ken("lab", "write", "atlantis", "other", cwd=tmp_path).stderr.startswith("ken: there is no world 'atlantis'")
