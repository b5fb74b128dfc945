"""How many answers are right by a judge (card 40), from the verdicts that it has given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Literal

from ken.auditing.report import AS_BEFORE, JudgedAccuracy
from ken.auditing.run import DIRECT
from ken.auditing.verdicts import Verdicts, answer_key, to_judge
from ken.core import Trajectory
from ken.metrics import bootstrap_difference, exact_match, wilson

Judgement = bool | Literal["unreadable", "unjudged"]


def judged_right(t: Trajectory, verdicts: Verdicts) -> Judgement:
    """Whether an attempt is right by a judge, or why that is not known."""
    if t.answer is None or not to_judge(t):
        return bool(exact_match(t.answer, t.question.answers))
    verdict = verdicts.said.get(answer_key(t.question, t.answer), "unjudged")
    return "unreadable" if verdict is None else verdict  # type: ignore[return-value]


def judged_accuracies(
    attempts: Mapping[str, Mapping[str, Trajectory]], verdicts: Verdicts
) -> dict[str, JudgedAccuracy]:
    """By strategy; those without questions that have golds are left out. attempts: by strategy and question."""
    judged = {
        name: {i: judged_right(t, verdicts) for i, t in ts.items() if t.question.answers}
        for name, ts in attempts.items()
    }
    direct = _known(judged.get(DIRECT, {}))
    return {name: _accuracy(said, {} if name == DIRECT else direct) for name, said in judged.items() if said}


def judge_notes(judged: Iterable[JudgedAccuracy], judge: str, verdicts: Verdicts) -> Iterable[str]:
    """What a reader must know to read these numbers."""
    found = list(judged)
    if unreadable := sum(j.unreadable for j in found):
        yield f"The judge {judge} said nothing readable about {unreadable} answers; they are left out."
    if unjudged := sum(j.unjudged for j in found):
        why = f" ({verdicts.error.rstrip('.')})" if verdicts.error else ""
        yield (
            f"{unjudged} answers have no verdict of the judge {judge}{why} and are left out; {AS_BEFORE} "
            "asks about them again."
        )


def _accuracy(judged: Mapping[str, Judgement], direct: Mapping[str, float]) -> JudgedAccuracy:
    known, said = _known(judged), list(judged.values())
    paired = [i for i in known if i in direct]
    return JudgedAccuracy(
        accuracy=fmean(known.values()) if known else None,
        interval=wilson(round(sum(known.values())), len(known)) if known else None,
        gain=bootstrap_difference([known[i] for i in paired], [direct[i] for i in paired]) if paired else None,
        answers=len(known),
        unreadable=said.count("unreadable"),
        unjudged=said.count("unjudged"),
    )


def _known(judged: Mapping[str, Judgement]) -> dict[str, float]:
    return {i: float(said) for i, said in judged.items() if isinstance(said, bool)}
