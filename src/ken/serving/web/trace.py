"""An attempt as the pages draw it (`static/trace.js`): plain values, with the answer's words marked in the passages."""

from __future__ import annotations

from typing import Any

from ken.auditing.html import inert
from ken.core import Observation, Step, Trajectory
from ken.metrics.evidence import answer_spans, marked

PASSAGE = 4000  # characters of a passage that are shown


def step_view(step: Step, answer: str | None = None) -> dict[str, Any]:
    """A step's fields; the text and title of each passage as pieces: [[piece, is it of the answer's words], …]."""
    view: dict[str, Any] = _inert(step.model_dump(mode="json"))
    if isinstance(step, Observation):
        view["passages"] = [
            {"id": p.id, "title": _pieces(p.title, answer), "text": _pieces(_cut(p.text), answer)}
            for p in step.passages
        ]
    return view


def trace_view(trajectory: Trajectory) -> dict[str, Any]:
    """An attempt that has ended. rewritten: what was asked in place of a question that leant on a conversation."""
    asked = trajectory.question
    return {
        "rewritten": inert(asked.text) if asked.meta.get("query", asked.text) != asked.text else None,
        "strategy": trajectory.strategy,
        "model": trajectory.model,
        "answer": inert(trajectory.answer),
        "confidence": trajectory.answer_confidence,
        "steps": [step_view(step, trajectory.answer) for step in trajectory.steps],
        "usage": trajectory.usage.model_dump(),
        "error": inert(trajectory.error),
    }


def _pieces(text: str, answer: str | None) -> list[tuple[str, bool]]:
    text = str(inert(text))
    return marked(text, answer_spans(answer, text))


def _inert(value: Any) -> Any:
    """All texts inside, without characters that are no text or would show others in a wrong order."""
    if isinstance(value, dict):
        return {key: _inert(inside) for key, inside in value.items()}
    return [_inert(inside) for inside in value] if isinstance(value, list) else inert(value)


def _cut(text: str) -> str:
    return text if len(text) <= PASSAGE else text[:PASSAGE].rstrip() + " …"
