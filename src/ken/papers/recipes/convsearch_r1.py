"""ConvSearch-R1: rewrite the queries of conversations, learning from ranks alone (arXiv 2505.15776; card 17)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from ken.agents.background import run
from ken.agents.rewrite import Rewrite, parse_rewrite
from ken.core import BadInput, Malformed, Question, Sampling
from ken.core.conversation import ConversationTurn, Demonstration, history_of, read_demonstrations, read_turns
from ken.core.seeding import derive_seed
from ken.papers.recipe import FineTuned, Recipe, Stage, Trainee, is_address
from ken.papers.work import Reinforcement, Supervision
from ken.sources.search.index import Index, Mode
from ken.sources.search.ranks import RankService, left_out_note, open_ranks, sort_out
from ken.training.kept_attempts import KeptAttempts
from ken.training.preflight import check_tags
from ken.training.rewards.ranked import Ranked
from ken.training.rewards.ranking import RankMeasure, rank_measure
from ken.training.rollouts import Task
from ken.training.warm_up import WarmUp, self_driven_warm_up

MAX_WORDS = 1024  # of a query in training; in evaluation it is 512


class ConvSearchOptions(FineTuned):
    """steps: the default is about six epochs of TopiOCQA's 45,450 turns. samples: rewrites of a turn that are sampled
    for fine-tuning, of at most `sample_tokens` tokens; keep_rank: those that bring a gold passage to this rank or
    better are learnt. shots: demonstrations for that sampling, or a file of them (turns with a `response`); what is
    learnt is to answer so without them. reward: of the rank of the gold passage, at `reward_k` but for the rank
    incentive. depth: ranks beyond it count as not found. mode: "bm25", "dense" or "hybrid", how an index searches in
    training; by default hybrid where it has vectors.
    """

    steps: int = Field(default=2130, ge=0)
    questions_per_step: int = Field(default=128, ge=1)
    group_size: int = Field(default=16, ge=1)
    warmup_steps: int = Field(default=100, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.7, gt=0, allow_inf_nan=False)
    sft_max_tokens: int = Field(default=3072, ge=2)
    samples: int = Field(default=1, ge=1)
    sample_tokens: int = Field(default=4096, ge=1)
    keep_rank: int = Field(default=1, ge=1)
    reward: RankMeasure = "rank-incentive"
    reward_k: int = Field(default=10, ge=1)
    depth: int = Field(default=100, ge=1)
    mode: Mode | None = None
    shots: tuple[Demonstration, ...] = ()

    @field_validator("shots", mode="before")
    @classmethod
    def _read(cls, shots: Any) -> Any:
        return read_demonstrations(shots) if isinstance(shots, str | Path) else shots

    @model_validator(mode="after")
    def _shots_show_the_form(self) -> ConvSearchOptions:
        if self.shots and not self.sft_epochs:
            raise BadInput("shots are for sampling what is fine-tuned on, which sft_epochs 0 leaves out")
        for shot in self.shots:
            if isinstance(wrong := parse_rewrite(shot.response), Malformed):
                raise BadInput(f"the response of the demonstration {shot.turn.id!r} is {wrong.problem}")
        return self

    @model_validator(mode="after")
    def _no_deeper_than_looked(self) -> ConvSearchOptions:
        if max(self.keep_rank, self.reward_k) > self.depth:
            raise BadInput(
                f"keep_rank is {self.keep_rank} and reward_k {self.reward_k}, but ranks are looked for down to depth "
                f"{self.depth} only; raise depth"
            )
        return self


def _stages(options: ConvSearchOptions) -> tuple[Stage, ...]:
    strategy = Rewrite()
    shots = [(shot.turn, shot.response) for shot in options.shots]

    def open_index(trainee: Trainee) -> RankService:
        return open_ranks(trainee.index, top_k=options.depth, mode=options.mode, max_words=MAX_WORDS)

    def check(trainee: Trainee) -> None:
        if options.mode is not None:  # the index may have no vectors, or be a service with a way of its own
            first = trainee.questions[0]
            open_index(trainee).best_ranks([first.text], [first.supporting_ids])

    def warm_up(trainee: Trainee) -> Supervision:
        from accelerate import PartialState

        ranks = open_index(trainee)
        turns = [ConversationTurn.of(question) for question in trainee.questions]
        sampling = Sampling(
            temperature=options.temperature,
            max_tokens=options.sample_tokens,
            seed=derive_seed("warm-up", options.seed),
        )
        with PartialState().main_process_first(), KeptAttempts(trainee.folder / "samples.jsonl") as kept:
            found = run(
                self_driven_warm_up(
                    trainee.policy,
                    turns,
                    ranks,
                    samples=options.samples,
                    keep_rank=options.keep_rank,
                    sampling=sampling,
                    shots=shots,
                    kept=kept,
                    on_progress=trainee.on_progress,
                )
            )
        trainee.on_note(_told(found, options.keep_rank))
        if not found.rows:
            raise BadInput(
                f"none of {found.total.samples:,} rewrites brings a gold passage to rank {options.keep_rank}, so "
                "there is nothing to fine-tune on; raise samples or keep_rank, or leave it out with sft_epochs 0"
            )
        return Supervision(found.rows, options.sft(len(found.rows)))

    def reinforce(trainee: Trainee) -> Reinforcement:
        if shots:  # whether the warm-up has taught the form without them can only be seen now
            sampling = options.sampling().but(seed=derive_seed("preflight", options.seed))
            check_tags(trainee.policy, trainee.questions, [strategy], trainee.sources, sampling)
        ranks = open_index(trainee)
        reward = Ranked(ranks, measure=rank_measure(options.reward, options.reward_k))
        tasks = [Task(question, strategy, "rewrite") for question in trainee.questions]
        return Reinforcement(tasks, reward, options.rl(), told=lambda: _lost(reward, ranks))

    shown = Rewrite(shots=shots) if shots else strategy
    first = Stage("warm-up", "learn from its own rewrites that ranked first", (shown,), warm_up, check)
    text = "rewrite queries, rewarded for the rank of the gold passage"
    last = Stage("rewrite", text, () if shots else (strategy,), reinforce, check)
    return (*((first,) if options.sft_epochs else ()), *((last,) if options.steps else ()))


def _told(found: WarmUp, keep_rank: int) -> str:
    """The yield of a warm-up, by depth too, since the filter keeps easy turns."""
    total = found.total
    by_depth = ", ".join(f"{depth}: {one.rate:.0%}" for depth, one in found.yields.items())
    return (
        f"{total.kept:,} of {total.samples:,} rewrites brought a gold passage to rank {keep_rank} "
        f"({total.parsed:,} were in form; by depth in the conversation {by_depth})"
    )


def _lost(reward: Ranked, ranks: RankService) -> str:
    counts = ranks.counts
    lost = {
        f"{reward.dropped:,} groups were dropped because the search engine did not answer": reward.dropped,
        f"{counts.truncated:,} of {counts.queries:,} rewrites were cut to {MAX_WORDS:,} words": counts.truncated,
    }
    return "; ".join(text for text, count in lost.items() if count)


def _read(path: Path) -> Iterator[Question]:
    return (turn.question() for turn in read_turns(path))


def _fit(questions: Sequence[Question], options: ConvSearchOptions) -> None:
    for question in questions:
        history_of(question)
    if not any(question.supporting_ids for question in questions):
        raise BadInput(
            f"none of {len(questions)} turns names a gold passage, and their ranks are all that is learnt from; "
            "TopiOCQA keeps them in a file of its own (--gold FILE)"
        )


def _admit(questions: Sequence[Question], index: str, on_note: Callable[[str], None]) -> Sequence[Question]:
    """The turns that can be ranked. Raises `BadInput` when there is none."""
    found = sort_out(map(ConversationTurn.of, questions), None if is_address(index) else Index.open(index))
    if found.left_out:
        on_note(left_out_note(found.left_out, len(found.turns)))
    return [question for question in questions if question.id not in found.left_out]


def _lab(_: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": 120,
        "questions_per_step": 16,
        "group_size": 8,
        "lr": 3e-4,
        "warmup_steps": 5,
        "temperature": 1.0,
        "max_tokens": 24,
        "sample_tokens": 24,
        "samples": 4,
        "sft_lr": 1e-3,
        "save_every": 20,
    }


recipe = Recipe(
    "convsearch-r1",
    ConvSearchOptions,
    _lab,
    _stages,
    read=_read,
    file="conversations with gold passages: TopiOCQA or QReCC",
    fit=_fit,
    admit=_admit,
    then="ken retrieve serve --index {index} --rewriter hf/{model}",
)
