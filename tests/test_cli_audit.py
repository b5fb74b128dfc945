"""`ken audit` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from capitals import QUESTIONS, build_index, run_ken, serve, write_questions
from faulty_server import FaultyServer, Status

from ken.core import Question


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with an audit in `out`, and how its command ended."""
    folder = tmp_path_factory.mktemp("audited")
    write_questions(folder / "q.jsonl")
    build_index(folder / "index")
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url), cwd=folder)
    return folder, done


def line(url: str) -> list[object]:
    options = ["--questions", "q.jsonl", "--index", "index", "--model", "openai/m", "--base-url", url]
    return ["audit", *options, "--samples", 2, "--out", "out"]


def test_the_table_tells_what_was_needed(audited):
    done = audited[1]
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row.split()[0]: row.split() for row in done.stdout.splitlines() if row.strip()}
    assert "of which the model can answer 50% alone" in done.stdout
    #                                EM      F1      searches F1_aware needed wasted missed harmful saved
    assert rows["direct"][1:10] == ["0.500", "0.500", "0.00", "0.667", "0", "0", "4", "0", "4"]
    assert rows["rag"][1:10] == ["1.000", "1.000", "1.00", "0.000", "4", "4", "0", "0", "0"]
    assert rows["search"][1:10] == ["1.000", "1.000", "1.00", "0.000", "4", "4", "0", "0", "0"]
    assert rows["adaptive"][1:10] == ["1.000", "1.000", "0.50", "1.000", "4", "0", "0", "0", "4"]


def test_the_table_fits_in_80_columns_and_nothing_is_cut(audited):
    done = audited[1]
    assert all(len(row) <= 80 for row in done.stdout.splitlines())
    assert "…" not in done.stdout
    header = next(row for row in done.stdout.splitlines() if row.startswith("strategy"))
    words = ["strategy", "EM", "F1", "searches", "F1_aware", "needed", "wasted", "missed", "harmful", "saved", "tokens"]
    assert header.split() == words


def test_rescore_prints_the_same_and_calls_nobody(audited):
    folder, done = audited
    before = (folder / "out" / "audit.json").read_bytes()
    again = run_ken("audit", "rescore", "out", cwd=folder)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert (folder / "out" / "audit.json").read_bytes() == before


def test_a_data_frame_holds_every_attempt(audited):
    pandas = pytest.importorskip("pandas", reason="needs the extra frames")
    import ken

    frame = ken.load_audit(audited[0] / "out")
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(QUESTIONS) * (4 + 2)
    assert [*frame.columns[:6]] == ["question_id", "question", "golds", "strategy", "sample", "answer"]
    assert frame["sample"].isna().sum() == len(QUESTIONS) * 4
    final = frame[frame["sample"].isna()].set_index(["strategy", "question_id"])
    nepal = final.loc[("adaptive", "nepal")]
    assert (nepal["answer"], nepal["em"], nepal["f1"], nepal["knows"]) == ("Kathmandu", True, 1.0, False)
    assert (nepal["searches"], nepal["passages"][0]) == (["capital of Nepal"], "nepal")
    assert (nepal["model_calls"], nepal["search_calls"], nepal["malformed"], nepal["error"]) == (3, 1, 0, None)
    assert final.loc[("direct", "nepal")]["em"] is not pandas.NA
    assert not final.loc[("direct", "nepal")]["em"]
    assert final.groupby("strategy")["em"].mean().to_dict() == {"adaptive": 1, "direct": 0.5, "rag": 1, "search": 1}
    assert final.loc["direct"]["knows"].isna().all()


def test_a_data_frame_of_an_audit_that_has_just_begun_has_its_columns(audited, tmp_path):
    pytest.importorskip("pandas", reason="needs the extra frames")
    import ken

    (tmp_path / "run.json").write_bytes((audited[0] / "out" / "run.json").read_bytes())
    full = ken.load_audit(audited[0] / "out")
    frame = ken.load_audit(tmp_path)
    assert len(frame) == 0
    assert [*frame.columns] == [*full.columns]
    assert frame["em"].dtype == full["em"].dtype


def test_questions_without_golds_are_audited_and_it_says_what_cannot_be_measured(tmp_path):
    write_questions(tmp_path / "q.jsonl", [q.model_copy(update={"answers": ()}) for q in QUESTIONS])
    build_index(tmp_path / "index")
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url), cwd=tmp_path)
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert "No question has an accepted answer (golden_answers), so accuracy, F1_aware" in told
    adaptive = next(row.split() for row in done.stdout.splitlines() if row.startswith("adaptive"))
    assert adaptive[1:10] == ["–", "–", "0.50", *["–"] * 6]


def test_skip_bad_counts_what_it_skipped(tmp_path):
    path = write_questions(tmp_path / "q.jsonl")
    path.write_text(path.read_text() + "{broken\n" + '{"question": 3}\n')
    with FaultyServer(serve) as server:
        options = ["--model", "openai/m", "--base-url", server.base_url, "--strategies", "direct", "--samples", 0]
        done = run_ken("audit", "--questions", path, *options, "--skip-bad", "--out", "out", cwd=tmp_path)
        strict = run_ken("audit", "--questions", path, *options, "--out", "other", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith(f"skipped 2 broken lines, the first: {path}:9: not JSON")
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["questions"] == 8
    assert strict.returncode == 2
    assert strict.stderr.startswith(f"ken: {path}:9: not JSON")
    assert not (tmp_path / "other").exists()


def test_hostile_ids_and_errors_do_not_reach_the_terminal(tmp_path):
    bad = "q\x1b[2J\u202e[bold]"
    write_questions(tmp_path / "q.jsonl", [Question(id=bad, text="?")])
    with FaultyServer(lambda number, payload: Status(401)) as server:
        options = ["--model", "openai/m", "--base-url", server.base_url, "--strategies", "direct", "--samples", 0]
        done = run_ken("audit", "--questions", "q.jsonl", *options, "--timeout", 5, "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert "\u202e" not in done.stdout + done.stderr
    assert "q[bold] (direct): openai/m gave no answer" in done.stderr


def test_the_settings_of_ken_toml_are_enough(tmp_path):
    write_questions(tmp_path / "q.jsonl")
    with FaultyServer(serve) as server:
        (tmp_path / "ken.toml").write_text(
            f'model = "openai/m"\nbase_url = "{server.base_url}"\n'
            '[audit]\nquestions = "q.jsonl"\nout = "out"\nstrategies = "direct"\nsamples = 1\nlimit = 2\n'
        )
        done = run_ken("audit", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        settings = json.loads((tmp_path / "out" / "run.json").read_text())
        assert (settings["samples"], settings["questions_count"], settings["strategies"]) == (1, 2, ["direct"])
        over = run_ken("audit", "--samples", 0, "--out", "other", cwd=tmp_path)
    assert over.returncode == 0, over.stderr
    assert json.loads((tmp_path / "other" / "run.json").read_text())["samples"] == 0
