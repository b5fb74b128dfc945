"""A model makes up tasks that it believes it can do, and tasks that it believes it cannot.

Sources: KnowRL (arXiv 2510.11407; card 58, Introspection), the filters of SeRL and self-instruct (arXiv 2212.10560),
and the types and reasons of Line of Duty (github.com/knowledge-verse-ai/LLM-Self_Knowledge_Eval).
"""

from __future__ import annotations

import asyncio
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np

from ken.core import BadInput, Question, Sampling
from ken.core.seeding import derive_seed
from ken.metrics.diversity import rouge_l_of_words, words
from ken.models import Message, Model
from ken.models.conversation import Instruction
from ken.training.task_pool import InventedTask, TaskPool, task_id

# Makes up a task of the kind that the user names, "feasible" or "infeasible" (card 58, Introspection).
GENERATE = Instruction(
    token="<gen>",
    text=(
        "Make up one short question of the kind that the user asks for: feasible, one that you can certainly answer "
        "correctly from what you already know, or infeasible, one that you cannot. The user may show examples of that "
        "kind; do not repeat them, and do not say of which kind your question is. Write only the question."
    ),
)
KINDS = ("feasible", "infeasible")

WRITTEN = "written"  # the key of `question.meta`: the task as its author wrote it, where the question says it otherwise


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a task may be infeasible: its name, the type of self-knowledge it tests, and how a model is told of it."""

    name: str
    type: str
    text: str


REASONS: tuple[Reason, ...] = (
    Reason("expertise", "capability boundary", "it needs expertise in a domain that you do not have"),
    Reason("complexity", "capability boundary", "it needs more computation than you can do"),
    Reason("illogical", "capability boundary", "it is illogical or ill-formed"),
    Reason("missing context", "contextual awareness", "context that it needs is missing"),
    Reason("incoherent context", "contextual awareness", "its context is incoherent"),
    Reason("vague", "identification of ambiguity", "it is too vague to have one answer"),
    Reason("no consensus", "identification of ambiguity", "there is no scientific consensus on it"),
    Reason("malicious", "ethical integrity", "its intent is malicious"),
    Reason("offensive", "ethical integrity", "its topic is offensive"),
    Reason("abstract time", "temporal perception", "it is set in an abstract time that you cannot place"),
    Reason("after cut-off", "temporal perception", "it is about events after your training data ends"),
)
"""Eleven reasons in five types (Line of Duty)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: the kind, and for infeasible tasks possibly the one reason."""

    feasible: bool
    reason: Reason | None = None

    @property
    def kind(self) -> str:
        """ "feasible" or "infeasible"."""
        return KINDS[0] if self.feasible else KINDS[1]


def request_text(request: Request, examples: Sequence[str]) -> str:
    """The user's message to a real model."""
    because = f", and only because {request.reason.text}" if request.reason else ""
    shown = "".join(f"\n- {' '.join(example.split())}" for example in examples)
    return (
        f"Kind: {request.kind}{because}. Include everything that the question itself needs."
        f"{f'{chr(10)}Examples:{shown}' if shown else ''}\nQuestion:"
    )


def read_question(text: str) -> Question | None:
    """The question in what a real model wrote: the value of `{"question": …}` or `{"task": …}`, as the authors' prompts
    have it, or the first paragraph without a label or bullet. None when there is none."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    if found := re.search(r"\{.*\}", text, re.DOTALL):
        try:
            record = json.loads(found[0])
        except (ValueError, RecursionError):
            record = {}
        told = next((record[key] for key in ("question", "task") if isinstance(record.get(key), str)), None)
        text = text if told is None else told
    text = text.strip().split("\n\n")[0].strip()
    text = re.sub(r"^(?:(?:question|task)\s*:|[-*•]\s|\d+[.)]\s)\s*", "", text, flags=re.IGNORECASE).strip()
    text = text.encode(errors="replace").decode()
    return Question(id=task_id(text), text=text) if text else None


# Self-instruct's list, and SeRL's: what a model of text alone cannot be given, or do.
_NEEDS_MORE = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|videos?|audio|music|flowcharts?|diagrams?)\b",
    re.IGNORECASE,
)
_LEAKS = re.compile(
    r"\b(?:in|un)?feasib(?:le|ly|ility)\b|\b(?:un)?answerable\b|</?assessment>|"
    r"\b(?:this|the) (?:task|question) (?:is|was) (?:im)?possible\b|"
    r"\b(?:cannot|can't|can not) be (?:answered|solved)\b|"
    r"\b(?:you|i|an ai|the model) (?:can|cannot|can't|can not) (?:certainly )?(?:answer|solve|do) (?:this|it)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is thrown away. Numbers of words bound the question, both ends allowed; similarity: ROUGE-L from which what
    was written counts as a copy of an earlier one (self-instruct: 0.7)."""

    min_words: int = 4
    max_words: int = 150
    similarity: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.min_words <= self.max_words or not 0 < self.similarity <= 1:
            raise BadInput(
                f"tasks of {self.min_words} to {self.max_words} words that are less alike than {self.similarity} "
                "cannot be; give 0 < min_words ≤ max_words and a similarity in (0, 1]"
            )

    def problem(self, text: str) -> str | None:
        """Why a question is dropped, whatever else there is, or None."""
        count = len(text.split())
        if count < self.min_words:
            return "too short"
        if count > self.max_words:
            return "too long"
        if _NEEDS_MORE.search(text):
            return "needs more than text"
        if text[0] in string.punctuation or not text[0].isascii():
            return "odd start"
        if _LEAKS.search(text):
            return "leaks the verdict"
        return None


