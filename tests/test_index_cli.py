"""`ken index`, `ken search` and `ken retrieve serve` as a user runs them: real processes, real files, real exit
statuses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ken.core import Passage
from ken.sources.search.index import Index

DOCUMENTS = {"curie": "Marie Curie discovered radium.", "bohr": "Niels Bohr founded an institute."}


def ken(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ken.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment, timeout=120)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working directory with a corpus and its index."""
    lines = (json.dumps({"id": key, "contents": text}) + "\n" for key, text in DOCUMENTS.items())
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    Index.build(tmp_path / "corpus.jsonl", tmp_path / "index")
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_documents_are_indexed_found_changed_and_removed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "curie.md").write_text("# Marie Curie\n\nShe discovered radium.")
    built = ken("index", "build", "docs", "index", cwd=tmp_path)
    assert (built.returncode, built.stderr) == (0, "")
    assert "indexed 1 documents (1 passages)" in built.stdout

    (tmp_path / "more.jsonl").write_text('{"id": "bohr", "title": "Niels Bohr", "text": "He founded an institute."}\n')
    assert "added 1 documents; the index now has 2" in ken("index", "add", "index", "more.jsonl", cwd=tmp_path).stdout
    again = ken("index", "add", "index", "more.jsonl", "--update", cwd=tmp_path)
    assert "the index now has 2" in again.stdout

    found = ken("search", "who discovered radium?", "--index", "index", "-k", "1", cwd=tmp_path)
    assert "Marie Curie" in found.stdout
    assert "curie.md  docs/curie.md" in found.stdout
    passages = json.loads(ken("search", "institute", "--index", "index", "--json", cwd=tmp_path).stdout)
    assert [Passage.model_validate(p).id for p in passages] == ["bohr"]

    info = json.loads(ken("index", "info", "index", "--json", cwd=tmp_path).stdout)
    assert (info["documents"], info["tokenizer"], info["model"]) == (2, "english", None)
    assert "200 words" in ken("index", "info", "index", cwd=tmp_path).stdout

    assert "removed 1 documents" in ken("index", "remove", "index", "curie.md", cwd=tmp_path).stdout
    nothing = ken("search", "radium", "--index", "index", cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no passage" in nothing.stderr


def test_ken_toml_names_the_index(home: Path) -> None:
    (home / "ken.toml").write_text('index = "index"\n')
    assert "radium" in ken("search", "radium", cwd=home).stdout


BAD = {
    "an empty query": (["search", " ", "--index", "index"], "the query is empty"),
    "k of zero": (["search", "x", "--index", "index", "-k", "0"], "k must be at least 1, not 0"),
    "a negative k": (["search", "x", "--index", "index", "-k", "-3"], "k must be at least 1, not -3"),
    "no index named": (["search", "x"], "--index DIR"),
    "a missing index": (["search", "x", "--index", "nowhere"], "there is no index at nowhere"),
    "a missing index, info": (["index", "info", "nowhere"], "there is no index at nowhere"),
    "a missing index, add": (["index", "add", "nowhere", "corpus.jsonl"], "there is no index at nowhere"),
    "a missing index, serve": (["retrieve", "serve", "--index", "nowhere"], "there is no index at nowhere"),
    "a foreign folder": (["search", "x", "--index", "docs"], "docs is not a Ken index"),
    "an unknown mode": (["search", "x", "--index", "index", "--mode", "magic"], "choose one of bm25, dense, hybrid"),
    "dense without vectors": (["search", "x", "--index", "index", "--mode", "dense"], "--dense MODEL"),
    "a retriever that is down": (["search", "x", "--index", "http://127.0.0.1:9/"], "check that it runs"),
    "an empty corpus": (["index", "build", "empty.jsonl", "new"], "holds no documents"),
    "a missing corpus": (["index", "build", "nowhere.jsonl", "new"], "check the path"),
    "a folder without documents": (["index", "build", "none", "new"], "holds no documents; expected files ending in"),
    "an unreadable file": (["index", "build", "unreadable", "new"], "cannot be read"),
    "a file that is not UTF-8": (["index", "build", "latin", "new"], "note.txt:1: not UTF-8"),
    "a corpus that is not UTF-8": (["index", "build", "latin.jsonl", "new"], "latin.jsonl:1: not UTF-8"),
    "a line that is not JSON": (["index", "build", "broken.jsonl", "new"], "broken.jsonl:2: not JSON"),
    "duplicate ids": (["index", "build", "twice.jsonl", "new"], "twice.jsonl:3: the id 'a' was used before, on line 1"),
    "an id that is there": (["index", "add", "index", "corpus.jsonl"], "--update"),
    "an unknown id": (["index", "remove", "index", "curie", "nobody"], "nothing was removed: 'nobody'"),
    "a folder in use": (["index", "build", "corpus.jsonl", "docs"], "not empty and not a Ken index"),
    "an unknown tokenizer": (["index", "build", "corpus.jsonl", "new", "--tokenizer", "x"], "choose one of"),
    "impossible overlap": (["index", "build", "corpus.jsonl", "new", "--overlap", "200"], "overlap"),
    "a model that is none": (["index", "build", "corpus.jsonl", "new", "--dense", "none"], "cannot be loaded"),
    "an address of another": (["retrieve", "serve", "--index", "index", "--host", "203.0.113.1"], "cannot listen"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_what_to_do_status_2_and_nothing_written(home: Path, case: str) -> None:
    arguments, message = BAD[case]
    for folder in ("docs", "none", "unreadable", "latin"):
        (home / folder).mkdir()
    (home / "docs" / "thesis.tex").write_text("precious")
    (home / "unreadable" / "gone.md").symlink_to("nowhere")
    (home / "latin" / "note.txt").write_bytes("naïve".encode("latin-1"))
    (home / "latin.jsonl").write_bytes('{"id": "1", "contents": "naïve"}\n'.encode("latin-1"))
    (home / "broken.jsonl").write_text('{"id": "1", "contents": "fine"}\n{"id": \n')
    twice = [{"id": "a", "contents": "1"}, {"id": "b", "contents": "2"}, {"id": "a", "contents": "3"}]
    (home / "twice.jsonl").write_text("".join(json.dumps(record) + "\n" for record in twice))
    (home / "empty.jsonl").write_text("")
    before = names(home)
    result = ken(*arguments, cwd=home)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("ken: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert names(home) == before
    assert len(Index.open(home / "index")) == 2


def test_skipped_documents_are_counted_with_reasons(tmp_path: Path) -> None:
    lines = ['{"id": "good", "contents": "fine"}', *["{"] * 6, '{"id": "good", "contents": "again"}']
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    result = ken("index", "build", "corpus.jsonl", "index", "--skip-bad", cwd=tmp_path)
    assert result.returncode == 0
    assert "indexed 1 documents" in result.stdout
    assert "skipped 7 documents" in result.stderr
    assert "corpus.jsonl:2: not JSON" in result.stderr
    assert "and 2 more" in result.stderr


def test_a_source_of_only_bad_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("{\n{\n")
    result = ken("index", "build", "corpus.jsonl", "index", "--skip-bad", cwd=tmp_path)
    assert result.returncode == 2
    assert "none of the documents" in result.stderr
    assert names(tmp_path) == {"corpus.jsonl"}


def test_documents_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """Neither markup, nor colours, nor cursor movements, nor a title for the window."""
    evil = "radium [bold red]markup[/bold red] [link=http://x]y[/link] "
    evil += "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202eback \x07\x00 end"
    document = Passage(id="a\x1b[1m", title="[red]Title\x1b[0m", text=evil, source="\x1b[5msource")
    Index.build([document], tmp_path / "index")
    shown = ken("search", "radium", "--index", "index", cwd=tmp_path).stdout
    assert "[bold red]markup[/bold red]" in shown
    assert "[red]Title" in shown
    assert not any(c in shown for c in "\x1b\x9b\x07\x00\u202e")
    assert "owned" not in shown
    assert ken("search", "radium", "--index", "index", "--json", cwd=tmp_path).stdout.isascii()


def test_a_killed_build_leaves_the_old_index_and_a_second_run_completes(home: Path) -> None:
    """The corpus is a pipe that never ends: the build is certainly under way when it is killed."""
    os.mkfifo(home / "pipe.jsonl")
    command = [sys.executable, "-c", "from ken.cli import main; main()", "index", "build", "pipe.jsonl", "index"]
    process = subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True)
    with (home / "pipe.jsonl").open("w"):  # returns when the build has opened it
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert "radium" in ken("search", "radium", "--index", "index", cwd=home).stdout
    assert ken("index", "build", "corpus.jsonl", "index", cwd=home).returncode == 0
    assert len(list((home / "index").glob("gen-*"))) == 1


def test_an_index_is_served_until_interrupted(home: Path) -> None:
    arguments = ["retrieve", "serve", "--index", "index", "--port", "0"]
    command = [sys.executable, "-c", "from ken.cli import main; main()", *arguments]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = next(word for word in line.split() if word.startswith("http://"))
        request = {"queries": ["radium"], "topk": 1, "return_scores": True}
        ((found,),) = httpx.post(address, json=request, timeout=30).json()["result"]
        assert found["document"] == {"id": "curie", "contents": DOCUMENTS["curie"]}
        assert "radium" in ken("search", "radium", "--index", address, cwd=home).stdout
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
