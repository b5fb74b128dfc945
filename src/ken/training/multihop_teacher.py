"""The teacher of the multi-hop world: it knows every chain and has bad habits (card 40, Miniature claim check).

It stands for the large model that R3-RAG's cold start imitates. Rejection sampling keeps the attempts in which it is
right in the end, and with them its habits, which reinforcement learning must then mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import Field

from ken.agents.stepwise import QUESTION, write_step
from ken.core import BadInput, Question, Sampling, Unsupported, Usage
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.multihop import MultiHopWorld
from ken.models import Conversation, Generation, Score
from ken.models.protocol import check_call


class TeacherConfig(Frozen):
    """How often the teacher errs, per step (card 40's rates).

    broad: it asks the whole question instead of for the next fact. wording: it asks for the right entity in words of
    another relation. redundant: it asks again for what it has. premature: it answers with the last thing it has found.
    habits: how much of `broad` is bound to relations, in [0, 1]. At 0 every query is broad with the same probability;
    at 1 it is always broad for a share `broad` of the relations and never for the others. The mean is the same, but
    only habits survive in a greedy pupil.
    """

    broad: float = Field(default=0.25, ge=0, le=1)
    wording: float = Field(default=0.15, ge=0, le=1)
    redundant: float = Field(default=0.10, ge=0, le=1)
    premature: float = Field(default=0.10, ge=0, le=1)
    habits: float = Field(default=0.6, ge=0, le=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Fact:
    subject: str
    relation: str
    value: str
    wording: str  # as the question says it
    quote: str  # as its document has it


class MultiHopTeacher:
    """A `Model` that plays the teacher for `Stepwise`, for the questions of one world.

    What it does next follows from the documents it has been shown; which error it makes, from the sampling's seed (at
    temperature 0 from the question and the step alone). Raises `BadInput` when asked anything else.
    """

    def __init__(
        self, world: MultiHopWorld, questions: Sequence[Question], config: TeacherConfig | None = None
    ) -> None:
        self.spec = "lab/multihop-teacher"
        self.world, self.config = world, config or TeacherConfig()
        self._questions = {question.text: question for question in questions}
        self._wordings = {wording: r.name for r in world.relations for wording in r.wordings}
        names = [relation.name for relation in world.relations]
        order = Random(derive_seed("teacher habits", self.config.seed, world.config.seed)).sample(names, len(names))
        self.habits = frozenset(order[: round(self.config.broad * len(names))])

    async def generate(
        self,
        conversation: Conversation,
        *,
        n: int = 1,
        sampling: Sampling = Sampling(),
        on_text: Callable[[str], None] | None = None,
    ) -> list[Generation]:
        """The next step, `n` times."""
        check_call(n, on_text)
        texts = [self._step(conversation, sampling, i) for i in range(n)]
        if on_text is not None:
            on_text(texts[0])
        return [
            Generation(
                text=text, ended="stop", prompt_text="", usage=Usage(completion_tokens=len(text.split()), model_calls=1)
            )
            for text in texts
        ]

    async def score(self, conversation: Conversation, continuation: str) -> Score:
        raise Unsupported("the teacher has no probabilities; use a local model to score a continuation")

    async def close(self) -> None:
        """Nothing to release."""

    def _step(self, conversation: Conversation, sampling: Sampling, place: int) -> str:
        asked = next((str(m.content) for m in conversation if m.role == "user"), "")
        question = self._questions.get(asked.removeprefix(QUESTION).strip())
        if question is None:
            raise BadInput("the teacher knows only the questions of its own world, asked by the strategy 'stepwise'")
        written = [str(m.content) for m in conversation if m.role == "policy"]
        shown = "\n".join(str(m.content) for m in conversation if m.role == "observation")
        number = len(written) + 1
        seed = sampling.seed + place if sampling.temperature > 0 else 0
        rng = Random(derive_seed("teacher", self.config.seed, seed, question.id, number))
        return self.write(question, number, shown, rng)

    def write(self, question: Question, number: int, shown: str, rng: Random) -> str:
        """The step `number` of an attempt that has been shown these documents."""
        facts = self._facts(question)
        ordered = bool(question.meta["ordered"])
        known: list[_Fact] = []
        missing: list[_Fact] = []
        for fact in facts:
            seen = fact.quote in shown and not (ordered and missing)
            (known if seen else missing).append(fact)
        analysis = self._analysis(known, facts, ordered)
        error = self._error(known, missing, rng)
        if error == "premature":
            guess = known[-1].value if ordered else rng.choice([fact.subject for fact in facts])
            return write_step(number, analysis, answer=guess)
        if error == "redundant":
            again = rng.choice(known)
            return write_step(number, analysis, query=f"{again.wording} of {again.subject}")
        if not missing:
            return write_step(number, analysis, answer=question.answers[0])
        needed = missing[0]
        if error == "broad":
            return write_step(number, analysis, query=question.text.rstrip("?"))
        wording = needed.wording
        if error == "wording":
            others = [r.name for r in self.world.relations if r.name != needed.relation]
            wording = rng.choice(others)
        return write_step(number, analysis, query=f"{wording} of {needed.subject}")

    def _error(self, known: Sequence[_Fact], missing: Sequence[_Fact], rng: Random) -> str | None:
        """The error of this step, if any. Draws are independent; the first that applies counts."""
        c = self.config
        if known and missing and rng.random() < c.premature:
            return "premature"
        if known and rng.random() < c.redundant:
            return "redundant"
        if missing:
            habitual = missing[0].relation in self.habits
            if rng.random() < (1 - c.habits) * c.broad + c.habits * habitual:
                return "broad"
            if rng.random() < c.wording:
                return "wording"
        return None

    def _analysis(self, known: Sequence[_Fact], facts: Sequence[_Fact], ordered: bool) -> str:
        """What has been found, or what is needed first."""
        if not known:
            return f"need {facts[0].wording} of {facts[0].subject}"
        return " , ".join(fact.quote for fact in (known if not ordered else known[-1:]))

    def _facts(self, question: Question) -> list[_Fact]:
        evidence: Any = question.meta.get("evidence")
        if not isinstance(evidence, list):
            raise BadInput(f"question {question.id!r} has no evidence; the teacher needs a generated world's questions")
        said = [word for word in question.text.rstrip("?").replace(",", " ").split() if word in self._wordings]
        wordings = said * 2 if len(said) == 1 else said[::-1]  # a chain is asked for from its end
        return [_fact(entry, wording) for entry, wording in zip(evidence, wordings, strict=False)]


def _fact(entry: Mapping[str, str], wording: str) -> _Fact:
    return _Fact(entry["subject"], entry["relation"], entry["value"], wording, entry["text"])
