"""Graphs built from files: every format, every fault with its place, a kill at any moment, and the commands."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from capitals import command, environment
from test_graph_store import EUROPE, said

from ken.core import BadInput, DataError, SourceError
from ken.sources.graph.building import build_graph, graph_info, open_folder
from ken.sources.graph.opening import open_graph

TABS = "Lisbon\tcapital of\tPortugal\nPorto\tlocated in\tPortugal\nLisbon\tskos:altLabel\tLisboa\n"
TRIPLES = """\
<http://x.y/Lisbon> <http://x.y/capitalOf> <http://x.y/Portugal> .
<http://x.y/Lisbon> <http://www.w3.org/2000/01/rdf-schema#label> "Lisbon" .
"""
TURTLE = '@prefix x: <http://x.y/> .\n@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n' \
    'x:Lisbon x:capitalOf x:Portugal ;\n  rdfs:label "Lisbon" .\n'  # fmt: skip
XML = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:x="http://x.y/"
 xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"><rdf:Description rdf:about="http://x.y/Lisbon">
 <x:capitalOf rdf:resource="http://x.y/Portugal"/><rdfs:label>Lisbon</rdfs:label></rdf:Description></rdf:RDF>"""


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def edges(spec: Any, mention: str) -> list[str]:
    async def go() -> list[str]:
        graph = open_graph(spec)
        try:
            (linked,) = await graph.link(mention)
            return said(await graph.edges(linked.entity.id, limit=20))
        finally:
            await graph.close()

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nt", TRIPLES),
        ("a.ttl", TURTLE),
        ("a.nq", TRIPLES.replace("> .", "> <http://x.y/graph> .")),
        ("a.rdf", XML),
        ("a.nt.gz", gzip.compress(TRIPLES.encode(), mtime=0)),
        ("a.tsv", "<http://x.y/Lisbon>\t<http://x.y/capitalOf>\t<http://x.y/Portugal>\n"),
        ("a.tsv", "\ufeffLisbon\tcapitalOf\tPortugal\r\n\r\n"),
        ("a.tsv.gz", gzip.compress(b"Lisbon\tcapitalOf\tPortugal\n", mtime=0)),
    ],
)
def test_every_format_says_the_same_from_a_file_and_from_a_folder(tmp_path: Path, name: str, content: str | bytes):
    file = write(tmp_path / name, content)
    info = build_graph([file], tmp_path / "graph")
    assert info == graph_info(tmp_path / "graph")
    assert (info.entities, info.relations) == (2, 1)
    assert edges(file, "lisbon") == edges(tmp_path / "graph", "lisbon") == ["Lisbon, capitalOf, Portugal"]


def test_a_folder_answers_as_memory_does(tmp_path: Path):
    file = write(tmp_path / "europe.tsv", "".join("\t".join(triple) + "\n" for triple in EUROPE))
    build_graph([file], tmp_path / "graph")
    for mention in ("Portugal", "Lisboa", "kingdom of Spain", "Ouroboros"):
        assert edges(tmp_path / "graph", mention) == edges(file, mention)


def test_several_files_become_one_graph(tmp_path: Path):
    info = build_graph([write(tmp_path / "a.tsv", TABS), write(tmp_path / "b.ttl", TURTLE)], tmp_path / "graph")
    assert info.triples == 5
    assert edges(tmp_path / "graph", "Portugal") == ["Lisbon, capital of, Portugal", "Porto, located in, Portugal"]


BROKEN = {
    "two.tsv": ("a\tb\tc\na\tb\n", 2, "found 2 fields"),
    "four.tsv": ("a\tb\tc\td\n", 1, "found 4 fields"),
    "empty.tsv": ("a\tb\tc\n\na\t \tc\n", 3, "one empty"),
    "latin.tsv": (b"a\tb\tc\nS\xe3o\tin\tc\n", 2, "is not UTF-8"),
    "iri.tsv": ("a\tb\tc\n<a b>\tb\tc\n", 2, "no absolute IRI"),
    "bad.nt": ("<urn:a> <urn:b> <urn:c> .\nbroken\n", 2, "subject"),
    "bad.ttl": ("@prefix x: <urn:x> .\nx:a x:b x:c .\nx:a x:b bad .\n", 3, "not a valid RDF object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named_and_can_be_left_out(tmp_path: Path, name: str):
    content, line, problem = BROKEN[name]
    file = write(tmp_path / name, content)
    with pytest.raises(DataError, match=problem) as error:
        build_graph([file], tmp_path / "graph")
    assert (error.value.path, error.value.line) == (file, line)
    assert not (tmp_path / "graph").exists()
    good = write(tmp_path / "good.tsv", "good\tr\tx\n")
    bad: list[DataError] = []
    info = build_graph([file, good], tmp_path / "graph", bad=bad)
    assert [one.line for one in bad] == [line]
    assert info.triples == (1 if name == "four.tsv" else 2)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "a,b,c", "is no file of triples"),
        ("a.nt", "", "no triples"),
        ("a.nt.gz", b"\x1f\x8b\x08\x00 not gzip", "cannot be read|ends too early"),
        ("a.nt.gz", gzip.compress(TRIPLES.encode() * 99, mtime=0)[:-20], "ends too early"),
    ],
)
def test_what_holds_no_triples_is_refused(tmp_path: Path, name: str, content: str | bytes, problem: str):
    with pytest.raises(BadInput, match=problem):
        build_graph([write(tmp_path / name, content)], tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_a_file_that_is_not_there_or_a_folder_of_something_else(tmp_path: Path):
    with pytest.raises(BadInput, match="there is no file"):
        build_graph([tmp_path / "nope.nt"], tmp_path / "graph")
    write(tmp_path / "mine.txt", "x\ty\tz\n")
    with pytest.raises(BadInput, match="not empty and not a Ken graph"):
        build_graph([tmp_path / "mine.txt"], tmp_path)
    with pytest.raises(SourceError, match="no graph at"):
        open_graph(tmp_path / "nope")
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match="is not a Ken graph"):
        open_graph(tmp_path / "other")


