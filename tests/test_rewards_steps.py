"""Step rewards follow the table of R3-RAG; relevance is judged by gold evidence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import HIT, MISS, RIGHT, SEARCH, WRONG, closed_book, failed, question, searching

from ken.core import BadInput, Passage, Trajectory
from ken.training.rewards.steps import (
    Evidence,
    StepFactors,
    assign_step_rewards,
    evidence_of,
    gold_relevances,
    relevances,
    step_states,
    stepwise,
)

Q, C, W, M, V = "query", "correct", "wrong", "malformed", "void"


@pytest.mark.parametrize(
    ("states", "scores", "both", "outcome", "process"),
    [
        ([Q, Q, C], [1.0, 0.5], [1.6, 0.8, 2.0], [2, 2, 2], [1.0, 0.5, 0]),
        ([Q, Q, W], [1.0, 0.5], [0.8, 0.4, 0.0], [0, 0, 0], [1.0, 0.5, 0]),
        ([Q, Q, Q], [1.0, 0.5, 0.6], [0.9, 0.45, 0.54], [0, 0, 0], [0.9, 0.45, 0.54]),
        ([Q, M], [0.7], [0.7, -0.9], [0, -0.9], [0.7, -0.9]),
        ([M], [], [-0.9], [-0.9], [-0.9]),
        ([C], [], [2.0], [2.0], [0.0]),
        ([W], [], [0.0], [0.0], [0.0]),
        ([V, Q, V, C], [0.6], [0, 0.96, 0, 2.0], [0, 2, 0, 2], [0, 0.6, 0, 0]),
        ([Q, V], [1.0], [0.9, 0], [0, 0], [0.9, 0]),
        ([Q, C], [1 / 3], [0.533, 2.0], [2, 2], [0.333, 0]),  # rounded to 3 decimals
        ([], [], [], [], []),
    ],
)
def test_the_reward_table(states: list, scores: list, both: list, outcome: list, process: list) -> None:
    for variant, rewards in (("both", both), ("outcome", outcome), ("process", process)):
        assert assign_step_rewards(states, scores, variant=variant) == pytest.approx(rewards, abs=1e-9)


def test_every_number_of_the_table_is_a_parameter() -> None:
    factors = StepFactors(if_correct=2, if_wrong=0.5, if_unanswered=0.1, answer=3, wrong_answer=-1, malformed=-2)
    for states, scores, rewards in [
        ([Q, C], [0.5], [1, 3]),
        ([Q, W], [0.5], [0.25, -1]),
        ([Q], [0.5], [0.05]),
        ([Q, M], [0.5], [0.5, -2]),
    ]:
        assert assign_step_rewards(states, scores, factors=factors) == pytest.approx(rewards)


@pytest.mark.parametrize(
    ("states", "scores", "options", "problem"),
    [
        ([C, Q], [1.0], {}, "only its last step"),
        ([M, C], [], {}, "only its last step"),
        ([Q, Q], [1.0], {}, "2 queries but 1 process scores"),
        ([C], [1.0], {}, "0 queries but 1 process scores"),
        ([Q], [1.2], {}, r"outside of \[0, 1\]"),
        ([Q], [float("nan")], {}, r"outside of \[0, 1\]"),
        (["done"], [], {}, "'done' is no state"),
        ([Q], [1.0], {"variant": "orm"}, "both, outcome, process"),
    ],
)
def test_what_is_not_in_the_table_is_refused(states: list, scores: list, options: dict, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        assign_step_rewards(states, scores, **options)


@given(st.lists(st.floats(0, 1), max_size=6), st.sampled_from([C, W, M, None]))
def test_a_better_end_never_pays_a_query_less(scores: list[float], end: str | None) -> None:
    states = [Q] * len(scores) + [s for s in [end] if s]
    rewards = assign_step_rewards(states, scores)[: len(scores)]
    best = assign_step_rewards([Q] * len(scores) + [C], scores)[: len(scores)]
    worst = assign_step_rewards([Q] * len(scores) + [W], scores)[: len(scores)]
    assert all(low <= reward <= high for low, reward, high in zip(worst, rewards, best, strict=True))


# --- the rule judge ---

MENTOR = Passage(id="ada", text="The mentor of Ada is Bo.")
BORN = Passage(id="bo", text="Bo was born in Tarsin. Bo works in Moru.")
ADA = Passage(id="ada#2", document="ada", text="Ada likes tea.")
CHAIN = (Evidence("ada", "mentor of Ada is Bo"), Evidence("bo", "born in Tarsin"))


@pytest.mark.parametrize(
    ("results", "scores"),
    [
        ([[MENTOR], [BORN]], [1, 1]),
        ([[ADA], [MENTOR], [BORN]], [0.5, 1, 1]),  # about the right entity only
        ([[BORN], [MENTOR], [BORN]], [0, 1, 1]),  # not what is needed yet
        ([[BORN, MENTOR]], [1]),  # both hops at once
        ([[BORN, MENTOR], [BORN]], [1, 0]),  # nothing is needed any more
        ([[MENTOR], [MENTOR]], [1, 0]),
        ([[], [MENTOR]], [0, 1]),
        ([list(MISS)], [0]),
        ([], []),
    ],
)
def test_relevance_is_the_next_fact_that_is_needed(results: list, scores: list[float]) -> None:
    assert relevances(results, CHAIN) == scores


def test_facts_of_a_comparison_may_come_in_any_order() -> None:
    assert relevances([[BORN], [MENTOR]], CHAIN, ordered=False) == [1, 1]
    assert relevances([[BORN], [ADA], [BORN]], CHAIN, ordered=False) == [1, 0.5, 0]


def test_a_fact_is_whole_words_of_the_right_document() -> None:
    evidence = Evidence("ada", "Bo")
    assert evidence.told_by(MENTOR)
    assert not evidence.told_by(BORN)  # says Bo, but of another document
    assert not evidence.told_by(Passage(id="ada", text="Ada rows her boat."))
    assert Evidence("ada").told_by(ADA)


def test_evidence_is_named_by_the_question() -> None:
    told = [{"document": "ada", "text": "mentor"}, {"document": "bo"}]
    assert evidence_of(question(evidence=told)) == (Evidence("ada", "mentor"), Evidence("bo"))
    assert evidence_of(question(supporting_ids=["ada", "bo"])) == (Evidence("ada"), Evidence("bo"))
    for meta in ({}, {"evidence": []}, {"evidence": ["ada"]}, {"supporting_ids": []}):
        with pytest.raises(BadInput, match="names no gold evidence"):
            evidence_of(question(**meta))


# --- whole attempts ---

ASKED = question(supporting_ids=["p1"])


@pytest.mark.parametrize(
    ("trajectory", "rewards"),
    [
        (searching(SEARCH, RIGHT, asked=ASKED, results=[HIT]), [1.6, 2.0]),
        (searching(SEARCH, SEARCH, RIGHT, asked=ASKED, results=[MISS, HIT]), [0, 1.6, 2.0]),
        (searching(SEARCH, WRONG, asked=ASKED, results=[HIT]), [0.8, 0]),
        (searching(SEARCH, "hm", WRONG, asked=ASKED, results=[HIT]), [0.8, 0, 0]),  # written again: void
        (searching(SEARCH, SEARCH, "hm", asked=ASKED, results=[HIT], turns=1), [1.0, 0, -0.9]),  # one not carried out
        (searching(SEARCH, SEARCH, RIGHT, asked=ASKED, results=[HIT], turns=1), [1.6, 0, 2.0]),
        (searching(SEARCH, RIGHT, asked=ASKED, results=[None]), [0, 2.0]),  # the engine was down
        (closed_book(RIGHT, asked=ASKED), [2.0]),
        (closed_book("hm", "hm", asked=ASKED), [0, -0.9]),
        (failed(searching(SEARCH, RIGHT, asked=ASKED, results=[HIT])), [0, 0]),
    ],
)
def test_every_policy_segment_of_an_attempt_gets_its_reward(trajectory: Trajectory, rewards: list[float]) -> None:
    assert stepwise(trajectory) == rewards
    assert len(rewards) == sum(segment.role == "policy" for segment in trajectory.segments)


def test_variants_need_only_what_they_look_at() -> None:
    no_evidence = searching(SEARCH, RIGHT, results=[HIT])
    no_golds = searching(SEARCH, WRONG, asked=question(golds=[], supporting_ids=["p1"]), results=[HIT])
    assert stepwise(no_evidence, variant="outcome") == [2, 2]
    assert stepwise(no_golds, variant="process") == [1, 0]
    with pytest.raises(BadInput, match="names no gold evidence"):
        stepwise(no_evidence)
    with pytest.raises(BadInput, match="no gold answers"):
        stepwise(no_golds)


def test_a_judge_may_be_anything_that_scores_searches() -> None:
    trajectory = searching(SEARCH, SEARCH, RIGHT, results=[HIT])
    assert stepwise(trajectory, judge=lambda t: [0.6, 0.9]) == [0.96, 1.44, 2.0]
    assert stepwise(trajectory, judge=lambda t: [7.0]) == [1.6, 0, 2.0]  # out of range, and one short
    assert gold_relevances(searching(SEARCH, SEARCH, RIGHT, asked=ASKED, results=[HIT])) == [1, 0]


def test_an_attempt_cut_after_a_search_is_unanswered() -> None:
    whole = searching(SEARCH, SEARCH, RIGHT, asked=ASKED, results=[HIT])
    cut = whole.model_copy(update={"segments": whole.segments[:-1], "steps": whole.steps[:-2]})
    assert step_states(cut) == [Q, Q]
    assert stepwise(cut) == [0.9, 0]


@given(st.lists(st.sampled_from([SEARCH, RIGHT, WRONG, "hm", "<search>", "<answer></answer>"]) | st.text(max_size=20)))
def test_nothing_that_is_written_makes_it_raise(outputs: list[str]) -> None:
    trajectory = searching(*outputs, asked=ASKED, results=[MISS, HIT, None], turns=3)
    for variant in ("both", "outcome", "process"):
        rewards = stepwise(trajectory, variant=variant)
        assert len(rewards) == trajectory.usage.model_calls
        assert all(-0.9 <= reward <= 2 for reward in rewards)
