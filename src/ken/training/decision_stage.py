"""The stage in which a policy learns to say what it knows (AdaSearch, arXiv 2512.16883; card 01, Training stage 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ken.agents import Decide, Direct
from ken.core import BadInput, Question, Sampling
from ken.training.rewards.awareness import decided
from ken.training.rewards.outcome import exact
from ken.training.rollouts import Reward, Task, Unit, by_kind, each


def decision_stage(
    questions: Sequence[Question], labels: Mapping[str, bool], *, sampling: Sampling, replay_every: int = 0
) -> tuple[list[Unit], Reward]:
    """Tasks and their reward: a verdict on every labelled question (kind "decide"), 1 when it is the label.

    sampling: of the verdicts. replay_every: every so many verdicts bring a closed-book group of the same question (kind
    "inside"), which holds what the policy recalls while its judgement moves; 0 brings none, as in the paper. Raises
    `BadInput` when no question has a label.
    """
    units: list[Unit] = []
    for question in (q for q in questions if q.id in labels):
        verdict = Task(question, Decide(), "decide", sampling, known=labels[question.id])
        replay = replay_every and len(units) % replay_every == 0
        units.append((verdict, Task(question, Direct(), "inside")) if replay else (verdict,))
    if not units:
        raise BadInput("no question has a label; measure solve rates of the questions to be decided first")
    return units, by_kind({"decide": each(partial(decided, labels=labels)), "inside": each(exact)})