def test_a_damaged_folder_says_what_to_do(tmp_path: Path):
    build_graph([write(tmp_path / "a.tsv", TABS)], tmp_path / "graph")
    for file in (tmp_path / "graph").rglob("CURRENT"):
        file.unlink()
    with pytest.raises(SourceError, match="build it again with `ken graph build`"):
        open_folder(tmp_path / "graph")


VICTIM = """
import sys
from ken.sources import generations
from ken.sources.graph import building

def here(*_, **__):
    print("here", flush=True)
    sys.stdin.read()

{moment} = here
building.build_graph([sys.argv[1]], sys.argv[2])
"""


@pytest.mark.parametrize(
    "moment",
    ["building.load", "building.GRAPHS.write"]
    + [pytest.param(one, marks=pytest.mark.slow) for one in ("building.name_entities", "building.build_words",
                                                             "generations.Path.replace")],
)  # fmt: skip
def test_a_killed_build_leaves_the_old_graph_and_a_second_run_completes(tmp_path: Path, moment: str):
    old, new = write(tmp_path / "old.tsv", TABS), write(tmp_path / "new.tsv", "Lisbon\tnear\tSintra\n")
    build_graph([old], tmp_path / "graph")
    reader = open_folder(tmp_path / "graph")  # stays open over the rebuild
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM.format(moment=moment), str(new), str(tmp_path / "graph")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert edges(tmp_path / "graph", "Lisbon") == ["Lisbon, capital of, Portugal"]
    build_graph([new], tmp_path / "graph")
    assert edges(tmp_path / "graph", "Lisbon") == ["Lisbon, near, Sintra"]
    assert len(list((tmp_path / "graph").glob("gen-*"))) == 1
    assert len(reader) == 3


def ken(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_commands(tmp_path: Path):
    write(tmp_path / "a.tsv", TABS + "broken\n")
    refused = ken(tmp_path, "graph", "build", "a.tsv", "--out", "graph")
    assert (refused.returncode, "a.tsv:4: expected a subject" in refused.stderr) == (2, True)
    built = ken(tmp_path, "graph", "build", "a.tsv", "--out", "graph", "--skip-bad")
    assert built.stdout.startswith("built 3 triples of 3 entities in ")
    assert "left out 1 place that" in built.stderr
    write(tmp_path / "ken.toml", 'graph = "graph"\n')
    shown = ken(tmp_path, "graph", "show", "LISBOA", "--json")
    assert json.loads(shown.stdout)["entity"] == {"id": "Lisbon", "label": "Lisbon", "literal": False}
    seen = ken(tmp_path, "graph", "show", "portugal").stdout
    assert "1 ← capital of  Lisbon" in seen
    nobody = ken(tmp_path, "graph", "show", "Atlantis")
    assert (nobody.returncode, "has nothing called 'Atlantis'" in nobody.stderr) == (2, True)


def test_names_of_a_stranger_are_no_terminal_escapes(tmp_path: Path):
    write(tmp_path / "a.tsv", "x\tr\t\x1b[31mred [bold]\n")
    shown = ken(tmp_path, "graph", "show", "x", "--graph", "a.tsv").stdout
    assert "\x1b" not in shown
    assert "red [bold]" in shown


def test_without_pyoxigraph_one_sentence_says_what_to_install(tmp_path: Path):
    write(tmp_path / "a.tsv", TABS)
    code = "import sys; sys.modules['pyoxigraph'] = None; from ken.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "graph", "build", "a.tsv", "--out", "graph"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'ken[graph]'" in done.stderr
    assert not (tmp_path / "graph").exists()
