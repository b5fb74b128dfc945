"""Is the base model of FactWorld fit for experiments? The checks of card 01 before any training of the boundary."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ken.agents import Adaptive, Direct, SearchLoop
from ken.agents.adaptive import decide
from ken.agents.attempt import Attempt
from ken.agents.confidence import tag_probability
from ken.agents.instructions import CLOSED, READ, SEARCH
from ken.agents.protocol import parse_answer, render_passages
from ken.core import Answer, Passage, Question, Sampling
from ken.lab.factworld import MENTOR, FactWorld
from ken.lab.render import documents, questions, reading_examples, two_hop_questions
from ken.metrics import auroc, exact_match, f1_aware, solve_rate
from ken.metrics.statistics import mean
from ken.models import Message, Model
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever
from ken.training.factworld_examples import task_prompt
from ken.training.introspection import GENERATE, KINDS
from ken.training.lab_checkpoint import Gate

UNSEEN = 2**20  # a seed of reading examples that pretraining does not use


async def measure_gates(
    model: Model, world: FactWorld, *, introspective: bool = False, samples: int = 8, seed: int = 0
) -> list[Gate]:
    """Measure the gates: recall of exposed and unexposed facts, reading, asking, whether the model's own probability
    tells which facts it was shown, and how it decides before training (F1_aware against its own solve rate over
    `samples` draws, verdict sampled at T = 1).

    What it knows of exposed facts is gated as the mean solve rate at T = 1, the quantity that is to be graded and that
    rollouts and the oracle see; the greedy accuracy is reported beside it. With out-of-distribution relations, how well
    they are recalled is measured too; with mentors, searching in two hops; introspective: making up tasks and judging.
    """
    asked = questions(world)
    replies = await asyncio.gather(*(_recall(model, question) for question in asked))
    exposed = [bool(question.meta["exposures"]) for question in asked]
    right = [exact_match(answer, question.answers) for question, (answer, _) in zip(asked, replies, strict=True)]
    greedy_exposed = mean(r for r, e in zip(right, exposed, strict=True) if e)
    greedy_unexposed = mean(r for r, e in zip(right, exposed, strict=True) if not e)
    rates = await _solve_rates(model, [q for q, e in zip(asked, exposed, strict=True) if e], samples, seed)

    held_out = questions(world, "test")
    solvable = [rate >= 0.5 for rate in await _solve_rates(model, held_out, samples, seed)]
    aware = f1_aware(await _verdicts(model, held_out, seed), solvable)
    gates = [
        Gate("closed-book solve rate on exposed facts (T = 1)", mean(rates), 0.6, 0.95),
        Gate("closed-book accuracy on exposed facts, greedy", greedy_exposed, 0.6, 0.95, gating=False),
        Gate("closed-book accuracy on unexposed facts, greedy", greedy_unexposed, 0.0, 0.06),
        Gate("read-and-copy accuracy", await read_and_copy(model, world), 0.95, 1.0),
        Gate("queries that ask for the right thing", await _querying(model, asked), 0.95, 1.0),
        Gate("AUROC of max-probability, exposed or not", auroc([p for _, p in replies], exposed) or 0.0, 0.9, 1.0),
        Gate("base F1_aware (verdict sampled, held-out facts)", aware.f1, 0.35, 0.7 if introspective else 0.6),
        Gate("share of held-out facts it can answer alone", mean(solvable), 0.3, 0.6, gating=False),
    ]
    if world.ood_relations:
        gates += await _out_of_distribution(model, world, samples, seed)
    if world.two_hops:
        gates += await _two_hops(model, world, seed)
    if introspective:
        drawn = await asyncio.gather(*(_verdicts(model, held_out, seed, sample) for sample in range(samples)))
        gates += _judging(drawn, solvable)
        gates += await _generating(model, world, seed)
    return gates


async def _recall(model: Model, question: Question) -> tuple[str | None, float]:
    """The greedy closed-book answer, and the probability of the value it thought of first."""
    conversation = [Message("system", CLOSED), Message("user", question.text)]
    (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=12, stop=("</answer>",)))
    answer = parse_answer(generation.text)
    return (answer.text if isinstance(answer, Answer) else None), tag_probability(generation, "think") or 0.0


async def read_and_copy(model: Model, world: FactWorld, count: int = 500) -> float:
    """Share of fresh reading examples about the world's entities answered with the document's value."""

    async def read(prompt: str, value: str) -> bool:
        conversation = [Message("system", READ), Message("user", prompt)]
        (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=12, stop=("</answer>",)))
        answer = parse_answer(generation.text)
        return isinstance(answer, Answer) and exact_match(answer.text, [value])

    examples = islice(reading_examples(world, world.entities, seed=UNSEEN), count)
    tasks = [read(f"{render_passages(e.passages)} {e.facts[0].question}", str(e.answers[0])) for e in examples]
    return mean(await asyncio.gather(*tasks))


async def _querying(model: Model, asked: Sequence[Question]) -> float:
    """Share of questions for which the query, once it searches, names the relation and the entity."""

    async def right(question: Question) -> bool:
        entity, relation = question.id.split(".")
        opened = Message("policy", f"<think> {relation} {question.answers[0]} </think> <search>")
        conversation = [Message("system", SEARCH), Message("user", question.text), opened]
        return await _query(model, conversation) == [relation, "of", entity]

    return mean(await asyncio.gather(*(right(question) for question in asked)))


async def _solve_rates(model: Model, asked: Sequence[Question], samples: int, seed: int) -> list[float]:
    """Share of right ones among `samples` closed-book answers at T = 1, per question."""
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=seed)

    async def rate(question: Question) -> float:
        runs = (Direct().run(question, model, Sources(), sampling=sampling, sample=i) for i in range(samples))
        return solve_rate([t.answer for t in await asyncio.gather(*runs)], question.answers)

    return list(await asyncio.gather(*(rate(question) for question in asked)))


async def _verdicts(model: Model, asked: Sequence[Question], seed: int, sample: int | None = None) -> list[bool | None]:
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=seed)

    async def verdict(question: Question) -> bool | None:
        attempt = Attempt(question, model, Sources(), strategy=Adaptive.name, sampling=sampling, sample=sample)
        return (await decide(attempt)).knows

    return list(await asyncio.gather(*(verdict(question) for question in asked)))


async def _out_of_distribution(model: Model, world: FactWorld, samples: int, seed: int) -> list[Gate]:
    """Recall of the relations that no training prompt asks about: it must be there, and known from the inside."""
    asked = questions(world, "ood")
    replies = await asyncio.gather(*(_recall(model, question) for question in asked))
    exposed = [bool(question.meta["exposures"]) for question in asked]
    rates = await _solve_rates(model, [q for q, e in zip(asked, exposed, strict=True) if e], samples, seed)
    return [
        Gate("out of distribution: solve rate on exposed facts (T = 1)", mean(rates), 0.6, 0.95),
        Gate("out of distribution: AUROC, exposed or not", auroc([p for _, p in replies], exposed) or 0.0, 0.9, 1.0),
    ]


async def _two_hops(model: Model, world: FactWorld, seed: int, count: int = 600) -> list[Gate]:
    """Can it search in two hops, once it does, and does it not yet do so as a habit, nor know without searching?

    Held-out pairs, evenly spaced; documents without a fact that is needed do not count where reading is measured.
    """
    pairs = two_hop_questions(world, "test")
    asked = pairs[:: max(1, len(pairs) // count)]
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=seed)
    closed = await _answers(model, asked, Sources(), Direct(), sampling)
    by_id = {document.id: document for document in documents(world)}
    scripted = await asyncio.gather(*(_both_hops(model, q, by_id) for q in asked if not q.meta["withheld"]))
    with tempfile.TemporaryDirectory() as folder:
        sources = Sources(IndexRetriever(Index.build(documents(world), Path(folder) / "index")), top_k=1)
        two = await _answers(model, asked, sources, SearchLoop(3), sampling)
        one = await _answers(model, questions(world, "test")[:count], sources, SearchLoop(3), sampling)
    return [
        Gate("two hops: accuracy without searching (T = 1)", mean(right for right, _ in closed), 0.0, 0.25),
        *(
            Gate(f"two hops: {name}", mean(steps[i] for steps in scripted), 0.95, 1.0)
            for i, name in enumerate(
                ("query for the mentor", "mentor read", "query about the mentor", "accuracy after both searches")
            )
        ),
        Gate("two hops: accuracy in the search loop (T = 1)", mean(right for right, _ in two), 0.1, 0.5),
        Gate("two hops: searches in the search loop", mean(searches for _, searches in two), 0.6, 1.4),
        Gate("one hop: accuracy in the search loop (T = 1)", mean(right for right, _ in one), 0.4, 0.9),
        Gate("one hop: searches in the search loop", mean(searches for _, searches in one), 0.4, 1.2),
    ]


async def _answers(
    model: Model, asked: Sequence[Question], sources: Sources, strategy: Direct | SearchLoop, sampling: Sampling
) -> list[tuple[bool, int]]:
    """(right, number of searches) per question."""
    runs = await asyncio.gather(*(strategy.run(q, model, sources, sampling=sampling, sample=0) for q in asked))
    return [(exact_match(run.answer, run.question.answers), len(run.searches)) for run in runs]


async def _both_hops(model: Model, question: Question, by_id: dict[str, Passage]) -> tuple[bool, ...]:
    """Whether it asks for the mentor, reads who that is, asks about them, and answers: each once it searches and after
    the right steps before it.
    """
    entity, _, relation = question.id.split(".")
    mentor = str(question.meta["bridge"])

    def searching(query: str, found: str) -> list[Message]:
        passages = render_passages([by_id[found.lower()]])
        return [Message("policy", f"{query} </search>"), Message("observation", passages)]

    start = [Message("system", SEARCH), Message("user", question.text)]
    thought = f"<think> {MENTOR} {mentor} </think> <search>"
    conversation = [*start, Message("policy", thought)]
    first = await _query(model, conversation)
    conversation += searching(f"{MENTOR} of {by_id[entity].title}", entity)
    (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=3))
    read = generation.text.split()
    conversation.append(Message("policy", thought))
    second = await _query(model, conversation)
    conversation += searching(f"{relation} of {mentor}", mentor)
    sampling = Sampling(max_tokens=12, stop=("</answer>",))
    (generation,) = await model.generate(conversation, sampling=sampling)
    answer = parse_answer(generation.text)
    return (
        first == [MENTOR, "of", entity],
        read == ["<think>", MENTOR, mentor],
        second == [relation, "of", mentor.lower()],
        isinstance(answer, Answer) and exact_match(answer.text, question.answers),
    )


def _judging(verdicts: Sequence[Sequence[bool | None]], solvable: Sequence[bool]) -> list[Gate]:
    """How often one judgement, and the majority of all, agree with what the model can answer (card 58: consensus helps
    only where single judgements are better than chance). A tie counts half, no verdict as wrong."""
    single = [verdict == can for sample in verdicts for verdict, can in zip(sample, solvable, strict=True)]
    majority = []
    for votes, can in zip(zip(*verdicts, strict=True), solvable, strict=True):
        margin = sum(vote == can for vote in votes) - sum(vote == (not can) for vote in votes)
        majority.append(0.5 if margin == 0 else float(margin > 0))
    return [
        Gate("single judgements that are right (T = 1, held-out facts)", mean(single), 0.58, 0.66),
        Gate(f"majorities of {len(verdicts)} judgements that are right", mean(majority), 0.7, 0.8),
    ]


async def _generating(model: Model, world: FactWorld, seed: int, count: int = 600) -> list[Gate]:
    """Tasks made up at T = 1 without examples, half of each kind: well-formed, of the kind asked for, and diverse."""
    known = {(fact.entity, fact.relation): bool(fact.exposures) for fact in world.facts}

    async def made(kind: str, sample: int) -> tuple[str, ...]:
        conversation = [Message("system", GENERATE), Message("user", task_prompt(kind))]
        sampling = Sampling(temperature=1.0, max_tokens=4, seed=seed + sample)
        (generation,) = await model.generate(conversation, sampling=sampling)
        return tuple(generation.text.split())

    kinds = [KINDS[i % 2] for i in range(count)]
    tasks = await asyncio.gather(*(made(kind, i) for i, kind in enumerate(kinds)))
    valid = [(task, kind) for task, kind in zip(tasks, kinds, strict=True) if task in known]
    return [
        Gate("made-up tasks that are well-formed", len(valid) / count, 0.95, 1.0),
        Gate("made-up tasks of the kind asked for", mean(known[t] == (k == KINDS[0]) for t, k in valid), 0.6, 0.8),
        Gate("entities in 600 made-up tasks", len({t[0] for t, _ in valid}), 150, len(world.demo_entities)),
    ]


async def _query(model: Model, conversation: Sequence[Message]) -> list[str]:
    (generation,) = await model.generate(conversation, sampling=Sampling(max_tokens=8, stop=("</search>",)))
    return generation.text.removesuffix("</search>").lower().split()
