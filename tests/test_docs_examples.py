"""What the documentation shows is run as it stands there, page by page, in a folder of its own.

A block with a title is a file. A `console` block is a session: commands behind `$`, and what they print. Untitled
Python is run in one namespace. A line of output that is only `…` stands for any lines; times may differ, and other
numbers by what another processor rounds otherwise.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the examples ask the lab model")

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SECONDS = re.compile(r"\d+(?:\.\d+)?(?= ?(?:s\b|seconds))")


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(language, title or "", body) for language, title, body in _BLOCK.findall(text)]


def sessions(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            line, _, output = output.partition("\n")
            command = f"{command[:-1]} {line.strip()}"
        yield command, output


class Reader:
    """Does what a page says, in the current folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch
        self.names: dict[str, object] = {}
        self.apart = 0.1  # how far numbers may be, relatively; a training's depend on how its sums are split

    def read(self, page: str) -> int:
        """Follow a page from top to bottom; returns how many commands were run."""
        count = 0
        for block in blocks(page):
            if block.title:
                Path(block.title).parent.mkdir(exist_ok=True)
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                exec(compile(block.text, page, "exec"), self.names)  # noqa: S102 (the page is this repository's own)
            elif block.language == "console":
                for command, expected in sessions(block):
                    self.compare(command, expected, self.run(command), apart=self.apart)
                    count += 1
        return count

    def run(self, command: str) -> str:
        """What a command prints. Python and Ken run in this process, which has torch loaded already."""
        self.capsys.readouterr()
        first, *arguments = shlex.split(command)
        if not set(";|&<>$") & set(command):
            if first == "ken":
                return self.in_process("ken", arguments)
            if first == "python" and arguments[0].endswith(".py"):
                self.monkeypatch.setattr(sys, "argv", arguments)
                runpy.run_path(arguments[0], run_name="__main__")
                return self.capsys.readouterr().out
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"}
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def in_process(self, name: str, arguments: list[str]) -> str:
        from ken.cli import main

        self.monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self.capsys.readouterr()
        # What cannot work is shown too: there the error line is the output.
        return said.out if not ended.value.code else said.out + said.err

    @staticmethod
    def compare(command: str, expected: str, printed: str, *, apart: float = 0.1) -> None:
        wanted, got = _words(expected), _words(printed)
        pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line) + "\n" for line in _shape(wanted))
        same = re.fullmatch(pattern, "".join(line + "\n" for line in _shape(got))) is not None
        if same and "…" not in wanted:
            pairs = zip(_numbers(wanted), _numbers(got), strict=True)
            same = all(abs(a - b) <= max(0.05, apart * abs(a)) for a, b in pairs)
        assert same, f"$ {command}\nprinted\n{printed}\nand not\n{expected}"


def _words(text: str) -> list[str]:
    """Lines without white space that says nothing; a time is a time."""
    lines = (" ".join(_SECONDS.sub("T", line).split()) for line in text.splitlines())
    return [line for line in lines if line]


def _shape(lines: list[str]) -> list[str]:
    return [line if line == "…" else _NUMBER.sub("0", line) for line in lines]


def _numbers(lines: list[str]) -> list[float]:
    return [float(number.replace(",", "")) for line in lines for number in _NUMBER.findall(line)]


@pytest.fixture
def reader(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in an empty folder."""
    from ken.agents import STRATEGIES

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    known, loaded = dict(STRATEGIES), set(sys.modules)
    yield Reader(capsys, monkeypatch)
    STRATEGIES.clear()
    STRATEGIES.update(known)
    for name in set(sys.modules) - loaded:  # a page's own modules; the next page may have others of that name
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def practised(reader: Reader) -> Reader:
    """One who has made the world of the first page."""
    setup = next(b for b in blocks("index.md") if b.language == "console" and "ken lab write" in b.text)
    for command, expected in sessions(setup):
        reader.compare(command, expected, reader.run(command))
    return reader


def test_the_comparison_can_fail() -> None:
    Reader.compare("ken", "found 3 in 0.1 s\n…\nend\n", "found 3  in 9.5 s\nmore\nlines\nend\n")
    for expected, printed in (("found 3\n", "lost 3\n"), ("found 3\n", "found 4\n"), ("a\n…\nb\n", "a\nc\n")):
        with pytest.raises(AssertionError):
            Reader.compare("ken", expected, printed)


def test_add_a_strategy(practised: Reader) -> None:
    assert practised.read("add-a-strategy.md") == 3
    assert Path("agree-audit/audit.html").is_file()


def test_add_a_source(practised: Reader) -> None:
    assert practised.read("add-a-source.md") == 3


def test_the_protocol_of_add_a_source_is_that_of_ken_retrieve(practised: Reader) -> None:
    import json

    from fastapi.testclient import TestClient

    from ken.serving.retrieve import create_app
    from ken.sources.search.index import Index

    request, response = (json.loads(b.text) for b in blocks("add-a-source.md") if b.language == "json")
    answered = TestClient(create_app(Index.open("my-index"))).post("/retrieve", json=request).json()
    (((shown,),), ((found,),)) = response["result"], answered["result"]
    assert found["document"] == shown["document"]
    assert found["score"] == pytest.approx(shown["score"], abs=0.1)


def test_the_papers_feed(reader: Reader) -> None:
    assert reader.read("papers-feed.md") == 2


@pytest.mark.slow
def test_add_a_paper(practised: Reader) -> None:
    (strategy,) = (b for b in blocks("add-a-strategy.md") if b.title == "agree.py")
    Path("agree.py").write_text(strategy.text, encoding="utf-8")
    assert practised.read("add-a-paper.md") == 1
    assert Path("my-results/agreement.json").is_file()


@pytest.mark.slow
def test_start_here(reader: Reader) -> None:
    assert reader.read("index.md") >= 5


@pytest.mark.slow
def test_ask(practised: Reader) -> None:
    assert practised.read("ask.md") >= 8


@pytest.mark.slow
def test_audit(practised: Reader) -> None:
    assert practised.read("audit.md") == 5


@pytest.mark.slow
def test_training(practised: Reader) -> None:
    pytest.importorskip("trl", reason="needs the extra `train`")
    practised.apart = 0.4
    assert practised.read("training.md") == 5
    assert Path("my-run/model").is_dir()
    assert Path("run/model").is_dir()


@pytest.mark.slow
def test_reproduce(reader: Reader) -> None:
    pytest.importorskip("trl", reason="needs the extra `train`")
    assert reader.read("reproduce.md") == 4
