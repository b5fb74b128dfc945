"""The decision stage: a verdict on every labelled question, and closed-book groups that hold what is known."""

from __future__ import annotations

import pytest

from ken.core import Answer, BadInput, Decision, Question, Sampling, Trajectory
from ken.training.decision_stage import decision_stage
from ken.training.rollouts import Group

QUESTIONS = [Question(id=str(i), text="?", answers=("a",)) for i in range(6)]
VERDICTS = Sampling(temperature=1.0, greedy_thoughts=True)


def test_every_fourth_verdict_brings_a_closed_book_group() -> None:
    units, _ = decision_stage(QUESTIONS, {str(i): True for i in range(5)}, sampling=VERDICTS, replay_every=4)
    kinds = [[task.kind for task in unit] for unit in units]
    assert kinds == [["decide", "inside"], ["decide"], ["decide"], ["decide"], ["decide", "inside"]]
    assert all(unit[0].sampling == VERDICTS for unit in units)
    assert units[0][1].sampling is None


def test_the_paper_s_stage_has_verdicts_alone() -> None:
    units, _ = decision_stage(QUESTIONS, {"0": True}, sampling=VERDICTS)
    assert [[task.kind for task in unit] for unit in units] == [["decide"]]


def test_verdicts_are_paid_by_label_and_answers_by_match() -> None:
    units, reward = decision_stage(QUESTIONS[:1], {"0": False}, sampling=VERDICTS, replay_every=1)
    verdict, closed = units[0]

    def attempt(step: Decision | Answer) -> Trajectory:
        return Trajectory(question=QUESTIONS[0], strategy="s", steps=(step,))

    says = [attempt(Decision(knows=knows, rationale="")) for knows in (True, False, None)]
    answers = [attempt(Answer(text=text)) for text in ("a", "b")]
    assert reward([Group(verdict, tuple(says)), Group(closed, tuple(answers))]) == [[0.0, 1.0, 0.0], [1.0, 0.0]]


def test_no_labels_are_refused() -> None:
    with pytest.raises(BadInput, match="no question has a label"):
        decision_stage(QUESTIONS, {"elsewhere": True}, sampling=VERDICTS)
