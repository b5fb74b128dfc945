"""The words of a recipe: how a paper trains any model on any questions, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from ken.agents.strategy import Strategy
from ken.core import BadInput, DataError, Question, Sampling
from ken.core.frozen import Frozen
from ken.core.readers import read_questions
from ken.metrics.decision import Matcher
from ken.models import Model, load_model
from ken.papers.work import Work
from ken.sources import Sources

if TYPE_CHECKING:
    from ken.models.local import LocalModel
    from ken.training.labels.solve_rate import SolveRates
    from ken.training.rl_config import RLConfig
    from ken.training.sft import SFTConfig


class Learning(Frozen):
    """The options that every recipe has; a recipe adds its own.

    steps: of reinforcement learning. questions_per_step, group_size: questions drawn for a step, and rollouts of each.
    lr, kl: learning rate, and weight of the KL term towards the model before the stage.
    minibatches: updates a step; micro_batch: rollouts of one forward pass, for memory (default: all of an update).
    max_tokens: of one turn. save_every: steps between checkpoints (0: only when it is interrupted or fails).
    batch_size: sequences that a transformers model decodes at once. vllm, vllm_memory: rollouts by vLLM beside the
    trainer, which may use this share of a GPU's memory. bf16: compute in bfloat16; weights stay float32.

    Raises `BadInput` for a value out of range, or an option that the recipe does not have.
    """

    steps: int = Field(default=500, ge=1)
    questions_per_step: int = Field(default=512, ge=1)
    group_size: int = Field(default=5, ge=1)
    lr: float = Field(default=1e-6, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    kl: float = Field(default=1e-3, ge=0)
    minibatches: int = Field(default=1, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(default=500, ge=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    save_every: int = Field(default=50, ge=0)
    batch_size: int = Field(default=256, ge=1)
    vllm: bool = False
    vllm_memory: float = Field(default=0.3, gt=0, lt=1)
    gradient_checkpointing: bool = False
    bf16: bool = False
    seed: int = 0

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[Learning]) -> Learning:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                problem = f"this paper has no option {name}; its options are {', '.join(sorted(cls.model_fields))}"
            else:
                problem = f"{name} cannot be {first['input']!r}: {first['msg'].lower()}"
            raise BadInput(problem) from error

    @property
    def compares_groups(self) -> bool:
        """Whether the algorithm compares the rollouts of a group (GRPO), so that one alone teaches nothing."""
        return True

    @property
    def helpers(self) -> tuple[str, ...]:
        """The specs of models that help in training, such as a teacher, and are not trained."""
        return ()

    @property
    def helpers_url(self) -> str | None:
        """Where those of them are that stand behind a server; None for $OPENAI_BASE_URL."""
        return None

    @model_validator(mode="after")
    def _two_of_a_group(self) -> Learning:
        if self.compares_groups and self.group_size < 2:
            raise BadInput(
                f"group_size is {self.group_size}: GRPO compares the rollouts of a group, so it needs at least 2"
            )
        return self

    def sampling(self) -> Sampling:
        """Of rollouts."""
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens)

    def rl(self, **changes: Any) -> RLConfig:
        """The trainer's settings; `changes` are fields that a stage has of its own."""
        from ken.training.rl_config import RLConfig

        fields: dict[str, Any] = {
            "steps": self.steps,
            "units": self.questions_per_step,
            "group_size": self.group_size,
            "sampling": self.sampling(),
            "lr": self.lr,
            "warmup_steps": self.warmup_steps,
            "kl": self.kl,
            "minibatches": self.minibatches,
            "micro_batch": self.micro_batch,
            "save_every": self.save_every,
            "vllm": self.vllm,
            "vllm_memory": self.vllm_memory,
            "gradient_checkpointing": self.gradient_checkpointing,
            "bf16": self.bf16,
            "seed": self.seed % 2**31,
        }
        return RLConfig(**{**fields, **changes})


class Searching(Learning):
    """The options of a recipe whose rollouts search.

    max_turns: searches of a rollout at most; top_k: passages of a search. max_failures: so many searches that fail in a
    row end the training. search_cache: searches are answered from memory when the same words were searched for before
    (1), or words that resemble them by this ratio of difflib; 0 searches every time.
    """

    max_turns: int = Field(default=4, ge=1)
    top_k: int = Field(default=3, ge=1)
    max_failures: int = Field(default=64, ge=1)
    search_cache: float = Field(default=0.0, ge=0, le=1)

    def rl(self, **changes: Any) -> RLConfig:
        return super().rl(**{"max_failures": self.max_failures, **changes})


class FineTuned(Learning):
    """The options of a recipe that fine-tunes before it reinforces.

    steps: of reinforcement learning; 0 leaves it out. sft_epochs: passes over what was kept; 0 leaves out sampling and
    fine-tuning, for a model that can do already what they teach. sft_lr, sft_batch: learning rate, and sequences of an
    update. sft_max_tokens: longer sequences are left out. sft_warmup: share of the updates until the rate is reached.
    """

    steps: int = Field(default=500, ge=0)
    sft_epochs: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    sft_lr: float = Field(default=1e-5, gt=0)
    sft_batch: int = Field(default=64, ge=1)
    sft_max_tokens: int = Field(default=4096, ge=2)
    sft_warmup: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _something_to_do(self) -> FineTuned:
        if not self.steps and not self.sft_epochs:
            raise BadInput("steps and sft_epochs are both 0, so there is nothing to do; leave one of them at 1 or more")
        return self

    def sft(self, examples: int) -> SFTConfig:
        """The settings of fine-tuning on so many sequences."""
        from ken.training.sft import SFTConfig

        return SFTConfig(
            epochs=self.sft_epochs,
            batch=self.sft_batch,
            micro_batch=self.micro_batch,
            lr=self.sft_lr,
            warmup_steps=round(self.sft_warmup * math.ceil(examples / self.sft_batch) * self.sft_epochs),
            max_tokens=self.sft_max_tokens,
            gradient_checkpointing=self.gradient_checkpointing,
            bf16=self.bf16,
            save_every=self.save_every,
            seed=self.seed % 2**31,
        )


