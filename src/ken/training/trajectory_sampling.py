"""Rejection sampling: let a teacher try until it succeeds, and keep its first success to learn from (R3-RAG, arXiv
2505.23794; card 40, Stage 1).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from pydantic import Field

from ken.agents.background import together
from ken.agents.strategy import Strategy
from ken.core import BadInput, ModelError, Question, Sampling, Trajectory
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.models import Instruction, Message, Model
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.training.judges import Judge
from ken.training.kept_attempts import Kept, KeptAttempts
from ken.training.pretraining import Example

logger = logging.getLogger(__name__)

Outcome = Literal["right", "wrong", "unanswered", "malformed", "error"]

GIVE_UP_AFTER = 20  # questions at which every attempt fails, in a row: the teacher is down, not a question bad


class SamplerConfig(Frozen):
    """The defaults are the paper's.

    attempts: at most so many per question. first_temperature: of attempt 0; temperature: of the others. max_tokens: per
    call of the model. concurrency: questions under way at once.
    """

    attempts: int = Field(default=7, ge=1)
    first_temperature: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=0.9, ge=0)
    max_tokens: int = Field(default=512, ge=1)
    concurrency: int = Field(default=64, ge=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came of one question: the attempt that is kept, if any, the failures before it, what each attempt was."""

    question: Question
    success: Trajectory | None
    failures: tuple[Trajectory, ...]
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class DataSetStatistics:
    """How sampling went for one data set (`meta["dataset"]`). attempts: all; outcomes: how many of each kind; skipped:
    questions without gold answers."""

    questions: int = 0
    solved: int = 0
    skipped: int = 0
    attempts: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    @property
    def solved_share(self) -> float:
        """Solved questions among those that were tried; 0 when none was."""
        return self.solved / self.questions if self.questions else 0.0


class TrajectorySampler:
    """Lets `teacher` attempt questions with a strategy until `judge` finds an answer right.

    strategy, sources: the same for all attempts, or made for attempt 0, 1, …, so that later ones can go another way (in
    the paper they split their queries: `SubQueries`).
    """

    def __init__(
        self,
        teacher: Model,
        sources: Sources | Callable[[int], Sources],
        judge: Judge,
        strategy: Strategy | Callable[[int], Strategy],
        config: SamplerConfig | None = None,
    ) -> None:
        self.teacher, self.judge = teacher, judge
        self.config = config or SamplerConfig()
        self._strategy = (lambda attempt: strategy) if isinstance(strategy, Strategy) else strategy
        self._sources = (lambda attempt: sources) if isinstance(sources, Sources) else sources

    async def sample(
        self,
        questions: Iterable[Question],
        *,
        kept: KeptAttempts | None = None,
        on_done: Callable[[Sampled], None] = lambda sampled: None,
    ) -> list[Sampled]:
        """All questions, in their order. Those without golds are skipped with a warning: success cannot be told.

        kept: where the attempts at every question are kept as it ends, and taken from, verdicts included; a question at
        which the teacher only failed is tried again. on_done is called as each question ends, in any order. Raises
        `BadInput` when no question has a gold, `ModelError` when the teacher fails at `GIVE_UP_AFTER` questions in a
        row.
        """
        given = list(questions)
        usable = [question for question in given if question.answers]
        if len(usable) < len(given):
            logger.warning(
                "%d of %d questions have no gold answer and are skipped", len(given) - len(usable), len(given)
            )
        if not usable:
            raise BadInput("no question has a gold answer; whether an attempt succeeds cannot be told without")
        gate = asyncio.Semaphore(self.config.concurrency)
        in_a_row = 0

        async def one(question: Question) -> Sampled:
            nonlocal in_a_row
            known = kept[question] if kept is not None else None
            if known is not None:
                sampled = _restored(question, known)
            else:
                async with gate:
                    sampled = await self._question(question)
                down = set(sampled.outcomes) == {"error"}
                in_a_row = in_a_row + 1 if down else 0
                if in_a_row == GIVE_UP_AFTER:
                    why = sampled.failures[-1].error
                    raise ModelError(f"the teacher {self.teacher.spec} failed at {in_a_row} questions in a row ({why})")
                if kept is not None and not down:
                    success = [sampled.success] if sampled.success is not None else []
                    kept.add(question, [*sampled.failures, *success], sampled.outcomes)
            on_done(sampled)
            return sampled

        return await together(map(one, usable))

    async def _question(self, question: Question) -> Sampled:
        failures: list[Trajectory] = []
        outcomes: list[Outcome] = []
        for attempt in range(self.config.attempts):
            temperature = self.config.temperature if attempt else self.config.first_temperature
            sampling = Sampling(
                temperature=temperature,
                max_tokens=self.config.max_tokens,
                seed=derive_seed("teacher attempt", self.config.seed, attempt),
            )
            trajectory = await self._strategy(attempt).run(
                question, self.teacher, self._sources(attempt), sampling=sampling, sample=attempt
            )
            outcome = await self._outcome(trajectory)
            outcomes.append(outcome)
            if outcome == "right":
                return Sampled(question, trajectory, tuple(failures), tuple(outcomes))
            failures.append(trajectory)
        return Sampled(question, None, tuple(failures), tuple(outcomes))

    async def _outcome(self, trajectory: Trajectory) -> Outcome:
        if trajectory.error is not None:
            return "error"
        if trajectory.answer is None:
            return "malformed" if trajectory.malformed else "unanswered"
        verdict = await self.judge.correctness(trajectory.question, trajectory.answer)
        return "right" if verdict.score >= 0.5 else "wrong"


