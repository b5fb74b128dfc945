"""All strategies on the same questions: on a graph world, where every source is needed somewhere, and on real text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ken
from ken.agents.instructions import CLOSED, DECIDE, READ
from ken.core import Question, Usage
from ken.core.readers import read_corpus, read_questions
from ken.lab.graphworld import GraphWorld, GraphWorldConfig, documents, question, some_wordings, statements
from ken.models.conversation import Generation, Instruction
from ken.models.scripted import ScriptedModel
from ken.sources.search.index import Index

pytest.importorskip("pyoxigraph", reason="the graph's store")
from ken.sources.graph.store import TripleStore
from ken.training.graph_oracle import GraphOracle

MUSIQUE100 = Path(__file__).parents[2] / "shared" / "data" / "musique100"


class Guide(GraphOracle):
    """Walks without a mistake; knows every other question of one hop, reads an answer only where a document states it
    about what the question names, and chooses its source by the number of hops."""

    golds: dict[str, Question]

    async def generate(self, conversation: Any, **options: Any) -> list[Generation]:
        """Usage counts words."""
        (made,) = await self._said(conversation, **options)
        read = sum(len(str(message.content).split()) for message in conversation)
        cost = Usage(model_calls=1, prompt_tokens=read, completion_tokens=len(made.text.split()))
        return [replace(made, usage=cost)]

    async def _said(self, conversation: Any, **options: Any) -> list[Generation]:
        instruction, text = conversation[0].content, str(conversation[1].content)
        assert isinstance(instruction, Instruction)
        asked = self.golds[next(t for t in self.golds if t in text)]
        one_hop = asked.meta["hops"] == 1
        if instruction.token == "<choose>":
            choice = "inside" if self.knows(asked) else "search" if one_hop else "graph"
            return [said(f"<assessment> {choice} </assessment>")]
        if instruction.token == DECIDE.token:
            return [said(f"<assessment> {'yes' if self.knows(asked) else 'no'} </assessment>")]
        if instruction.token == CLOSED.token:
            return [said(answer(asked.answers[0] if self.knows(asked) else "nobody"))]
        if instruction.token == READ.token or "call a search engine" in instruction.text:
            return [said(answer(asked.answers[0] if one_hop and asked.answers[0] in text else "nobody"))]
        return await super().generate(conversation, **options)

    @staticmethod
    def knows(asked: Question) -> bool:
        return asked.meta["hops"] == 1 and int(asked.id) % 2 == 0


def said(text: str) -> Generation:
    return Generation(text=text, ended="stop")


def answer(text: str) -> str:
    return f"<think> hm </think> <answer> {text} </answer>"


def test_on_a_graph_world_every_source_has_its_questions(tmp_path: Path) -> None:
    world = GraphWorld(GraphWorldConfig(train=10, test=10, hubs=0, hub_size=8, aliased=0))
    rng = np.random.default_rng(0)
    walks = [walk for hops in (1, 2, 3) for walk in world.walks("test", hops, 4, rng, set())]
    asked = [question(world, walk, str(i), some_wordings(walk, rng)) for i, walk in enumerate(walks)]
    model = Guide({q.text: walk for q, walk in zip(asked, walks, strict=True)}, rng)
    model.golds = {q.text: q for q in asked}
    index = Index.build(documents(world, "test"), tmp_path / "index", tokenizer="simple")
    report = ken.audit(
        asked,
        model=model,
        index=index,
        graph=TripleStore.of(statements(world, "test"), name="world"),
        out=tmp_path / "audit",
        strategies="direct,rag,graph,graph-relations,adaptive",
        samples=0,
        top_k=5,
    )
    assert report.failed == 0
    needs = report.sources
    assert needs is not None
    assert needs.needed["inside"] == 2
    assert needs.needed["graph"] >= 4  # what no single document states
    adaptive = needs.strategies["adaptive"]
    assert adaptive.fitting == adaptive.possible
    assert adaptive.table["inside"]["inside"] == 2
    accuracy = {t.strategy: t.accuracy for t in report.tradeoffs}
    assert accuracy["direct"] < accuracy["rag"] < accuracy["graph"]
    assert accuracy["adaptive"] >= max(accuracy[name] for name in ("direct", "rag"))
    assert {t.strategy for t in report.tradeoffs if t.best} >= {"direct"}
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert "<h2>Sources</h2>" in page
    assert "Exact match against tokens per question" in page


@pytest.mark.skipif(not MUSIQUE100.exists(), reason="the shared musique100 data is not on this machine")
def test_on_real_text_all_strategies_are_compared_on_the_same_questions(tmp_path: Path) -> None:
    asked = list(read_questions(MUSIQUE100 / "questions.jsonl"))[:12]
    golds = {q.text: q for q in asked}

    def reply(prompt: str) -> str:
        question = next((q for text, q in golds.items() if text in prompt), None)
        if question is None:  # a cluster to be summarised
            return "Some documents about several things."
        told = "".join(re.findall(r"<information>.*?</information>", prompt, re.DOTALL))
        found = next((gold for gold in question.answers if gold in told), "unknown")
        if "<assessment>" in prompt and "Do not answer" in prompt:
            return "<assessment>no</assessment>"
        if "Follow up:" in prompt:
            return f"So the final answer is: {found}" if told else f"Follow up: {question.text}\nIntermediate answer:"
        if "call a search engine" in prompt and not told:
            return f"<search> {question.text} </search>"
        return answer(found)

    index = Index.build(read_corpus(MUSIQUE100 / "corpus.jsonl"), tmp_path / "index")
    report = ken.audit(
        asked,
        model=ScriptedModel(reply),
        index=index,
        out=tmp_path / "audit",
        strategies="direct,rag,search,adaptive,ircot,self-ask,tree,clusters,read-all",
        samples=1,
        top_k=5,
    )
    assert {t.questions for t in report.tradeoffs} == {12}
    assert len(report.tradeoffs) == 9
    assert report.sources is None  # a search engine is all there is
    tokens = {t.strategy: t.tokens for t in report.tradeoffs}
    assert tokens["direct"] < tokens["rag"] < tokens["read-all"]
    best = [t for t in report.tradeoffs if t.best]
    assert max(t.accuracy for t in best) == max(t.accuracy for t in report.tradeoffs) > 0
