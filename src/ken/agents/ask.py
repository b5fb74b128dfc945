"""Ask one question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ken.agents.background import run
from ken.agents.strategy import Strategy, check_sources
from ken.core import BadInput, Question, Sampling, Trajectory
from ken.models import Model
from ken.probing.loading import load_model
from ken.sources import KnowledgeGraph, Retriever, Sources


def ask(
    question: str | Question,
    *,
    model: str | Model,
    index: object = None,
    strategy: str | Strategy = "adaptive",
    top_k: int = 3,
    sampling: Sampling = Sampling(),
    mcp: Sequence[str] = (),
    graph: object = None,
    tools: str | Path | None = None,
    allow: Sequence[str] | bool = (),
    within: str = "",
    **model_options: Any,
) -> Trajectory:
    """Answer a question and say how: the trajectory holds the decision, the searches, the passages and the answer.

    question: its text, or a `Question`, whose id and golds the trajectory then keeps.
    model: a spec such as "openai/gpt-4o-mini", "hf/Qwen/Qwen2.5-0.5B-Instruct" or "lab/factworld", or a loaded model;
        `model_options` (base_url, api_key, device, decoder, …; see `load_model`) go with a spec. A decoder may be given
        by its name ("lfd", "dola:layers=low"; see `ken.probing.loading`).
    index: a folder with an index, the URL of a /retrieve service, an `Index` or a `Retriever`; not needed for "direct".
    strategy: a name ("adaptive", "direct", "rag", "search", "ircot", "self-ask", "stepwise", "tools", …; see
        `ken.agents.STRATEGIES`) or a `Strategy`.
    top_k: passages per search, ≥ 1.
    sampling: of every call of the model; greedy by default.
    mcp: servers whose tools the strategies "tools", "tool-stages" and "tool-stages-iterative" may use beside their own:
        command lines or http(s) addresses.
    tools: a JSON file of HTTP endpoints that the last two may call (`ken.sources.tools.http`).
    allow: the tools that may be called although they change something outside, or True for all.
    graph: for strategies that walk one: a file of triples, the folder of a graph, the URL of a SPARQL endpoint, or a
        `KnowledgeGraph`.
    within: only documents of the index whose ids lie in this folder, such as the reviews of one product.

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
            graph=graph,
            tools=tools,
            allow=allow,
            within=within,
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
    graph: object = None,
    tools: str | Path | None = None,
    allow: Sequence[str] | bool = (),
    within: str = "",
    **model_options: Any,
) -> Trajectory:
    """`ask` as a coroutine, for programs that have an event loop. Questions that are asked together share one model:
    load it once and pass it."""
    asked = as_question(question)
    if not isinstance(model, str | Model):
        raise BadInput(f"a model is a spec such as 'openai/gpt-4o-mini' or a loaded model, not {type(model).__name__}")
    async with _with_tools(strategy, mcp, tools, allow, search=index is not None) as chosen:
        sources = open_sources(index, top_k, graph, within=within)
        loaded: Model | None = None
        try:
            check_sources([chosen], sources)
            # Loading takes seconds; in a thread, so that questions of others on the same loop go on.
            loaded = await asyncio.to_thread(load_model, model, **model_options) if isinstance(model, str) else model
            return await chosen.run(asked, loaded, sources, sampling=sampling)
        finally:
            if loaded is not None and loaded is not model:
                await loaded.close()
            await close_sources(sources, keep=(index, graph))


@asynccontextmanager
async def _with_tools(
    strategy: str | Strategy,
    mcp: Sequence[str],
    tools: str | Path | None,
    allow: Sequence[str] | bool,
    *,
    search: bool,
) -> AsyncIterator[Strategy]:
    """The strategy, with the tools of MCP servers, which run as long as the context lasts, and those of a file. search:
    whether it may."""
    from ken.agents import ToolStages, ToolStagesIterative, load_strategy

    if not mcp and tools is None and not allow:
        yield load_strategy(strategy) if isinstance(strategy, str) else strategy
        return
    from ken.agents.adaptive import WITH_TOOLS, Adaptive
    from ken.agents.tools import RESERVED, ToolLoop
    from ken.sources.tools.builtin import builtin_tools
    from ken.sources.tools.mcp import open_mcp_tools
    from ken.sources.tools.tool import Toolbox

    users = (ToolLoop.name, WITH_TOOLS, ToolStages.name, ToolStagesIterative.name)
    if strategy not in users:
        names = ", ".join(map(repr, users))
        raise BadInput(
            f"only the strategies {names} can use MCP servers and other tools; choose one, or leave them out"
        )
    if isinstance(mcp, str) or isinstance(allow, str):
        raise BadInput("mcp and allow are lists, of servers and of tools; put the one that you have into a list")
    stages = {s.name: s for s in (ToolStages, ToolStagesIterative)}.get(strategy)
    if tools is not None and stages is None:
        raise BadInput(f"the strategy {strategy!r} takes no file of endpoints; {ToolStages.name!r} does")
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(open_mcp_tools(mcp, taken=RESERVED)) if mcp else None
        more, problems = (found.tools, found.problems) if found else ((), ())
        if stages is None:
            adaptive = strategy == WITH_TOOLS
            loop = ToolLoop(search=search and not adaptive, more=more, problems=problems, allow=allow)
            yield Adaptive(tools=loop) if adaptive else loop
            return
        from ken.sources.tools.http import load_http_tools

        endpoints = load_http_tools(tools) if tools is not None else []
        box = Toolbox([*builtin_tools(), *endpoints, *more], allow=allow)
        stack.push_async_callback(box.close)
        yield stages(box, problems=problems)


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


def open_sources(index: object, top_k: int, graph: object = None, *, within: str = "") -> Sources:
    """What was given as an index and as a graph, ready for strategies. within: of the index, only this folder of
    document ids. Raises `BadInput` for top_k < 1 or a folder that there is not, `SourceError` for a broken index or
    graph.
    """
    if top_k < 1:
        raise BadInput(f"top_k is {top_k}; a search must return at least one passage")
    return Sources(search=_open_search(index, within), top_k=top_k, graph=_open_graph(graph))


async def close_sources(sources: Sources, *, keep: Iterable[object]) -> None:
    """Close what `open_sources` opened; those in `keep` were open before."""
    kept = [id(one) for one in keep]
    for source in (sources.search, sources.graph):
        if source is not None and id(source) not in kept:
            await source.close()


def _open_search(index: object, within: str = "") -> Retriever | None:
    if within and (index is None or isinstance(index, Retriever)):
        raise BadInput(f"there is no index to be limited to {within!r}; name one, or open it with this group yourself")
    if index is None or isinstance(index, Retriever):
        return index
    from ken.sources.search.index import Index
    from ken.sources.search.retriever import IndexRetriever, open_retriever

    if isinstance(index, str | Path):
        return open_retriever(index, group=within)
    if isinstance(index, Index):
        return IndexRetriever(index, group=within)
    raise BadInput(f"an index is a folder, a URL, an Index or a Retriever, not {type(index).__name__}")


def _open_graph(graph: object) -> KnowledgeGraph | None:
    if graph is None or isinstance(graph, KnowledgeGraph):
        return graph
    if isinstance(graph, str | Path):
        from ken.sources.graph.opening import open_graph

        return open_graph(graph)
    raise BadInput(f"a graph is a file, a folder, a SPARQL endpoint or a KnowledgeGraph, not {type(graph).__name__}")
