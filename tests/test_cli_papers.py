"""`ken papers` and `ken reproduce` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from capitals import run_ken
from fake_paper import SLUG, FakeKen

from ken.papers.changes import mark


@pytest.fixture
def fake(tmp_path: Path) -> FakeKen:
    return FakeKen(tmp_path)


def test_the_list_names_all_papers_fits_in_80_columns_and_cuts_nothing(tmp_path):
    done = run_ken("papers", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["no.", "name", "inside", "outside", "signal", "state"]
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    assert [int(line[:3]) for line in lines[1:] if line[:3].strip()] == list(range(60))


def test_the_list_as_json(fake):
    listed = json.loads(fake.run("papers", "--json").stdout)
    assert len(listed) == 60
    assert [*listed[0]] == [
        "number", "slug", "name", "title", "arxiv", "year", "date", "authors", "organisation", "code", "listed",
        "inside", "outside", "signal", "summary", "state", "verdicts",
    ]  # fmt: skip
    by_slug = {paper["slug"]: paper for paper in listed}
    assert by_slug[SLUG]["state"] == "runs"
    assert by_slug["crag-clustered"]["title"] == "Clustered Retrieved Augmented Generation (CRAG)"


def test_a_paper_goes_from_runs_to_verdicts(fake):
    before = fake.run("papers", SLUG)
    assert before.returncode == 0
    assert "half    with half of the gain (optional)" in before.stdout
    assert "hard  ≥ 0.35  the method gains 0.35" in before.stdout
    assert f"run: ken reproduce {SLUG}" in before.stdout

    done = fake.run("reproduce", SLUG)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == f"{SLUG} seed 0 base: 0 s"
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert "Introspective Growth: seeds 0 to 2, mean ± standard deviation" in done.stdout
    assert rows["base"] == ["0.310", "±0.010", "–"]
    assert rows["method"] == ["0.710", "±0.010", "–"]
    assert rows["holds"][:7] == ["soft", "0.710", "0.685", "to", "0.735", "≥", "0.3"]
    assert rows["fails"][:7] == ["hard", "0.400", "0.400", "to", "0.400", "≥", "0.45"]
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.endswith(f"results/{SLUG}.json  every number\n")

    after = fake.run("papers", SLUG)
    assert "fails        hard" in after.stdout
    shown = json.loads(fake.run("papers", SLUG, "--json").stdout)
    assert (shown["state"], shown["results"]["seeds"]) == ("verdicts", [0, 1, 2])
    assert [claim["margin"] for claim in shown["claims"]] == [0.35, 0.45, 0.71, 0.1, 0.3]
    listed = {paper["slug"]: paper for paper in json.loads(fake.run("papers", "--json").stdout)}
    assert listed[SLUG]["verdicts"] == {"holds": 2, "fails": 1, "inconclusive": 2}
    assert "2 inconclusive" in " ".join(fake.run("papers", COLUMNS="120").stdout.split())


def test_json_is_all_that_stands_on_standard_output(fake):
    done = fake.run("reproduce", SLUG, "--json", "--seeds", 1, "--arms", "base, method", "--out", "mine")
    printed = json.loads(done.stdout)
    assert printed == json.loads((fake.folder / "mine" / f"{SLUG}.json").read_text(encoding="utf-8"))
    assert not (fake.folder / "results").exists()


def test_smoke_by_number(fake):
    done = fake.run("reproduce", 54, "--smoke")
    assert done.returncode == 0
    assert "not judged" in done.stdout
    assert fake.logged() == ["bench:0", "base:0", "method:0"]
    assert not (fake.folder / "results").exists()


def test_a_failing_arm_ends_with_status_1_and_one_sentence(fake):
    done = fake.run("reproduce", SLUG, "--seeds", 2, FAKE_FAIL="method:1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ken: arm method failed on seed 1: ZeroDivisionError: no questions"
    assert "Traceback" not in done.stderr
    assert "inconclusive" in done.stdout


def test_a_smoke_run_that_fails_shows_where(fake):
    done = fake.run("reproduce", SLUG, "--smoke", FAKE_FAIL="method:0")
    assert done.returncode == 1
    assert "fake_paper.py" in done.stderr


def test_a_setting_is_changed_from_the_command_line(fake):
    changes = {"gain": 0.1, "questions": 7}
    done = fake.run("reproduce", SLUG, "--json", "--seeds", 1, *(f"--set={k}={v}" for k, v in changes.items()))
    assert json.loads(done.stdout)["config"] == changes
    assert [path.name for path in (fake.folder / "results").glob("*.json")] == [f"{SLUG}.set-{mark(changes)}.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["papers", "adasarch"], "there is no paper 'adasarch'; did you mean adasearch?"),
        (["reproduce", "nothing-like-it"], "there is no paper 'nothing-like-it'; see `ken papers` for the names"),
        (["reproduce", "symphony"], "Symphony (symphony) is planned and cannot be run"),
        (["reproduce", SLUG, "--arms", "bsae"], f"{SLUG} has no arm 'bsae'; its arms are base, method, half"),
        (["reproduce", SLUG, "--set", "gain"], "--set gain is not KEY=VALUE"),
        (["reproduce", SLUG, "--set", "gain.x=1"], "there is no setting 'gain.x'; the settings are questions, gain"),
        (["reproduce", SLUG, "--seeds", 0], "Invalid value for '--seeds'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(fake, arguments, said):
    done = fake.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"ken: {said}")


def test_results_that_are_broken_are_named(fake):
    (fake.folder / "results").mkdir()
    (fake.folder / "results" / f"{SLUG}.json").write_text("{", encoding="utf-8")
    done = fake.run("papers", SLUG)
    assert done.returncode == 2
    assert f"{SLUG}.json cannot be read as results" in done.stderr


def test_a_paper_is_shown_with_date_authors_code_and_summary(tmp_path):
    done = run_ken("papers", "adasearch", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "01 AdaSearch"
    assert "2025-12-18, 6 authors" in lines
    assert "https://github.com/hank0316/AdaSearch" in done.stdout
    assert "only a no leads to search" in " ".join(done.stdout.split())
    done = run_ken("papers", "sema", cwd=tmp_path)
    assert "2026-02-06, Microsoft" in done.stdout.splitlines()
    shown = json.loads(run_ken("papers", "sema", "--json", cwd=tmp_path).stdout)
    assert (shown["authors"], shown["organisation"], shown["listed"]) == (None, "Microsoft", "2026-04-15")
    assert shown["summary"].startswith("For testing the safety of chat models")


def test_a_planned_paper_is_shown_as_planned(tmp_path):
    done = run_ken("papers", "symphony", cwd=tmp_path)
    assert done.returncode == 0
    assert "planned: it cannot be run yet" in done.stdout
    shown = json.loads(run_ken("papers", "symphony", "--json", cwd=tmp_path).stdout)
    assert (shown["state"], shown["arms"], shown["claims"]) == ("planned", [], [])
