"""Ask one question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ken.agents.background import run
from ken.core import BadInput, Question, Sampling, Trajectory
from ken.models import Model, load_model
from ken.sources import Retriever, Sources

if TYPE_CHECKING:
    from ken.agents import Strategy


def ask(
    question: str | Question,
    *,
    model: str | Model,
    index: object = None,
    strategy: str | Strategy = "adaptive",
    top_k: int = 3,
    sampling: Sampling = Sampling(),
    mcp: Sequence[str] = (),
    **model_options: Any,
) -> Trajectory:
    """Answer a question and say how: the trajectory holds the decision, the searches, the passages and the answer.

    question: its text, or a `Question`, whose id and golds the trajectory then keeps.
    model: a spec such as "openai/gpt-4o-mini", "hf/Qwen/Qwen2.5-0.5B-Instruct" or "lab/factworld", or a loaded model;
        `model_options` (base_url, api_key, device, …; see `load_model`) go with a spec.
    index: a folder with an index, the URL of a /retrieve service, an `Index` or a `Retriever`; not needed for "direct".
    strategy: a name ("adaptive", "direct", "rag", "search", "ircot", "self-ask", "stepwise", "tools") or a `Strategy`.
    top_k: passages per search, ≥ 1.
    sampling: of every call of the model; greedy by default.
    mcp: servers whose tools the strategy "tools" may use beside its own: command lines or http(s) addresses.

    Raises `BadInput` for what cannot work as given. A model that does not answer gives a trajectory with `error` set.
    """
    return run(
        ask_async(
            question,
            model=model,
            index=index,
            strategy=strategy,
            top_k=top_k,
            sampling=sampling,
            mcp=mcp,
            **model_options,
        )
    )


async def ask_async(
    question: str | Question,
    *,
    model: str | Model,
    index: object = None,
    strategy: str | Strategy = "adaptive",
    top_k: int = 3,
    sampling: Sampling = Sampling(),
    mcp: Sequence[str] = (),
    **model_options: Any,
) -> Trajectory:
    """`ask` as a coroutine, for programs that have an event loop. Questions that are asked together share one model:
    load it once and pass it."""
    from ken.agents import load_strategy

    if mcp:
        return await _ask_with_tools(
            question,
            model=model,
            index=index,
            strategy=strategy,
            top_k=top_k,
            sampling=sampling,
            mcp=mcp,
            **model_options,
        )
    chosen = load_strategy(strategy) if isinstance(strategy, str) else strategy
    asked = as_question(question)
    if not isinstance(model, str | Model):
        raise BadInput(f"a model is a spec such as 'openai/gpt-4o-mini' or a loaded model, not {type(model).__name__}")
    if chosen.needs_search and index is None:
        raise BadInput(
            f"the strategy {chosen.name!r} searches, but no index was given; name one, or use the strategy 'direct'"
        )
    sources = open_sources(index, top_k)
    loaded: Model | None = None
    try:
        # Loading takes seconds; in a thread, so that questions of others on the same loop go on.
        loaded = await asyncio.to_thread(load_model, model, **model_options) if isinstance(model, str) else model
        return await chosen.run(asked, loaded, sources, sampling=sampling)
    finally:
        if loaded is not None and loaded is not model:
            await loaded.close()
        if sources.search is not None and sources.search is not index:
            await sources.search.close()


async def _ask_with_tools(
    question: str | Question, *, index: object, strategy: str | Strategy, mcp: Sequence[str], **how: Any
) -> Trajectory:
    """`ask_async` with the tools of MCP servers, which run as long as it takes."""
    from ken.agents.tools import RESERVED, ToolLoop
    from ken.sources.tools.mcp import open_mcp_tools

    if strategy != ToolLoop.name:
        raise BadInput(f"only the strategy {ToolLoop.name!r} can use MCP servers; choose it, or leave them out")
    if isinstance(mcp, str):
        raise BadInput("mcp is a list of servers; put the one that you have into a list")
    async with open_mcp_tools(mcp, taken=RESERVED) as found:
        loop = ToolLoop(search=index is not None, more=found.tools, problems=found.problems)
        return await ask_async(question, index=index, strategy=loop, **how)


def as_question(question: str | Question) -> Question:
    """A string as a question. Raises `BadInput` when it is empty or no valid text."""
    if isinstance(question, Question):
        return question
    if not question.strip():
        raise BadInput("the question is empty; ask something")
    try:
        question.encode()
    except UnicodeEncodeError as error:  # lone surrogates: bytes on the command line that are not UTF-8
        raise BadInput("the question is no valid text; give it in UTF-8") from error
    return Question(id="ask", text=question)


def open_sources(index: object, top_k: int) -> Sources:
    """What was given as an index, ready for strategies. Raises `BadInput` for top_k < 1, `SourceError` for a broken
    index.
    """
    if top_k < 1:
        raise BadInput(f"top_k is {top_k}; a search must return at least one passage")
    if index is None:
        return Sources(top_k=top_k)
    from ken.sources.search.index import Index
    from ken.sources.search.retriever import IndexRetriever, open_retriever

    if isinstance(index, str | Path):
        return Sources(search=open_retriever(index), top_k=top_k)
    if isinstance(index, Index):
        return Sources(search=IndexRetriever(index), top_k=top_k)
    if isinstance(index, Retriever):
        return Sources(search=index, top_k=top_k)
    raise BadInput(f"an index is a folder, a URL, an Index or a Retriever, not {type(index).__name__}")