@dataclass(frozen=True, slots=True)
class Trainee:
    """What a stage is made from: the model as the stages before left it, the questions, and a way to ask it what it
    knows. solve_rates: of all questions, closed book, from so many samples that are matched so, by the policy as it is
    when called.

    folder: of the stage, where it keeps what it has sampled. index, sources: where to search; "" and none for a recipe
    that does not. beside: loads a model that helps, such as a teacher. on_progress: told how many of how many questions
    have been sampled; on_note: of what a person should know.
    """

    policy: LocalModel
    questions: Sequence[Question]
    solve_rates: Callable[[int, Matcher], SolveRates]
    folder: Path = Path()
    index: str = ""
    sources: Sources = field(default_factory=Sources)
    beside: Callable[[str], Model] = load_model
    on_progress: Callable[[int, int], None] = lambda done, total: None
    on_note: Callable[[str], None] = lambda note: None


@dataclass(frozen=True, slots=True)
class Stage:
    """One training of a recipe. name: of its folder; text: what it does, in half a sentence.
    strategies: of its tasks, so that a model that cannot use them is refused before anything is done.
    work: called once the stages before it are done, since labels come from the very weights that are trained next.
    check: raises `BadInput` for a model with which nothing could be learnt, before anything is written.
    """

    name: str
    text: str
    strategies: tuple[Strategy, ...]
    work: Callable[[Trainee], Work]
    check: Callable[[Trainee], None] = lambda trainee: None


def is_address(index: str | Path) -> bool:
    """Whether an index is a /retrieve service, and not a folder."""
    return str(index).startswith(("http://", "https://"))


def with_answers(questions: Sequence[Question]) -> None:
    """Raises `BadInput` when a question has no accepted answers."""
    if without := [q.id for q in questions if not q.answers]:
        raise BadInput(
            f"{len(without)} of {len(questions)} questions have no accepted answers, the first is {without[0]!r}; "
            "training needs golden_answers to reward"
        )


def answered(questions: Sequence[Question], index: str, on_note: Callable[[str], None]) -> Sequence[Question]:
    """Those with accepted answers; the others are counted and named to `on_note`. An `Admit`."""
    if without := [question.id for question in questions if not question.answers]:
        more = ", …" if len(without) > 10 else ""
        on_note(
            f"WARNING: {len(without):,} of {len(questions):,} questions are left out, because they have no accepted "
            f"answers ({', '.join(without[:10])}{more})"
        )
    return [question for question in questions if question.answers]


THEN_WITHOUT_INDEX = "ken audit --model hf/{model} --strategies direct --questions FILE --out DIR"

Admit = Callable[[Sequence[Question], str, Callable[[str], None]], Sequence[Question]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a paper trains a model.

    options: their type; its defaults are those of the paper, for language models of some billion parameters.
    lab: defaults that suit a model of the lab, from the options that were given.
    stages: of a training with these options, in order.
    read: the questions in a file, which is of this kind: `file`. fit: raises `BadInput` for questions, with these
    options, from which nothing can be learnt. admit: those that this index can judge; of others the third argument is
    told. searches: whether it needs an index. then: a command to try on the trained model, of a recipe that searches
    one with an index.
    """

    slug: str
    options: type[Learning]
    lab: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    stages: Callable[[Any], tuple[Stage, ...]]
    read: Callable[[Path], Iterator[Question]] = read_questions
    file: str = "questions with accepted answers: FlashRAG, HotpotQA or MuSiQue"
    fit: Callable[[Sequence[Question], Any], None] = lambda questions, options: with_answers(questions)
    admit: Admit = lambda questions, index, on_note: questions
    searches: bool = True
    then: str = "ken audit --model hf/{model} --index {index} --top-k {top_k} --questions FILE --out DIR"

    def needs_index(self, options: Mapping[str, Any]) -> bool:
        """Whether a training with these options searches; a recipe that does may have an option to switch it off."""
        return self.searches and options.get("search") is not False

    def next_command(self, index: str) -> str:
        """`then`, or without an index what can be tried without one; with {model} and options to be filled in."""
        return self.then if index or not self.searches else THEN_WITHOUT_INDEX

    def questions_in(self, path: Path) -> Iterator[Question]:
        """The questions of a file. Raises `BadInput` for one that is not of the kind that this recipe trains on."""
        try:
            yield from self.read(path)
        except DataError as error:
            raise BadInput(f"{error} ({self.slug} trains on {self.file})") from error

    def chosen(self, given: Mapping[str, Any], *, lab: bool = False) -> Learning:
        """All options: what was given, and defaults. Raises `BadInput`."""
        return self.options(**{**(self.lab(given) if lab else {}), **given})
