"""The statistics of a step are what one counts by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ken.agents import Direct, SearchLoop, Strategy
from ken.core import Answer, Decision, Malformed, Observation, Question, Search, Step, Trajectory
from ken.core.trajectory import Segment
from ken.training.rollout_statistics import rollout_statistics, total
from ken.training.rollouts import Group, Task
from tests.rewarded import Decide

YES, NO, UNREAD = (Decision(knows=knows, rationale="") for knows in (True, False, None))
ANSWER, BROKEN, ASKED = Answer(text="Oslo"), Malformed(text="?", problem="no tag"), Search(query="capital")
FOUND, DOWN = Observation(), Observation(error=True, note="the search engine is down")


def tried(*steps: Step, turns: Sequence[int] = (3,), error: str | None = None) -> Trajectory:
    """An attempt whose turns are so many tokens long."""
    heard = Segment(role="observation", text="", token_ids=tuple(range(50)))
    written = [Segment(role="policy", text="", token_ids=tuple(range(n)), logprobs=(-1.0,) * n) for n in turns]
    return Trajectory(
        question=Question(id="q", text="?"), strategy="s", steps=steps, segments=(heard, *written), error=error
    )


def made(strategy: Strategy, *trajectories: Trajectory, kind: str = "rollout") -> Group:
    return Group(Task(Question(id="q", text="?"), strategy, kind), trajectories)


def test_every_number_of_one_kind_of_task() -> None:
    first = made(
        SearchLoop(2),
        tried(ASKED, FOUND, ANSWER, turns=(4, 2)),
        tried(ASKED, DOWN, ASKED, FOUND, ANSWER, turns=(2, 8, 1)),
        tried(ANSWER),
        tried(BROKEN, turns=(9, 1)),
    )
    second = made(SearchLoop(2), tried(ASKED, DOWN, error="the model did not answer", turns=()), tried(ANSWER))
    scores = [[1.0, 0.0, 1.0, [0.25, 0.75]], [0.5, 0.5]]
    assert rollout_statistics([first, second], scores, max_tokens=8) == pytest.approx(
        {
            "reward": 4 / 6,
            "reward_std": (3.5 / 6 - (4 / 6) ** 2) ** 0.5,
            "zero_variance": 0.5,
            "searches": 4 / 6,
            "tokens": (6 + 11 + 3 + 10 + 0 + 3) / 6,
            "format": 5 / 6,
            "unfinished": 2 / 6,
            "failed": 1 / 6,
            "truncated": 2 / 6,
            "search_failures": 2 / 4,
            "says_yes": 0.5,  # three of six did not search
            "one_decision": 0.5,
        },
        abs=1e-6,
    )


def test_searches_and_format_by_kind_of_task() -> None:
    inside = made(Direct(), tried(ANSWER), tried(BROKEN), kind="inside")
    search = made(SearchLoop(2), tried(ASKED, FOUND, ASKED, FOUND, ANSWER), tried(ASKED, FOUND, ANSWER), kind="search")
    found = rollout_statistics([inside, search], [[0.0, 0.0], [1.0, 0.0]], max_tokens=8)
    assert (found["searches"], found["searches/inside"], found["searches/search"]) == (0.75, 0.0, 1.5)
    assert (found["format"], found["format/inside"], found["format/search"]) == (0.75, 0.5, 1.0)
    assert (found["reward"], found["reward/inside"], found["reward/search"]) == (0.25, 0.0, 0.5)
    assert (found["zero_variance"], found["zero_variance/inside"], found["zero_variance/search"]) == (0.5, 1.0, 0.0)
    assert found["search_failures"] == 0
    assert found["says_yes"] == 0, "closed book there is nothing to decide, and whoever could search did"
    assert found["one_decision"] == 1
    assert "truncated/search" not in found


def test_without_searches_and_verdicts_there_are_no_such_numbers() -> None:
    found = rollout_statistics([made(Direct(), tried(ANSWER), tried(ANSWER))], [[0.0, 1.0]], max_tokens=8)
    assert not found.keys() & {"search_failures", "says_yes", "one_decision"}
    assert not [name for name in found if "/" in name], "there is one kind only"


@pytest.mark.parametrize(
    ("steps", "says_yes", "one_decision"),
    [
        ([YES, YES, YES, NO], 0.75, 0.75),
        ([NO, NO, NO, YES], 0.25, 0.75),
        ([NO, NO, NO, NO], 0.0, 1.0),
        ([YES, NO, UNREAD, UNREAD], 0.5, 0.5),
    ],
    ids=["mostly yes", "mostly no", "all no", "unread ones do not count"],
)
def test_an_explicit_verdict_is_counted_as_said(steps: Sequence[Step], says_yes: float, one_decision: float) -> None:
    found = rollout_statistics([made(Decide(), *(tried(s) for s in steps))], [[0.0] * len(steps)], max_tokens=8)
    assert (found["says_yes"], found["one_decision"]) == (says_yes, one_decision)
    assert found["unfinished"] == 0, "a verdict is an end, also one that cannot be read"


def test_a_verdict_counts_more_than_what_was_done_after_it() -> None:
    group = made(SearchLoop(2), tried(YES, ASKED, FOUND, ANSWER), tried(NO, ANSWER))
    assert rollout_statistics([group], [[0.0, 0.0]], max_tokens=8)["says_yes"] == 0.5


def test_a_score_of_turns_is_their_sum() -> None:
    assert (total(2), total([0.5, 1.0]), total([])) == (2.0, 1.5, 0.0)


def test_verdicts_are_held_against_what_is_known_where_that_was_measured() -> None:
    def asked(known: bool | None, *decisions: Decision) -> Group:
        task = Task(Question(id="q", text="?"), Decide(), "decide", known=known)
        return Group(task, tuple(tried(decision) for decision in decisions))

    groups = [asked(True, YES, YES, NO, UNREAD), asked(False, YES, NO), asked(None, YES, YES)]
    found = rollout_statistics(groups, [[0.0] * len(group.trajectories) for group in groups], max_tokens=8)
    hits, wrong, missed = 2, 1, 2  # an unreadable verdict is no "I know"
    assert found["f1_aware"] == pytest.approx(2 * hits / (2 * hits + wrong + missed))
    implied = Group(
        Task(Question(id="q", text="?"), SearchLoop(2), "search", known=True), (tried(ANSWER), tried(ASKED, FOUND))
    )
    assert rollout_statistics([implied], [[1.0, 1.0]], max_tokens=8)["f1_aware"] == pytest.approx(2 / 3)
    assert "f1_aware" not in rollout_statistics(groups[2:], [[0.0, 0.0]], max_tokens=8)
