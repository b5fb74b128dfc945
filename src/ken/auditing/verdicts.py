"""What a judge says of the answers of an audit: for those that exact match cannot grade.

The rule is R3-RAG's (arXiv 2505.23794; card 40, Stage 2): an answer that equals a gold is right, of the others a
language model says whether they mean the same, and one that it is unsure about is wrong. The verdicts are in
verdicts.jsonl, by question, golds and answer, so that no answer is judged twice and measuring again needs no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ken.auditing.asking import Asking
from ken.auditing.folder import digest_of
from ken.core import ModelError, Question, Trajectory
from ken.metrics import exact_match
from ken.models import Model
from ken.training.json_lines import JsonLines
from ken.training.judges import LLMJudge

VERDICTS = "verdicts.jsonl"


@dataclass(frozen=True)
class Verdicts:
    """Of one judge. said: by `answer_key`; None where no reply could be read. error: why it last did not answer, ""
    when it always did."""

    said: Mapping[str, bool | None]
    error: str = ""


NO_VERDICTS = Verdicts({})


def answer_key(question: Question, answer: str) -> str:
    """What a verdict depends on besides the judge, as a short hash."""
    return digest_of([[question.text, list(question.answers), answer]])


def to_judge(trajectory: Trajectory) -> bool:
    """Whether it takes a judge to say that an attempt is right: it gave an answer, there are golds, and none equals."""
    answer, golds = trajectory.answer, trajectory.question.answers
    return bool(golds and trajectory.error is None and answer and answer.strip()) and not exact_match(answer, golds)


async def judge_answers(
    model: Model, trajectories: Iterable[Trajectory], out: Path, on_progress: Callable[[int, int], None]
) -> None:
    """Ask `model` about the answers that no gold equals, and keep the verdicts in the folder `out`.

    What it was asked before it is not asked again, unless it did not answer. A judge that is down is given up after
    `asking.TOGETHER` answers, so that the audit ends without their verdicts.
    """
    answers: dict[str, tuple[Question, str]] = {}
    for t in trajectories:
        if t.answer is not None and to_judge(t):
            answers.setdefault(answer_key(t.question, t.answer), (t.question, t.answer))
    judge = LLMJudge(model)

    async def verdict(of: tuple[Question, str]) -> dict[str, Any]:
        question, answer = of
        shown = {"question": question.text, "golds": question.answers, "answer": answer}
        try:
            return {**shown, "right": await judge.right(question, answer), "errors": []}
        except ModelError as error:
            return {**shown, "right": None, "errors": [str(error)]}

    asking = Asking(model.spec, out / VERDICTS, on_progress, len(answers))
    try:
        await asking.each(model.spec, answers, verdict, calls=1)
    except ModelError:
        pass  # what is missing is counted where it is measured
    finally:
        asking.close()


def read_verdicts(out: Path, judge: str) -> Verdicts:
    """The verdicts of `judge` in the folder of an audit."""
    if not (out / VERDICTS).exists():
        return NO_VERDICTS
    said: dict[str, bool | None] = {}
    failed: dict[str, str] = {}
    lines = JsonLines(out / VERDICTS)
    for record in lines.records():
        key, errors, right = record.get("id"), record.get("errors"), record.get("right")
        if record.get("kind") != judge or not isinstance(key, str) or not isinstance(errors, list):
            continue
        if errors:
            failed[key] = str(errors[0])
        elif isinstance(right, bool | None):
            said[key] = right
    lines.close()
    return Verdicts(said, next((error for key, error in reversed(failed.items()) if key not in said), ""))