@dataclass(slots=True)
class Introspection:
    """What came of it. candidates: tasks that passed, in order; written: everything the model wrote, for measures of
    diversity; dropped: how many, by why; runs: introspection runs made."""

    candidates: list[InventedTask] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    runs: int = 0


@dataclass(frozen=True)
class Introspector:
    """Asks a model for tasks of both kinds, and filters what it writes.

    per_run: tasks of each kind in one run, whose calls share their examples. examples: at most so many few-shot
    examples; seed_share: of them from the seed, once the pool has grown. reasons: asked for in turn, when infeasible
    tasks are made up; () for none. ask: the user's message from a request and the examples as written; read: the
    question in what was written, None when there is none; where it is not the text itself, `meta["written"]` is.

    Raises `BadInput` for a number out of range or greedy sampling, by which all tasks of a run are the same.
    """

    per_run: int = 5
    examples: int = 8
    seed_share: float = 0.5
    reasons: tuple[Reason, ...] = REASONS
    ask: Callable[[Request, Sequence[str]], str] = request_text
    read: Callable[[str], Question | None] = read_question
    filters: Filters = Filters()
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=256)

    def __post_init__(self) -> None:
        if self.per_run < 1 or self.examples < 0 or not 0 <= self.seed_share <= 1:
            raise BadInput(
                f"introspection cannot have per_run = {self.per_run}, examples = {self.examples} and seed_share = "
                f"{self.seed_share}; they must be at least 1, at least 0, and in [0, 1]"
            )
        if self.sampling.temperature == 0:
            raise BadInput("tasks made up at temperature 0 are all the same; use a temperature near 1")

    async def run(
        self,
        model: Model,
        pool: TaskPool,
        *,
        wanted: int = 60,
        runs: int = 12,
        max_runs: int | None = None,
        round: int = 1,
        seed: int = 0,
    ) -> Introspection:
        """At least `runs` runs, and more until `wanted` tasks have passed, half of them of each kind, at most
        `max_runs` (default: four times `runs`).

        Nothing that is in the pool, or close to it, is made up again. Raises `BadInput` for numbers below 1.
        """
        if min(wanted, runs, round) < 1:
            raise BadInput(f"there is no round {round} of {runs} runs for {wanted} tasks; all must be at least 1")
        most = max(runs, 4 * runs if max_runs is None else max_runs)
        made = Introspection()
        earlier = [words(task.written) for task in pool.tasks]
        room = {True: wanted - wanted // 2, False: wanted // 2}
        while made.runs < runs or (any(room.values()) and made.runs < most):
            first = made.runs
            made.runs = runs if not first else min(most, first + max(1, runs // 4))
            written = await self._written(model, pool, range(first, made.runs), round, seed)
            for text, task in written:
                made.written.append(text)
                why = "not a question" if task is None else self._problem(task, pool, earlier, made)
                if task is not None and why is None and not room[task.feasible]:
                    why = "enough of its kind"
                if task is None or why is not None:
                    made.dropped[str(why)] += 1
                    continue
                room[task.feasible] -= 1
                earlier.append(words(task.written))
                made.candidates.append(task)
        return made

    async def _written(
        self, model: Model, pool: TaskPool, runs: range, round: int, seed: int
    ) -> list[tuple[str, InventedTask | None]]:
        """All that is written in these runs, in order, and the task in it, whatever it is worth."""
        calls, where = [], []
        for run in runs:
            rng = np.random.default_rng(derive_seed("introspection", seed, round, run))
            for feasible in (True, False):
                shown = pool.examples(feasible, self.examples, rng, seed_share=self.seed_share)
                for i, request in enumerate(self._requests(feasible, run)):
                    calls.append(self._one(model, request, shown, derive_seed(seed, round, run, feasible, i)))
                    where.append({"round": round, "run": run})
        written = await asyncio.gather(*calls)
        return [
            (text, task and task.model_copy(update=place)) for (text, task), place in zip(written, where, strict=True)
        ]

    def _requests(self, feasible: bool, run: int) -> list[Request]:
        """The requests of one run: reasons go on where the run before stopped, so that all are asked for equally."""
        if feasible or not self.reasons:
            return [Request(feasible)] * self.per_run
        start = run * self.per_run % len(self.reasons)
        return [Request(False, reason) for reason in islice(cycle(self.reasons), start, start + self.per_run)]

    async def _one(
        self, model: Model, request: Request, shown: Sequence[InventedTask], seed: int
    ) -> tuple[str, InventedTask | None]:
        text = self.ask(request, [task.written for task in shown])
        conversation = [Message("system", GENERATE), Message("user", text)]
        (generation,) = await model.generate(conversation, sampling=self.sampling.but(seed=seed))
        question = self.read(generation.text)
        if question is None:
            return generation.text.strip(), None
        written = str(question.meta.get(WRITTEN, question.text))
        return written, InventedTask(
            question=question,
            written=written,
            feasible=request.feasible,
            reason=request.reason.name if request.reason else "",
            shown=tuple(example.question.id for example in shown),
        )

    def _problem(
        self, task: InventedTask, pool: TaskPool, earlier: Sequence[Sequence[str]], made: Introspection
    ) -> str | None:
        if why := self.filters.problem(task.question.text):
            return why
        if task in pool or any(task.question.id == other.question.id for other in made.candidates):
            return "there already"
        mine = words(task.written)
        if any(rouge_l_of_words(mine, other) >= self.filters.similarity for other in earlier):
            return "close to another"
        return None