def _restored(question: Question, known: Kept) -> Sampled:
    outcomes = tuple(cast("Outcome", outcome) for outcome in known.outcomes)
    solved = bool(outcomes) and outcomes[-1] == "right"
    failures = known.attempts[:-1] if solved else known.attempts
    return Sampled(question, known.attempts[-1] if solved else None, failures, outcomes)


def statistics(sampled: Iterable[Sampled], skipped: Sequence[Question] = ()) -> dict[str, DataSetStatistics]:
    """How sampling went, by data set. skipped: the questions that had no gold."""
    counts: dict[str, dict[str, int]] = {}
    outcomes: dict[str, Counter[Outcome]] = {}

    def add(question: Question, **more: int) -> str:
        name = str(question.meta.get("dataset", ""))
        row = counts.setdefault(name, {"questions": 0, "solved": 0, "skipped": 0, "attempts": 0})
        for key, value in more.items():
            row[key] += value
        return name

    for result in sampled:
        solved = int(result.success is not None)
        name = add(result.question, questions=1, solved=solved, attempts=len(result.outcomes))
        outcomes.setdefault(name, Counter()).update(result.outcomes)
    for question in skipped:
        add(question, skipped=1)
    return {name: DataSetStatistics(**row, outcomes=outcomes.get(name, Counter())) for name, row in counts.items()}


@dataclass(frozen=True, slots=True)
class StepRow:
    """One row of supervised fine-tuning: everything before a step, and the step."""

    instruction: str
    output: str


def step_rows(trajectory: Trajectory) -> list[StepRow]:
    """One row per step of an attempt, as R3-RAG's cold start trains them: instruction = the question and all previous
    steps with their documents, output = this step.

    To train on a whole attempt with the loss on its policy segments is the same, but for how the loss is averaged: all
    rows of an attempt are prefixes of one conversation.
    """
    rows: list[StepRow] = []
    before = ""
    for segment in trajectory.segments:
        if segment.role == "policy":
            rows.append(StepRow(before, segment.text))
        before += segment.text
    return rows


def pupil_example(pupil: LocalModel, trajectory: Trajectory, instruction: Instruction, prompt: str) -> Example:
    """A teacher's attempt as its pupil would have seen and written it, to be learnt where the teacher wrote.

    The teacher's own prompt is replaced by `instruction` and `prompt`, rendered for the pupil; its last words are
    followed by the pupil's end of sequence. Raises `BadInput` for an attempt in which the teacher wrote nothing.
    """
    segments = list(trajectory.segments[1:])
    while segments and segments[-1].role != "policy":
        segments.pop()
    if not segments:
        raise BadInput(f"the attempt at question {trajectory.question.id!r} holds nothing to learn")
    conversation = [Message("system", instruction), Message("user", prompt)]
    _, ids = pupil.render(conversation)
    learn = [False] * len(ids)
    for segment in segments:
        conversation.append(Message("policy" if segment.role == "policy" else "observation", segment.text))
        _, ids = pupil.render(conversation)  # every message is encoded on its own, so what came before stays
        learn += [segment.role == "policy"] * (len(ids) - len(learn))
    return Example((*ids, pupil.tokenizer.eos_token_id), (*learn, True))
