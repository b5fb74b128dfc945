"""Bad input through the real `ken`: one line that says what to do, status 2, no traceback, nothing half-written."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from capitals import build_index, run_ken, write_questions

LAND = '{"id": "a", "contents": "text"}\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with good questions and a good index, and all sorts of bad files."""
    write_questions(tmp_path / "q.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin1.jsonl").write_bytes('{"id": "a", "question": "café?", "contents": "café"}\n'.encode("latin-1"))
    (tmp_path / "twice.jsonl").write_text(LAND * 2)
    (tmp_path / "twice-q.jsonl").write_text('{"id": "a", "question": "x?"}\n' * 2)
    (tmp_path / "broken.jsonl").write_text('{"question": \n')
    (tmp_path / "prose.jsonl").write_text("Dear diary\n")
    (tmp_path / "blank.jsonl").write_text('{"question": "  "}\n')
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "main.tex").write_text("years")
    return tmp_path


MODEL = "--model openai/m --base-url http://127.0.0.1:9/v1"
AUDIT = f"audit {MODEL} --strategies direct"

CASES = {
    "empty question": ("ask '' --index index", "the question is empty"),
    "blank question": (f"ask '  ' --strategy direct {MODEL}", "the question is empty"),
    "nothing to ask": ("ask why", "name a model with --model SPEC, an index with --index DIR"),
    "no question": ("ask", "Missing argument 'QUESTION'; see `ken ask --help`"),
    "unknown model": ("ask why --model gpt-4 --strategy direct", "'gpt-4' is not a model; a model is one of: openai/"),
    "unknown kind of model": ("ask why --model foo/bar --strategy direct", "'foo/bar' is not a model"),
    "unknown lab model": ("ask why --model lab/atlantis --strategy direct", "there is no lab model 'atlantis'"),
    "option of another model": ("ask why --model lab/factworld --base-url http://x --strategy direct", "has no option"),
    "base URL": ("ask why --model openai/m --base-url localhost --strategy direct", "is not an address"),
    "no key": ("ask why --model openai/m --strategy direct", "there is no API key; set OPENAI_API_KEY"),
    "missing index": (f"ask why --index nowhere {MODEL}", "there is no index at nowhere"),
    "foreign index": (f"ask why --index thesis {MODEL}", "thesis"),
    "search without index": (f"ask why {MODEL}", "no index was given"),
    "unknown strategy": (f"ask why --strategy psychic {MODEL}", "there is no strategy 'psychic'; choose from direct"),
    "k of 0": (f"ask why --index index --top-k 0 {MODEL}", "top_k is 0"),
    "k below 0": (f"ask why --index index --top-k -3 {MODEL}", "top_k is -3"),
    "k of words": (f"ask why --index index --top-k many {MODEL}", "Invalid value for '--top-k'"),
    "infinite temperature": (f"ask why --strategy direct --temperature inf {MODEL}", "temperature is inf"),
    "temperature below 0": (f"ask why --strategy direct --temperature -1 {MODEL}", "Invalid value for '--temperature'"),
    "timeout of 0": (f"ask why --strategy direct --timeout 0 {MODEL}", "timeout more than 0"),
    "unknown option": ("ask why --modle x", "No such option"),
    "unknown command": ("aks why", "No such command 'aks'"),
    "search k": ("search capital --index index -k 0", "k must be at least 1"),
    "search nothing": ("search '' --index index", "empty"),
    "search nowhere": ("search x --index nowhere", "there is no index at nowhere"),
    "a search without index": ("search x", "name the index with --index DIR"),
    "empty corpus": ("index build empty.jsonl new", "empty.jsonl"),
    "empty folder": ("index build empty new", "empty"),
    "corpus of duplicates": ("index build twice.jsonl new", "'a'"),
    "corpus of Latin-1": ("index build latin1.jsonl new", "latin1.jsonl:1: not UTF-8"),
    "missing corpus": ("index build nowhere new", "nowhere"),
    "index over a thesis": ("index build q.jsonl thesis", "thesis"),
    "audit of nothing": ("audit", "an audit needs --questions FILE, --model SPEC and --out DIR"),
    "audit: missing file": (f"{AUDIT} --questions nowhere --out new", "there is no file nowhere"),
    "audit: folder": (f"{AUDIT} --questions empty --out new", "empty is a folder"),
    "audit: empty file": (f"{AUDIT} --questions empty.jsonl --out new", "holds no questions"),
    "audit: Latin-1": (f"{AUDIT} --questions latin1.jsonl --out new", "latin1.jsonl:1: not UTF-8"),
    "audit: duplicates": (
        f"{AUDIT} --questions twice-q.jsonl --out new",
        "twice-q.jsonl:2: the id 'a' was used before",
    ),
    "audit: broken": (f"{AUDIT} --questions broken.jsonl --out new", "broken.jsonl:1: not JSON"),
    "audit: prose": (f"{AUDIT} --questions prose.jsonl --out new", "prose.jsonl:1: not JSON"),
    "audit: blank question": (f"{AUDIT} --questions blank.jsonl --out new", "blank.jsonl:1:"),
    "audit: strategy": (
        f"audit {MODEL} --questions q.jsonl --strategies direct,psychic --out new",
        "no strategy 'psychic'",
    ),
    "audit: no index": (
        f"audit {MODEL} --questions q.jsonl --out new",
        "no index was given, and 'rag', 'search', 'adaptive' need one",
    ),
    "audit: samples": (f"{AUDIT} --questions q.jsonl --samples -1 --out new", "Invalid value for '--samples'"),
    "audit: threshold": (f"{AUDIT} --questions q.jsonl --threshold 2 --out new", "Invalid value for '--threshold'"),
    "audit: thesis": (f"{AUDIT} --questions q.jsonl --out thesis", "thesis is not empty and holds no audit"),
    "audit: out is a file": (f"{AUDIT} --questions q.jsonl --out q.jsonl", "q.jsonl is a file"),
    "audit: model": ("audit --questions q.jsonl --model x --strategies direct --out new", "'x' is not a model"),
    "rescore nothing": ("audit rescore nowhere", "nowhere holds no audit"),
    "rescore thesis": ("audit rescore thesis", "thesis holds no audit"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(place, case):
    arguments, said = CASES[case]
    if "--index index" in arguments:
        build_index(place / "index")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    done = run_ken(*shlex.split(arguments), cwd=place)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("ken: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_when_every_line_was_skipped_there_is_nothing_to_audit(place):
    done = run_ken(*AUDIT.split(), "--questions", "broken.jsonl", "--skip-bad", "--out", "new", cwd=place)
    assert done.returncode == 2
    skipped, problem = done.stderr.splitlines()
    assert skipped.startswith("skipped 1 broken lines, the first: broken.jsonl:1: not JSON")
    assert problem == "ken: there are no questions to audit"
    assert not (place / "new").exists()


def test_a_file_that_may_not_be_read_is_one_line(place):
    (place / "q.jsonl").chmod(0)
    if os.access(place / "q.jsonl", os.R_OK):
        pytest.skip("root may read everything")
    done = run_ken("audit", "--questions", "q.jsonl", "--model", "x/y", "--out", "new", cwd=place)
    assert done.returncode == 2
    assert "q.jsonl cannot be read" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(place):
    done = run_ken(*AUDIT.split(), "--questions", "q.jsonl", "--samples", 0, "--out", "/proc/ken", cwd=place)
    assert done.returncode == 2
    assert done.stderr.startswith("ken: /proc/ken cannot be written")
    assert done.stderr.count("\n") == 1


def test_a_question_that_is_not_utf8_is_one_line(place):
    done = run_ken("ask", os.fsdecode(b"caf\xe9"), "--strategy", "direct", *MODEL.split(), cwd=place)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["index"], ["lab"]])
def test_without_arguments_the_help_is_shown(place, arguments):
    done = run_ken(*arguments, cwd=place)
    assert "Usage: ken" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
