"""Where a walk on a knowledge graph starts: the entities that a question is about."""

from __future__ import annotations

import re
from itertools import islice
from typing import Literal

from ken.agents.attempt import Attempt
from ken.agents.graph_prompts import TOPICS
from ken.agents.graph_walk import graph_of
from ken.agents.protocol import escape
from ken.core import Entity, Malformed, Observation, Usage
from ken.sources.graph.mentions import mentioned

Linker = Literal["auto", "given", "llm", "match"]
LINKERS: tuple[Linker, ...] = ("auto", "given", "llm", "match")

LONGEST = 8  # words of a mention
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s*")


async def topic_entities(attempt: Attempt, linker: Linker, most: int) -> tuple[Entity, ...]:
    """At most `most` entities that the question is about, each once, and a note of them; () when none is found.

    given: those that the question's `meta` names: `topic_entities` (ids) or `topic_entity` (id → name, as in ToG's
    data). llm: the model names them and the graph links the names. match: the longest stretches of the question that
    are a name or another name of an entity (`mentioned`). auto: given, where the question has any, else llm.
    Raises `SourceError`, `ModelError`.
    """
    given = _given(attempt)
    if linker == "auto":
        linker = "given" if given else "llm"
    if linker == "given":
        found = list(await graph_of(attempt).entities(given[:most]))
    elif linker == "llm":
        found = await _named(attempt, most)
    else:
        attempt.count(Usage(graph_calls=1))
        found = list(await mentioned(graph_of(attempt), attempt.question.text, max_words=LONGEST))
    unique = tuple(islice({entity.id: entity for entity in found}.values(), most))
    note = "; ".join(entity.label for entity in unique)
    attempt.steps.append(Observation(note=f"topic entities: {note}" if unique else "no topic entity was found"))
    return unique


def _given(attempt: Attempt) -> list[str]:
    for name in ("topic_entities", "topic_entity"):
        ids = attempt.question.meta.get(name)
        if isinstance(ids, list | dict):
            return [str(one) for one in ids]
        if isinstance(ids, str):
            return [ids]
    return []


async def _named(attempt: Attempt, most: int) -> list[Entity]:
    reply = await attempt.aside(TOPICS, f"Q: {escape(attempt.question.text)}")
    lines = [_BULLET.sub("", line).strip() for line in reply.text.rpartition("</think>")[2].splitlines()]
    mentions = list(dict.fromkeys(line for line in lines if line))
    if not mentions:
        attempt.steps.append(Malformed(text=reply.text, problem="no topic entity named"))
    found = []
    for mention in mentions[:most]:
        attempt.count(Usage(graph_calls=1))
        found += [linked.entity for linked in await graph_of(attempt).link(mention[:200], 1)]
    return found
