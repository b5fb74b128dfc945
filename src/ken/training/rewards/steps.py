"""A reward for every step: was this search useful, and was the answer right in the end?

Source: R3-RAG (arXiv 2505.23794; card 40, Stage 2), written from the card's table alone. Every step is a sample of its
own there; the outcome reaches earlier steps only as a factor on their process scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ken.agents.protocol import parse_action
from ken.core import Answer, BadInput, Malformed, Observation, Passage, Question, Search, Trajectory
from ken.metrics import answer_in_passages
from ken.training.rewards.outcome import exact

StepState = Literal["query", "correct", "wrong", "malformed", "void"]
"""What a step was: a query; the final answer, right or wrong; output that could not be read and ended the attempt; or
void, a step that counts for nothing (it was written again)."""

Variant = Literal["both", "outcome", "process"]
"""Which signals count: both; the outcome alone; or the process scores alone, with correctness never looked at."""


@dataclass(frozen=True, slots=True)
class StepFactors:
    """The numbers of the table. if_*: factor on the process scores of an attempt that ended so; answer, wrong_answer,
    malformed: reward of the last step itself."""

    if_correct: float = 1.6
    if_wrong: float = 0.8
    if_unanswered: float = 0.9
    answer: float = 2.0
    wrong_answer: float = 0.0
    malformed: float = -0.9


def assign_step_rewards(
    states: Sequence[StepState],
    scores: Sequence[float],
    *,
    variant: Variant = "both",
    factors: StepFactors = StepFactors(),
) -> list[float]:
    """One reward per step, rounded to 3 decimals.

    states: one per step, in order. scores: one process score in [0, 1] per query, in order. With the default factors:

    | the attempt ended | its queries | its last step |
    |---|---|---|
    | correct | 1.6 · score | 2 |
    | wrong | 0.8 · score | 0 |
    | without an answer (last step is a query) | 0.9 · score | |
    | malformed | score | −0.9 |

    "outcome": queries earn `answer` (2) in a correct attempt, else 0; last steps as above. "process": queries earn
    their score (0.9 · score without an answer), an answer earns 0 whether right or wrong, malformed as above.
    Void steps earn 0.

    Raises `BadInput` when an answer or a malformed step is not the last that counts, when there is not one score per
    query, for a score outside [0, 1], and for an unknown state or variant.
    """
    if unknown := [state for state in states if state not in {"query", "correct", "wrong", "malformed", "void"}]:
        raise BadInput(f"{unknown[0]!r} is no state of a step; choose from query, correct, wrong, malformed, void")
    if variant not in {"both", "outcome", "process"}:
        raise BadInput(f"{variant!r} is no variant of the step rewards; choose from both, outcome, process")
    counted = [state for state in states if state != "void"]
    if any(state != "query" for state in counted[:-1]):
        raise BadInput("an answer or a malformed step ends an attempt; only its last step may be one")
    if counted.count("query") != len(scores):
        raise BadInput(f"{counted.count('query')} queries but {len(scores)} process scores; give one for each query")
    if any(not 0 <= score <= 1 for score in scores):
        raise BadInput("a process score is outside of [0, 1]; scale what the judge says")
    end = counted[-1] if counted else "void"
    factor = {
        "correct": 1.0 if variant == "process" else factors.if_correct,
        "wrong": 1.0 if variant == "process" else factors.if_wrong,
        "query": factors.if_unanswered,
    }.get(end, 1.0)
    last = {
        "correct": 0.0 if variant == "process" else factors.answer,
        "wrong": 0.0 if variant == "process" else factors.wrong_answer,
        "malformed": factors.malformed,
    }
    remaining = iter(scores)
    rewards = []
    for state in states:
        if state == "query":
            score = next(remaining)
            reward = (factors.answer if end == "correct" else 0.0) if variant == "outcome" else factor * score
        else:
            reward = last.get(state, 0.0)
        rewards.append(round(reward, 3))
    return rewards


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact that a question needs: the document about the right entity, and what it must say.

    text: found as a run of whole words in a passage; "" when any passage of the document will do.
    """

    document: str
    text: str = ""

    def told_by(self, passage: Passage) -> bool:
        """Whether the passage says it."""
        return self.about(passage) and (not self.text or answer_in_passages([passage], [self.text]))

    def about(self, passage: Passage) -> bool:
        """Whether the passage is from the right document."""
        return self.document in (passage.document_id, passage.id)


