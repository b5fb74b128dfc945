"""Find the entities of a graph that a text mentions: n-grams and their lemmas, the longest first.

As QA-GNN (arXiv 2104.06378) and what it builds on link the words of a question to ConceptNet; which lemma is right the
graph itself decides, since only one of its names counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ken.core import Entity
from ken.sources.graph.protocol import KnowledgeGraph

_WORD = re.compile(r"[^\W_]+(?:[-_][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s\b")

# Words that name nothing by themselves.
STOP = frozenset(
    """
    a an the this that these those it its he she they him his her their you your we our i me my who whom whose which
    what when where why how is are was were be been being am do does did done has have had having can could may might
    must shall should will would not no nor and or but if then than so as of at by for from in into on onto to with
    without about after before between during through over under up down out off again very more most some any each
    every all both either neither such only own same other another unlike like likely there here also just following
    best
    """.split()  # noqa: SIM905
)

# WordNet's rules of detachment (morphy): an ending, and what stands in its place.
_ENDINGS = (
    ("ies", "y"), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("es", "e"),
    ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"), ("er", ""), ("er", "e"), ("est", ""),
    ("est", "e"),
)  # fmt: skip


def lemmas(word: str) -> Iterator[str]:
    """The word itself, then what it may be an inflection of; not all of these are words.

    >>> list(lemmas("wolves"))[:3], "fishing" in list(lemmas("fishing")), "bake" in list(lemmas("baking"))
    (['wolves', 'wolve', 'wolv'], True, True)
    """
    yield word
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            yield stem + instead
            if ending in ("ing", "ed") and not instead and len(stem) > 3 and stem[-1] == stem[-2]:
                yield stem[:-1]  # stopped: stop


async def mentioned(graph: KnowledgeGraph, text: str, *, max_words: int = 5) -> tuple[Entity, ...]:
    """The entities whose name or other name stands in a text, each once, in the order of the text. Of n-grams that
    overlap the longest counts; the last word of one may be inflected. Raises `SourceError`."""
    words = _WORD.findall(_POSSESSIVE.sub("", text))
    taken = [False] * len(words)
    found: dict[int, Entity] = {}
    for size in range(min(max_words, len(words)), 0, -1):
        for start in range(len(words) - size + 1):
            gram = words[start : start + size]
            if any(taken[start : start + size]) or gram[0].lower() in STOP or gram[-1].lower() in STOP:
                continue
            entity = await _named(graph, gram)
            if entity is not None:
                taken[start : start + size] = [True] * size
                found[start] = entity
    return tuple({entity.id: entity for _, entity in sorted(found.items())}.values())


async def _named(graph: KnowledgeGraph, words: list[str]) -> Entity | None:
    for last in dict.fromkeys(lemmas(words[-1])):
        for linked in await graph.link(" ".join([*words[:-1], last]), 1):
            if linked.how != "words":
                return linked.entity
    return None
