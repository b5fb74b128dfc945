"""`ken.toml`: which value reaches which command, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from capitals import DOCUMENTS, run_ken

import ken
from ken.cli.settings import read_settings
from ken.core import BadInput


@pytest.fixture(scope="module")
def root() -> Any:
    from ken.cli import app

    if not app.app.registered_groups:
        app._assemble()
    return typer.main.get_command(app.app)


def read(root: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, Any]:
    (folder / "ken.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return read_settings(root)


def test_no_file_is_no_settings(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_settings(root) == {}


def test_a_key_at_the_top_reaches_every_command_that_has_the_option(root, tmp_path, monkeypatch):
    found = read(root, tmp_path, monkeypatch, 'index = "i"\ntop_k = 7\n')
    for command in ("ask", "audit", "search"):
        assert found[command]["index"] == "i"
        assert found[command]["top_k"] == 7
    assert found["retrieve"]["serve"] == {"index": "i"}
    assert found["index"]["add"] == {}, "there the index is an argument"


def test_what_may_be_given_several_times_is_one_text_or_a_list(root, tmp_path, monkeypatch):
    found = read(root, tmp_path, monkeypatch, 'index = "i"\nmodel = ["a/b", "c/d"]\n[papers.digest]\nto = "a@b.c"')
    assert (found["serve"]["index"], found["ask"]["index"]) == (["i"], "i")
    assert found["serve"]["model"] == ["a/b", "c/d"]
    assert "model" not in found["ask"], "which takes one"
    assert found["papers"]["digest"]["to"] == ["a@b.c"]


def test_a_table_is_for_one_command_and_overrides_the_top(root, tmp_path, monkeypatch):
    found = read(root, tmp_path, monkeypatch, 'model = "a/b"\ntop_k = 3\n[audit]\ntop_k = 5\nsamples = 16\n')
    assert found["audit"]["top_k"] == 5
    assert found["audit"]["samples"] == 16
    assert found["ask"]["top_k"] == 3
    assert "samples" not in found["ask"]


def test_nested_commands_have_nested_tables(root, tmp_path, monkeypatch):
    found = read(root, tmp_path, monkeypatch, "[index.build]\nchunk_words = 50\n")
    assert found["index"]["build"] == {"chunk_words": 50}


def test_the_demo_and_the_lab_are_left_alone_by_the_top(root, tmp_path, monkeypatch):
    """The demo replaces its --out folder: `out` of an audit must not reach it, nor its questions, a file."""
    found = read(root, tmp_path, monkeypatch, 'out = "results"\nquestions = "q.jsonl"\nseed = 3\nsamples = 2\n')
    assert found["demo"] == {}
    assert found["lab"] == {"build": {}, "write": {}}
    assert found["audit"]["out"] == "results"
    assert read(root, tmp_path, monkeypatch, "[demo]\nquestions = 20\n")["demo"] == {"questions": 20}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = ", "is not TOML"),
        ('mdel = "x"', "ken.toml: there is no option 'mdel'; the options are advantage, algo,"),
        ("[audit]\nsampels = 3", "ken.toml [audit]: there is no option 'sampels'"),
        ("[ask]\nsamples = 3", "ken.toml [ask]: there is no option 'samples'"),
        ("[adit]\nsamples = 3", "ken.toml: [adit] is no command here; the tables are ask, audit"),
        ("[audit.rescore]\nsamples = 3", "ken.toml [audit] [rescore]: there is no option 'samples'; there are none"),
        ("model = 3", 'ken.toml: model = 3 does not fit; it must be a text in "quotes"'),
        ('[audit]\nsamples = "many"', 'samples = "many" does not fit; it must be a whole number'),
        ("[audit]\nsamples = true", "samples = true does not fit; it must be a whole number"),
        ("[audit]\nsamples = 1.5", "samples = 1.5 does not fit; it must be a whole number"),
        ('temperature = "hot"', "does not fit; it must be a number"),
        ("[ask]\ntrace = 1", "trace = 1 does not fit; it must be true or false"),
        ('strategies = ["a", "b"]', 'strategies = ["a", "b"] does not fit; it must be a text in "quotes"'),
        ('[ask]\nmodel = ["a", "b"]', 'model = ["a", "b"] does not fit; it must be a text in "quotes"'),
        ('[serve]\nmodel = ["a", 3]', 'model = ["a", 3] does not fit; it must be a text in "quotes" or several in ['),
        ("model = 1979-05-27", 'model = "1979-05-27" does not fit'),
        ("version = true", "there is no option 'version'"),
        ('[ask]\nquestion = "x"', "there is no option 'question'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(root, tmp_path, monkeypatch, text, said):
    with pytest.raises(BadInput) as caught:
        read(root, tmp_path, monkeypatch, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_are_not_utf8_are_refused(root, tmp_path, monkeypatch):
    (tmp_path / "ken.toml").write_bytes(b'model = "\xff"')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="is not TOML"):
        read_settings(root)


def test_a_number_that_is_whole_serves_where_a_number_is_wanted(root, tmp_path, monkeypatch):
    assert read(root, tmp_path, monkeypatch, "temperature = 1")["ask"]["temperature"] == 1


def test_the_command_line_overrides_both(tmp_path):
    ken.Index.build(DOCUMENTS, tmp_path / "index")
    (tmp_path / "ken.toml").write_text('index = "index"\ntop_k = 4\n[search]\ntop_k = 3\n')

    def hits(*options: object) -> int:
        done = run_ken("search", "capital", *options, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.count('"score"')

    assert hits() == 3
    assert hits("-k", 2) == 2


def test_a_wrong_file_ends_every_command_with_one_line_and_status_2(tmp_path):
    (tmp_path / "ken.toml").write_text('mdel = "x"\n')
    done = run_ken("search", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ken: ken.toml: there is no option 'mdel'")
    assert done.stderr.count("\n") == 1
