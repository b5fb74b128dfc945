"""What became of every attempt, and what differs between two audits, against numbers worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_audit_measure import ATTEMPTS, LIMA, OSLO, PARIS, ROME, SETTINGS, attempt, samples

from ken.auditing import measure
from ken.auditing.compare import Comparison, compare, compare_audits
from ken.auditing.folder import LOG, write_settings
from ken.auditing.log import LogWriter
from ken.auditing.outcomes import Outcome, outcomes
from ken.core import BadInput, Passage
from ken.metrics import SearchUse

HERE = outcomes(ATTEMPTS, SETTINGS)


def of(found: list[Outcome], strategy: str) -> dict[str, Outcome]:
    return {o.question_id: o for o in found if o.strategy == strategy}


def test_an_outcome_says_what_an_attempt_came_to():
    adaptive = of(HERE, "adaptive")
    assert adaptive["paris"] == Outcome(
        question_id="paris",
        question="Capital of France?",
        golds=("Paris",),
        strategy="adaptive",
        answer="Paris",
        right=True,
        f1=1.0,
        decides=True,
        known=True,
        solve_rate=1.0,
        use=SearchUse.SAVED,
    )
    assert {i: o.use for i, o in adaptive.items()} == {
        "paris": SearchUse.SAVED,
        "oslo": SearchUse.WASTED,
        "lima": SearchUse.MISSED,
        "rome": SearchUse.NEEDED,
        "open": None,
    }
    assert (adaptive["rome"].decides, adaptive["rome"].searches, adaptive["rome"].malformed) == (None, 2, 1)
    assert (adaptive["oslo"].tokens, adaptive["oslo"].solve_rate) == (120, 0.5)
    assert (adaptive["open"].right, adaptive["open"].known) == (None, None)


def test_outcomes_count_as_the_report_does():
    report = measure(ATTEMPTS, SETTINGS)
    for strategy in report.strategies:
        found = of(HERE, strategy.strategy).values()
        boundary = strategy.boundaries[0]
        for use in SearchUse:
            assert sum(o.use is use for o in found) == getattr(boundary.use, use.value)


def test_a_failed_attempt_is_an_outcome_with_its_error():
    (failed,) = outcomes([attempt(PARIS, "direct", error="no answer")], SETTINGS)
    assert (failed.error, failed.right, failed.use) == ("no answer", None, None)


THERE = outcomes(
    [
        *samples(PARIS, "Paris", "Paris"),
        *samples(OSLO, "Oslo", "Oslo"),
        *samples(LIMA, "Lima", "Lima"),
        *samples(ROME, "Milan", "Turin"),
        attempt(PARIS, "direct", "Paris", prompt_tokens=10, completion_tokens=4),
        attempt(OSLO, "direct", "Oslo", prompt_tokens=10, completion_tokens=4),
        attempt(LIMA, "direct", "Lima", prompt_tokens=10, completion_tokens=4),
        attempt(ROME, "direct", "Milan", prompt_tokens=10, completion_tokens=14),
        attempt(PARIS, "adaptive", "Paris", decides=True, knows=True),
        attempt(OSLO, "adaptive", "Oslo", decides=True, knows=True),
        attempt(LIMA, "adaptive", "Lima", decides=True, knows=True),
        attempt(ROME, "adaptive", "Rome", decides=True, knows=False, passages=((Passage(id="d3", text="Rome"),),)),
    ],
    SETTINGS,
)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(HERE, THERE)


def test_questions_are_paired_by_what_they_ask(comparison):
    assert (comparison.questions, comparison.only_first, comparison.only_second) == (4, 1, 0)
    renamed = [o.model_copy(update={"question": o.question + " And why?"}) for o in THERE]
    with pytest.raises(BadInput, match="no question in common"):
        compare(HERE, renamed)
    with pytest.raises(BadInput, match="no strategy in common"):
        compare(HERE, [o.model_copy(update={"strategy": "rag"}) for o in THERE])


def test_differences_are_second_minus_first_with_paired_intervals(comparison):
    direct = {d.measure: d for d in comparison.differences["direct"]}
    em = direct["exact match"]
    assert (em.first, em.second, em.change.estimate, em.questions) == (0.5, 0.75, 0.25, 4)
    # Two questions turned right, one wrong, one stayed: resampled means lie between -1 and 1 and straddle no change.
    assert em.change.low < 0 < em.change.high
    assert not em.sure
    tokens = direct["tokens per question"]
    assert (tokens.first, tokens.second, tokens.better) == (14.0, 16.5, False)
    assert direct["can answer alone"].change.estimate == 0.25
    adaptive = {d.measure: d for d in comparison.differences["adaptive"]}
    assert "can answer alone" not in adaptive
    searches = adaptive["searches per question"]
    assert (searches.first, searches.second) == (0.75, 0.25)
    assert adaptive["F1_aware"].second == 1.0
    assert 0 < adaptive["F1_aware"].first < 1


def test_a_difference_that_is_everywhere_is_sure():
    better = [o.model_copy(update={"right": True, "f1": 1.0}) for o in HERE if o.right is not None]
    worse = [o.model_copy(update={"right": False, "f1": 0.0}) for o in better]
    found = {d.measure: d for d in compare(worse, better).differences["direct"]}
    assert (found["exact match"].change.low, found["exact match"].change.high) == (1.0, 1.0)
    assert found["exact match"].sure


def test_attempts_that_ended_otherwise_are_listed(comparison):
    changed = {(c.first.strategy, c.first.question_id): (c.first.use, c.second.use) for c in comparison.changed}
    assert changed[("adaptive", "lima")] == (SearchUse.MISSED, SearchUse.SAVED)
    assert changed[("adaptive", "oslo")] == (SearchUse.WASTED, SearchUse.SAVED)
    assert ("direct", "rome") in changed  # right before, wrong after
    assert ("adaptive", "paris") not in changed


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders with the same audit."""
    monkeypatch.chdir(tmp_path)
    for name in ("audit-before", "audit-after"):
        Path(name).mkdir()
        write_settings(Path(name), SETTINGS)
        log = LogWriter(Path(name) / LOG)
        for trajectory in ATTEMPTS:
            log.write(trajectory)
        log.close()


def test_two_folders_are_compared(folders):
    same = compare_audits("audit-before", "audit-after")
    assert same.changed == ()
    assert all(d.change.estimate == 0 for found in same.differences.values() for d in found)
    with pytest.raises(BadInput, match="holds no audit"):
        compare_audits("audit-before", "audit-never")


def test_the_example_of_the_documentation_runs(folders, capsys):
    page = (Path(__file__).parents[1] / "docs" / "web.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(example, {})  # noqa: S102 (the page is this repository's own)
    assert "exact match 0.5 0.5 " in capsys.readouterr().out
