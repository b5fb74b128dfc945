"""Is the base model of the calculation world fit for experiments? What it can do when told which tool to use, and that
it does not know which (card 22, Miniature claim check, Model)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ken.agents.protocol import parse_answer
from ken.agents.tools import ToolLoop, response, tool_instruction
from ken.core import Answer, Question, Sampling, Trajectory
from ken.lab.calculation import KINDS, CalculationWorld
from ken.metrics.statistics import mean
from ken.metrics.tool_use import called
from ken.models import Message, Model
from ken.sources import Retriever, Sources
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever
from ken.sources.tools.arithmetic import Arithmetic
from ken.sources.tools.search_tool import NOTHING, CachedRetriever, snippet
from ken.training.lab_checkpoint import Gate

MAX_TOKENS = 24  # of one turn; the longest that makes sense takes 22
MAX_TURNS = 3


def open_documents(world: CalculationWorld, folder: Path) -> Retriever:
    """BM25 over the world's sentences, in `folder`, with an exact cache: there are far fewer queries than searches, and
    nearly equal names are different entities."""
    return CachedRetriever(IndexRetriever(Index.build(world.documents, folder, tokenizer="simple")), fuzzy=None)


async def measure_gates(model: Model, world: CalculationWorld, *, most: int = 200, seed: int = 0) -> list[Gate]:
    """Measure on up to `most` training questions of each kind: accuracy when the needed tools are chosen for it, format
    and calls when it chooses at random (T = 1)."""
    asked = {kind: [q for q in world.split("train") if q.meta["kind"] == kind][:most] for kind in KINDS}
    with TemporaryDirectory(prefix="ken-gates-") as folder:
        documents = open_documents(world, Path(folder) / "index")
        guided = {kind: await _accuracy(model, documents, asked[kind], kind) for kind in KINDS}
        alone = await _accuracy(model, documents, asked["S"], "K")
        sampled = {kind: await _sampled(model, documents, asked[kind], seed) for kind in KINDS}
        await documents.close()
    everything = [t for trajectories in sampled.values() for t in trajectories]
    searches = {kind: mean(called(t)["search"] for t in sampled[kind]) for kind in KINDS}
    codes = {kind: mean(called(t)["code"] for t in sampled[kind]) for kind in KINDS}
    return [
        Gate("known facts, from memory", guided["K"], 0.85, 1.0),
        Gate("unexposed facts, from memory", alone, 0.0, 0.06),
        Gate("arithmetic on single digits, by heart", guided["D"], 0.9, 1.0),
        Gate("facts it was told to look up", guided["S"], 0.9, 1.0),
        Gate("arithmetic it was told to compute", guided["C"], 0.9, 1.0),
        Gate("hybrids, told when to look up and when to compute", guided["H"], 0.75, 1.0),
        Gate("rollouts in the format", mean(not t.malformed and not t.unfinished for t in everything), 0.85, 1.0),
        Gate("searches for unexposed facts beyond those for known ones", searches["S"] - searches["K"], -0.15, 0.15),
        Gate("calculations for hard sums beyond those for easy ones", codes["C"] - codes["D"], -0.15, 0.15),
        Gate("searches a question", mean(searches.values()), 0.2, 2.0, gating=False),
        Gate("calculations a question", mean(codes.values()), 0.2, 2.0, gating=False),
        Gate("right without guidance", mean(map(_right, everything)), 0.0, 1.0, gating=False),
        Gate("hybrids right without guidance", mean(map(_right, sampled["H"])), 0.01, 1.0),
    ]


def plan(question: Question, kind: str) -> list[str]:
    """The tools that a question of this kind takes, in order."""
    searches = int(str(question.meta["calls"])) - ("code" in KINDS[kind]) if "search" in KINDS[kind] else 0  # type: ignore[index]
    return ["search"] * searches + ["code"] * ("code" in KINDS[kind])  # type: ignore[index]


async def _accuracy(model: Model, documents: Retriever, asked: Sequence[Question], kind: str) -> float:
    """Share right, greedily, when each action's tag is written for the model: the tools of `plan`, then the answer."""

    async def right(question: Question) -> bool:
        tools = plan(question, kind)
        instruction = tool_instruction(search=True, code=True)
        conversation = [Message("system", instruction), Message("user", question.text)]

        async def write(opening: str, stop: str) -> str:
            conversation.append(Message("policy", opening))
            sampling = Sampling(max_tokens=MAX_TOKENS, stop=(stop,))
            (generation,) = await model.generate(conversation, sampling=sampling)
            conversation.append(Message("policy", generation.text, generation.token_ids))
            return opening + generation.text

        for tool in tools:
            content = (await write(f"<{tool}>", f"</{tool}>")).removeprefix(f"<{tool}>").removesuffix(f"</{tool}>")
            if tool == "search":
                found = await documents.search(content, 1) if content.strip() else []
                conversation.append(Message("observation", response(snippet(found[0]) if found else NOTHING)))
                await write("<think>", "</think>")
            else:
                conversation.append(Message("observation", response((await Arithmetic().call({"code": content})).text)))
        opening = "<think>" if kind == "K" else "<answer>"
        answer = parse_answer(await write(opening, "</answer>"))
        return isinstance(answer, Answer) and answer.text in question.answers

    return mean(await asyncio.gather(*(right(question) for question in asked)))


async def _sampled(model: Model, documents: Retriever, asked: Sequence[Question], seed: int) -> list[Trajectory]:
    """One attempt at each question with both tools, at T = 1."""
    loop = ToolLoop(interpreter=Arithmetic(), max_turns=MAX_TURNS)
    sampling = Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=seed)
    sources = Sources(search=documents, top_k=1)
    return list(await asyncio.gather(*(loop.run(q, model, sources, sampling=sampling) for q in asked)))


def _right(trajectory: Trajectory) -> bool:
    return trajectory.answer in trajectory.question.answers
