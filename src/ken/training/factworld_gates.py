"""Is the base model of FactWorld fit for experiments? The checks of card 01 before any training of the boundary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from ken.agents import Adaptive, Direct
from ken.agents.adaptive import decide
from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.instructions import CLOSED, READ, SEARCH
from ken.agents.protocol import parse_answer, render_passages
from ken.core import Answer, Question, Sampling
from ken.lab.factworld import FactWorld
from ken.lab.render import questions, reading_examples
from ken.metrics import auroc, exact_match, f1_aware, solve_rate
from ken.models import Message, Model
from ken.sources import Sources

UNSEEN = 2**20  # a seed of reading examples that pretraining does not use


@dataclass(frozen=True, slots=True)
class Gate:
    """A measured value and the range [low, high] it must lie in. `gating` is False for values that are only
    reported.
    """

    name: str
    value: float
    low: float
    high: float
    gating: bool = True

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high


async def measure_gates(model: Model, world: FactWorld, *, samples: int = 8, seed: int = 0) -> list[Gate]:
    """Measure the gates: recall of exposed and unexposed facts, reading, asking, whether the model's own probability
    tells which facts it was shown, and how it decides before training (F1_aware against its own solve rate over
    `samples` draws, verdict sampled at T = 1).

    What it knows of exposed facts is gated as the mean solve rate at T = 1, the quantity that is to be graded and that
    rollouts and the oracle see; the greedy accuracy is reported beside it.
    """
    asked = questions(world)
    replies = await asyncio.gather(*(_recall(model, question) for question in asked))
    exposed = [bool(question.meta["exposures"]) for question in asked]
    right = [exact_match(answer, question.answers) for question, (answer, _) in zip(asked, replies, strict=True)]
    greedy_exposed = _mean(r for r, e in zip(right, exposed, strict=True) if e)
    greedy_unexposed = _mean(r for r, e in zip(right, exposed, strict=True) if not e)
    rates = await _solve_rates(model, [q for q, e in zip(asked, exposed, strict=True) if e], samples, seed)

    held_out = questions(world, "test")
    solvable = [rate >= 0.5 for rate in await _solve_rates(model, held_out, samples, seed)]
    aware = f1_aware(await _verdicts(model, held_out, seed), solvable)
    return [
        Gate("closed-book solve rate on exposed facts (T = 1)", _mean(rates), 0.6, 0.95),
        Gate("closed-book accuracy on exposed facts, greedy", greedy_exposed, 0.6, 0.95, gating=False),
        Gate("closed-book accuracy on unexposed facts, greedy", greedy_unexposed, 0.0, 0.06),
        Gate("read-and-copy accuracy", await _reading(model, world), 0.95, 1.0),
        Gate("queries that ask for the right thing", await _querying(model, asked), 0.95, 1.0),
        Gate("AUROC of max-probability, exposed or not", auroc([p for _, p in replies], exposed) or 0.0, 0.9, 1.0),
        Gate("base F1_aware (verdict sampled, held-out facts)", aware.f1, 0.35, 0.6),
        Gate("share of held-out facts it can answer alone", _mean(solvable), 0.3, 0.6, gating=False),
    ]


async def _recall(model: Model, question: Question) -> tuple[str | None, float]:
    """The greedy closed-book answer, and the probability of the value it thought of first."""
    conversation = [Message("system", CLOSED), Message("user", question.text)]
    (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=12, stop=("</answer>",)))
    answer = parse_answer(generation.text)
    return (answer.text if isinstance(answer, Answer) else None), tag_probability(generation, "think") or 0.0


async def _reading(model: Model, world: FactWorld, count: int = 500) -> float:
    """Share of fresh reading examples about the world's entities answered with the document's value."""

    async def read(prompt: str, value: str) -> bool:
        conversation = [Message("system", READ), Message("user", prompt)]
        (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=12, stop=("</answer>",)))
        answer = parse_answer(generation.text)
        return isinstance(answer, Answer) and exact_match(answer.text, [value])

    examples = islice(reading_examples(world, world.entities, seed=UNSEEN), count)
    tasks = [read(f"{render_passages(e.passages)} {e.facts[0].question}", str(e.answers[0])) for e in examples]
    return _mean(await asyncio.gather(*tasks))


async def _querying(model: Model, asked: Sequence[Question]) -> float:
    """Share of questions for which the query, once it searches, names the relation and the entity."""

    async def right(question: Question) -> bool:
        entity, relation = question.id.split(".")
        opened = Message("policy", f"<think> {relation} {question.answers[0]} </think> <search>")
        conversation = [Message("system", SEARCH), Message("user", question.text), opened]
        (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=8, stop=("</search>",)))
        return generation.text.removesuffix("</search>").lower().split() == [relation, "of", entity]

    return _mean(await asyncio.gather(*(right(question) for question in asked)))


async def _solve_rates(model: Model, asked: Sequence[Question], samples: int, seed: int) -> list[float]:
    """Share of right ones among `samples` closed-book answers at T = 1, per question."""
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=seed)

    async def rate(question: Question) -> float:
        runs = (Direct().run(question, model, Sources(), sampling=sampling, sample=i) for i in range(samples))
        return solve_rate([t.answer for t in await asyncio.gather(*runs)], question.answers)

    return list(await asyncio.gather(*(rate(question) for question in asked)))


async def _verdicts(model: Model, asked: Sequence[Question], seed: int) -> list[bool | None]:
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=seed)

    async def verdict(question: Question) -> bool | None:
        attempt = Attempt(question, model, Sources(), strategy=Adaptive.name, sampling=sampling)
        return (await decide(attempt)).knows

    return list(await asyncio.gather(*(verdict(question) for question in asked)))


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return sum(items) / len(items) if items else float("nan")