def evidence_of(question: Question) -> tuple[Evidence, ...]:
    """The evidence that `question.meta` names: "evidence", a list of {"document": id, "text": fact} in the order in
    which they are needed, else "supporting_ids". Raises `BadInput` when it names none."""
    named = question.meta.get("evidence")
    if isinstance(named, list) and named and all(isinstance(e, dict) and "document" in e for e in named):
        return tuple(Evidence(str(e["document"]), str(e.get("text") or "")) for e in named if isinstance(e, dict))
    if question.supporting_ids:
        return tuple(Evidence(document) for document in question.supporting_ids)
    raise BadInput(
        f"question {question.id!r} names no gold evidence to judge searches by; list it under 'evidence' or "
        "'supporting_ids' in its metadata, or use another judge"
    )


def relevances(
    results: Sequence[Sequence[Passage]], evidence: Sequence[Evidence], *, ordered: bool = True
) -> list[float]:
    """How useful each search was, by gold evidence: the rule judge of card 40's claim check.

    results: what each search of an attempt found, in order. 1 if it tells the next fact that is needed, given what
    earlier searches told; 0.5 if it is only about the right document; else 0, also for an empty result and once
    everything is known. ordered: facts are needed one after the other (a chain of hops); False when they can be looked
    up in any order (a comparison).
    """
    missing = list(evidence)
    scores = []
    for passages in results:
        needed = missing[:1] if ordered else list(missing)
        told = False
        while fact := next((f for f in (missing[:1] if ordered else missing) if _told(f, passages)), None):
            missing.remove(fact)
            told = True
        near = any(fact.about(passage) for fact in needed for passage in passages)
        scores.append(1.0 if told else 0.5 if near else 0.0)
    return scores


def gold_relevances(trajectory: Trajectory, *, ordered: bool = True) -> list[float]:
    """`relevances` of an attempt's searches, by the evidence that its question names; 0 for a search that failed."""
    results = [step.passages for step in trajectory.steps if isinstance(step, Observation)]
    return relevances(results, evidence_of(trajectory.question), ordered=ordered)


Judge = Callable[[Trajectory], Sequence[float]]
"""Process scores in [0, 1], one for each search of an attempt, in order."""


def step_states(
    trajectory: Trajectory,
    *,
    read: Callable[[str], Search | Answer | Malformed] = parse_action,
    correct: Callable[[Trajectory], float] = exact,
) -> list[StepState]:
    """What each policy segment of an attempt was. `read` parses the text of one; `correct` is 1 for a right attempt.

    A segment that could not be read is void when the attempt went on after it, and so is whatever came before the last
    answer without being a query.
    """
    actions = [read(segment.text) for segment in trajectory.segments if segment.role == "policy"]
    states: list[StepState] = []
    for place, action in enumerate(actions):
        if isinstance(action, Search):
            states.append("query")
        elif place < len(actions) - 1:
            states.append("void")
        elif isinstance(action, Malformed):
            states.append("malformed")
        else:
            states.append("correct" if correct(trajectory) >= 1 else "wrong")
    return states


def stepwise(
    trajectory: Trajectory,
    *,
    judge: Judge = gold_relevances,
    variant: Variant = "both",
    factors: StepFactors = StepFactors(),
    read: Callable[[str], Search | Answer | Malformed] = parse_action,
    correct: Callable[[Trajectory], float] = exact,
) -> list[float]:
    """`assign_step_rewards` for every policy segment of an attempt. A query that was not carried out scores 0.

    All 0 after an error. Raises `BadInput` when the question lacks the golds or the evidence that the variant needs.
    """
    states = step_states(trajectory, read=read, correct=correct if variant != "process" else _never)
    if trajectory.error is not None:
        return [0.0] * len(states)
    queries = states.count("query")
    judged = [] if variant == "outcome" else [min(1.0, max(0.0, float(score))) for score in judge(trajectory)]
    scores = (judged + [0.0] * queries)[:queries]
    return assign_step_rewards(states, scores, variant=variant, factors=factors)


def _told(fact: Evidence, passages: Sequence[Passage]) -> bool:
    return any(fact.told_by(passage) for passage in passages)


def _never(_: Trajectory) -> float:
    return 0.0
