"""The shapes of the chat-completions API as Ken speaks it, and the field `ken` by which it says more.

A request may hold what clients of OpenAI send. What makes no difference here is accepted and ignored; what would be
missed if it were ignored is refused (`ken.serving.errors.REFUSED`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ken.core import Origin

PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}


def _text(content: Any) -> Any:
    """A message's content as one text. Parts of another kind than text are refused: the model would not see them."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise ValueError(f"a part of kind {kind!r} cannot be read here; send text")
        texts.append(part["text"])
    return "\n\n".join(texts)


Text = Annotated[
    str,
    BeforeValidator(_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": PART}], "title": "Content"}),
]


class ChatMessage(BaseModel):
    """One message. Other fields, such as those of an assistant's message that is sent back, are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class KenOptions(BaseModel):
    """What Ken takes beyond OpenAI's parameters (`extra_body={"ken": {…}}` in the official client).

    index: the name of one of the server's indexes. top_k: passages per search. citations: end the answer with the
    numbers and a list of the passages that hold it.
    """

    model_config = ConfigDict(extra="forbid")

    index: str | None = None
    top_k: int | None = Field(default=None, ge=1, le=100)
    citations: bool = False


class StreamOptions(BaseModel):
    """Of a stream: whether it ends with the tokens it cost."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


Nothing = Annotated[list[Any], Field(max_length=0)]


class ChatRequest(BaseModel):
    """A request. `max_tokens` and `max_completion_tokens` bound each call of the model, of which a strategy makes
    several."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(min_length=1, examples=["ken/adaptive"])
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)]
        | None
    ) = None
    ken: KenOptions = KenOptions()

    # Accepted in the only form that is true here.
    n: Literal[1] | None = None
    tools: Nothing | None = None
    functions: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    web_search_options: None = None

    # Accepted and ignored: they change nothing about the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    verbosity: Any = None


class Reply(BaseModel):
    """What Ken sends: what stands here and nothing else."""

    model_config = ConfigDict(extra="forbid")


class DecisionInfo(Reply):
    """The model's judgement whether it knows the answer; `confidence` is its probability that it does. `source` is
    where it chose to look, where it had a choice; "inside" when it knows."""

    knows: bool | None
    source: Origin | None
    confidence: float | None
    rationale: str


class PassageInfo(Reply):
    """A passage by name; POST /v1/ask gives its text."""

    id: str
    title: str
    score: float | None


class SearchInfo(Reply):
    """A search and what it brought; `error` says why it brought nothing."""

    query: str
    passages: list[PassageInfo]
    error: str | None


class CitationInfo(Reply):
    """A passage that holds the answer, as far as it was shown to the model."""

    number: int
    id: str
    title: str
    text: str


class UsageInfo(Reply):
    """What the attempt cost, all calls of the model together. `seconds` are of wall time, waiting included."""

    prompt_tokens: int
    completion_tokens: int
    model_calls: int
    search_calls: int
    graph_calls: int
    seconds: float


class KenInfo(Reply):
    """How the answer came about.

    question: as the strategy was asked; it differs from the last message where that leant on earlier ones.
    confidence: the model's probability of the answer's words, where it gives one. malformed: how many of its outputs
    did not follow the protocol. error: why there is no answer.
    """

    question: str
    strategy: str
    model: str
    decision: DecisionInfo | None
    searches: list[SearchInfo]
    citations: list[CitationInfo]
    confidence: float | None
    malformed: int
    usage: UsageInfo
    error: str | None


class AnswerMessage(Reply):
    """The answer. `reasoning_content` is what the model thought aloud."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None = None
    refusal: None = None


class AnswerChoice(Reply):
    """The only choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop"] = "stop"


class TokenUsage(Reply):
    """Tokens, of all calls of the model together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Reply):
    """A reply that is not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: TokenUsage
    ken: KenInfo


class ModelEntry(Reply):
    """A model of /v1/models: `ken/STRATEGY` with the server's first model, or `ken/STRATEGY/SPEC`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ken"


class ModelList(Reply):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
