"""From a trajectory to a reply of the chat-completions API."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ken.core import Observation, Trajectory
from ken.core.errors import SHORTEN
from ken.serving.answer_text import cut
from ken.serving.citations import Citation, citations, cited
from ken.serving.errors import NO_RETRY, ApiError
from ken.serving.openai_types import ChatRequest


def completion(body: ChatRequest, trajectory: Trajectory) -> dict[str, Any]:
    """The reply. Raises `ApiError` with status 502 when there is no answer; what happened until then is in it."""
    sources = citations(trajectory) if body.ken.citations else ()
    answer = cut(answered(trajectory), stops(body))
    thoughts = "\n".join(step.text for step in trajectory.steps if step.kind == "thought")
    message: dict[str, Any] = {"role": "assistant", "content": cited(answer, sources), "refusal": None}
    if thoughts:
        message["reasoning_content"] = thoughts
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": token_usage(trajectory),
        "ken": ken_info(trajectory, sources),
    }


def answered(trajectory: Trajectory) -> str:
    """The answer. Raises `ApiError` when there is none, or nothing in it."""
    if trajectory.error:
        raise failed(trajectory, ken=ken_info(trajectory, (), error=trajectory.error), param="messages")
    if not (trajectory.answer or "").strip():
        problem = (
            "the model gave no answer in the form that the strategy asks for; raise max_tokens, use another strategy, "
            "or a model that follows instructions better"
        )
        told = ken_info(trajectory, (), error=problem)
        raise ApiError(502, problem, code="no_answer", headers=NO_RETRY, extra={"ken": told})
    return trajectory.answer or ""


def failed(trajectory: Trajectory, /, *, param: str, **extra: Any) -> ApiError:
    """The error of an attempt that met one: the client's when the model's prompt became too long, with its question in
    the parameter `param`; else that of the model or index. extra: what goes beside it."""
    problem = trajectory.error or ""
    if problem.endswith(SHORTEN):
        return ApiError(400, problem, code="context_length_exceeded", param=param, extra=extra)
    return ApiError(502, problem, code="upstream_error", headers=NO_RETRY, extra=extra)


def ken_info(trajectory: Trajectory, sources: Sequence[Citation], *, error: str | None = None) -> dict[str, Any]:
    """The field `ken` of a reply (`KenInfo`)."""
    decision = trajectory.decision
    brought = iter(trajectory.search_results)
    searches = []
    for search in trajectory.searches:
        found = next(brought, Observation())
        searches.append(
            {
                "query": search.query,
                "passages": passage_infos(found),
                "error": found.note if found.error else None,
            }
        )
    return {
        "question": trajectory.question.text,
        "strategy": trajectory.strategy,
        "model": trajectory.model,
        "decision": None if decision is None else decision.model_dump(exclude={"kind"}),
        "searches": searches,
        "citations": [asdict(source) for source in sources],
        "confidence": trajectory.answer_confidence,
        "malformed": trajectory.malformed,
        "usage": trajectory.usage.model_dump(),
        "error": error,
    }


def passage_infos(found: Observation) -> list[dict[str, Any]]:
    """Passages by name. A score that is no number (a remote retriever may send one) is left out, as JSON has none."""
    return [
        {"id": p.id, "title": p.title, "score": p.score if p.score is not None and math.isfinite(p.score) else None}
        for p in found.passages
    ]


def token_usage(trajectory: Trajectory) -> dict[str, int]:
    """OpenAI's `usage`."""
    prompt, written = trajectory.usage.prompt_tokens, trajectory.usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def summary(trajectory: Trajectory) -> dict[str, Any]:
    """What the log says of an attempt, without any text."""
    decision, usage = trajectory.decision, trajectory.usage
    return {
        "knows": decision.knows if decision else None,
        "answered": bool((trajectory.answer or "").strip()),
        "searches": usage.search_calls,
        "model_calls": usage.model_calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def new_id() -> str:
    """Of a completion."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def stops(body: ChatRequest) -> tuple[str, ...]:
    """The strings that end the answer."""
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
