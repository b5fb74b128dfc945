"""`/v1/chat/completions` and `/v1/models`: Ken for whoever speaks to OpenAI.

A model is `ken/STRATEGY`, with the server's first model inside, or `ken/STRATEGY/SPEC`. The last message is the
question; what stands before it is the history, against which the question is rewritten (`ken.serving.service.Ask`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from ken.core import Sampling
from ken.core.conversation import Exchange
from ken.serving.bodies import body_of, described
from ken.serving.chat_stream import ChatStream
from ken.serving.completion import completion, summary
from ken.serving.disconnect import while_there
from ken.serving.errors import ApiError, ErrorReply
from ken.serving.openai_types import ChatCompletion, ChatMessage, ChatRequest, ModelEntry, ModelList
from ken.serving.service import MAX_EXCHANGES, Ask, Service, Unknown

PREFIX = "ken/"
STARTED = int(time.time())

# Without a type: some readers check the whole body against it, others each event.
STREAMED = {"description": "Server-sent events; the data of each is a chunk as OpenAI has them, of the last [DONE]."}

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    openapi_extra=described(ChatRequest),
    responses={
        200: {"content": {"text/event-stream": {"schema": STREAMED}}, "description": "The answer."},
        502: {"model": ErrorReply, "description": "The model or an index failed, or gave no answer."},
        504: {"model": ErrorReply, "description": "No answer within the server's time."},
    },
)
async def chat_completions(request: Request, body: Annotated[ChatRequest, Depends(body_of(ChatRequest))]) -> Response:
    """Answer the last message. With `stream`, as server-sent events that end with `[DONE]`, or with an error."""
    service: Service = request.app.state.service
    asked = as_ask(service, body)
    log: dict[str, Any] = request.state.log
    log |= {"model": body.model, "strategy": asked.strategy, "stream": bool(body.stream)}
    request.state.log_texts["question"] = asked.question
    if body.stream:
        return await ChatStream.started(request, service, asked, body)
    trajectory = await while_there(request, service.attempt(asked))
    log |= summary(trajectory)
    request.state.log_texts["answer"] = trajectory.answer
    return JSONResponse(completion(body, trajectory))


@router.get("/models", response_model=ModelList)
def models(request: Request) -> ModelList:
    """The models there are: each strategy that can work here, with the first model and with each by name."""
    return ModelList(data=[ModelEntry(id=name, created=STARTED) for name in model_ids(request.app.state.service)])


@router.get("/models/{model:path}", response_model=ModelEntry)
def model(request: Request, model: str) -> ModelEntry:
    """One of them."""
    if model not in model_ids(request.app.state.service):
        raise _unknown(model)
    return ModelEntry(id=model, created=STARTED)


def model_ids(service: Service) -> list[str]:
    """The ids under which clients find the strategies; those that search only where there is an index."""
    if not service.models:
        return []
    able = [name for name in service.strategies if service.able(name)]
    return [f"{PREFIX}{name}" for name in able] + [f"{PREFIX}{name}/{spec}" for name in able for spec in service.models]


def as_ask(service: Service, body: ChatRequest) -> Ask:
    """What a request asks. Raises `ApiError` for a model or index that there is not, or messages that end with no
    question."""
    name, _, spec = body.model.removeprefix(PREFIX).partition("/")
    if not body.model.startswith(PREFIX) or name not in service.strategies or (spec and spec not in service.models):
        raise _unknown(body.model)
    if (index := body.ken.index) is not None and index not in service.indexes:
        problem = Unknown("index", index, service.indexes)
        raise ApiError(400, str(problem), code="invalid_value", param="ken.index")
    instructions, history, question = read_messages(body.messages)
    changes = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "seed": body.seed,
    }
    sampling: Sampling = service.sampling.but(**{key: value for key, value in changes.items() if value is not None})
    return Ask(
        question=question,
        strategy=name,
        model=spec or None,
        index=index,
        top_k=body.ken.top_k,
        sampling=sampling,
        history=history,
        instructions=instructions,
    )


def read_messages(messages: Sequence[ChatMessage]) -> tuple[str, tuple[Exchange, ...], str]:
    """Instructions, exchanges and the question. Neighbours of one role are one message, with a blank line between.

    An answer before any question (a greeting) is an exchange with an empty query. Raises `ApiError` when the last
    message is not the user's, or is empty.
    """
    instructions = "\n\n".join(m.content.strip() for m in messages if m.role in {"system", "developer"})
    spoken = groupby((m for m in messages if m.role in {"user", "assistant"}), key=lambda m: m.role)
    turns = [(role, "\n\n".join(text for m in said if (text := m.content.strip()))) for role, said in spoken]
    if not turns or turns[-1][0] != "user":
        raise ApiError(
            400,
            "the last message must be the user's question",
            code="invalid_value",
            param=f"messages[{len(messages) - 1}]",
        )
    if not turns[-1][1]:
        raise ApiError(
            400, "the question is empty; ask something", code="invalid_value", param=f"messages[{len(messages) - 1}]"
        )
    if turns[0][0] == "assistant":
        turns.insert(0, ("user", ""))
    said = [text for _, text in turns]
    history = tuple(Exchange(query=q, answer=a) for q, a in zip(said[:-1:2], said[1::2], strict=True))
    if len(history) > MAX_EXCHANGES:
        problem = f"the conversation is longer than {MAX_EXCHANGES} exchanges; send the last ones"
        raise ApiError(400, problem, code="invalid_value", param="messages")
    return instructions.strip(), history, said[-1]


def _unknown(model: str) -> ApiError:
    return ApiError(
        404, f"there is no model {model!r}; GET /v1/models lists them", code="model_not_found", param="model"
    )
