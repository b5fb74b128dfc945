"""What an answer from a knowledge graph rests on, and what it would be if the graph said otherwise (ToG's traceability
and correctability, arXiv 2307.07697, section 3.4)."""

from __future__ import annotations

import re
from dataclasses import replace

from ken.agents.strategy import Strategy
from ken.core import Answer, Observation, SourceError, Trajectory, Triple
from ken.models import Model
from ken.sources import Sources
from ken.sources.graph.edited import correct

_KEPT = re.compile(r"kept at depth (\d+)")


def kept(trajectory: Trajectory) -> tuple[tuple[Triple, ...], ...]:
    """The triples that the walk kept, depth by depth, with their scores, best first."""
    return tuple(s.triples for s in trajectory.steps if isinstance(s, Observation) and _KEPT.fullmatch(s.note))


def explain(trajectory: Trajectory) -> str:
    """How an answer came about, in lines of text: the triples depth by depth with their scores, the answer, where it
    comes from, and what it cost."""
    lines = [f"Question: {trajectory.question.text}"]
    for depth, triples in enumerate(kept(trajectory), start=1):
        lines.append(f"Depth {depth}")
        lines += [f"  {'' if t.score is None else f'{t.score:.2f}  '}{t}" for t in triples]
    answer = next((s for s in reversed(trajectory.steps) if isinstance(s, Answer)), None)
    if answer is None:
        lines.append(f"No answer{f': {trajectory.error}' if trajectory.error else ''}")
    else:
        lines.append(f"Answer: {answer.text} ({origin(answer)})")
    usage = trajectory.usage
    lines.append(f"{usage.model_calls} calls of the model, {usage.graph_calls} of the graph")
    return "\n".join(lines)


async def ask_corrected(
    trajectory: Trajectory, old: Triple, new: Triple, *, strategy: Strategy, model: Model, sources: Sources
) -> Trajectory:
    """Ask the question of `trajectory` again, of a graph in which `new` stands in place of `old`; the graph itself
    stays as it is. Raises `BadInput` when it does not hold `old`, `SourceError` when there is none."""
    if sources.graph is None:
        raise SourceError("there is no knowledge graph to correct; give one with --graph")
    edited = await correct(sources.graph, old, new)
    return await strategy.run(
        trajectory.question,
        model,
        replace(sources, graph=edited),
        sampling=trajectory.sampling,
        sample=trajectory.sample,
    )


def origin(answer: Answer) -> str:
    """Where an answer comes from, in words."""
    if answer.source == "graph":
        return "from the graph, though it was not judged to suffice" if answer.partial else "from the graph"
    return "from what the model knows" if answer.source == "inside" else "from an unknown source"
