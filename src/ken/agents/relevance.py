"""How relevant what a graph holds is to a question, by models: for the cap of a subgraph and the neighbours of a walk.

extractor = SubgraphExtractor(relevance=by_likelihood(model))
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ken.agents.protocol import escape
from ken.models import Instruction, Message, Model
from ken.sources.graph.subgraph import Relevance
from ken.sources.search.vectors import Encoder

MENTION = Instruction(token="<closed>", text="Continue the user's text with a concept that matters to it.")


def by_likelihood(model: Model) -> Relevance:
    """The mean log-probability a token that a language model gives to a text after the question (QA-GNN, arXiv
    2104.06378, section 3.2, whose scorer is a masked model). Asking raises `Unsupported` for a model without
    log-probabilities."""

    async def relevance(question: str, texts: Sequence[str]) -> list[float]:
        asked = [Message("system", MENTION), Message("user", escape(question))]
        distinct = list(dict.fromkeys(texts))
        scores = await asyncio.gather(*(model.score(asked, escape(text)) for text in distinct))
        found = {text: s.total / max(1, len(s.logprobs)) for text, s in zip(distinct, scores, strict=True)}
        return [found[text] for text in texts]

    return relevance


def by_vectors(encoder: Encoder) -> Relevance:
    """The cosine between question and text."""

    async def relevance(question: str, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        query = await asyncio.to_thread(encoder.queries, [question])
        rows = await asyncio.to_thread(encoder.documents, [("", text) for text in texts])
        return [float(one) for one in rows @ query[0]]

    return relevance
