"""R3-RAG: reason and retrieve step by step, every step rewarded (arXiv 2505.23794; card 40)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from ken.agents.background import run
from ken.agents.stepwise import MOST_STEPS, STEPS, Stepwise
from ken.agents.subqueries import SubQueries
from ken.core import BadInput, Question, SourceError
from ken.core.seeding import derive_seed
from ken.papers.recipe import FineTuned, Recipe, Searching, Stage, Trainee, answered, with_answers
from ken.papers.work import Reinforcement, Supervision
from ken.sources import Sources
from ken.training.judges import Judge, LLMJudge, RuleJudge, step_reward
from ken.training.kept_attempts import KeptAttempts
from ken.training.preflight import check_tags
from ken.training.rewards.steps import StepFactors, Variant, evidence_of
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task
from ken.training.trajectory_sampling import Sampled, SamplerConfig, TrajectorySampler, pupil_example, statistics

RULE = "rule"
TABLE = StepFactors()  # of the card
LEAST_CALLS = 20  # of a judge in one step, from which it is told that it is down


class R3RagOptions(FineTuned, Searching):
    """teacher: the spec of the model whose successes the cold start imitates, such as openai/NAME. attempts: of it at a
    question, each of at most `teacher_steps` steps of `teacher_tokens` tokens, with `teacher_top_k` passages a query;
    the first is greedy, later ones are sampled at `teacher_temperature` and split their queries.
    judge: "rule", by gold evidence and exact match, or the spec of a model; by default the teacher. base_url: of both,
    for openai/NAME; by default $OPENAI_BASE_URL.
    variant: which signals count in reinforcement: the answer ("outcome"), what each query brought ("process"), or both.
    if_correct, if_wrong, if_unanswered: factor on the process scores of a rollout that ended so; answer_reward,
    wrong_answer_reward, malformed_reward: of its last step. advantage: "gae" (PPO, with a critic) or "batch" (without:
    rewards are whitened over the steps of a batch).
    max_turns: steps of a rollout; it is shown at most `max_passages` passages, and `document_characters` of them in a
    step. temperature: of the first rollout of a question; each further one is so much warmer
    as `temperature_step` says. critic_lr: learning rate of the critic; kl: taken off the reward.
    minibatches: with the default an update sees 32 rollouts, which is about the paper's 64 steps.
    """

    questions_per_step: int = Field(default=64, ge=1)
    group_size: int = Field(default=4, ge=1)
    lr: float = Field(default=5e-7, gt=0)
    critic_lr: float = Field(default=9e-6, gt=0)
    kl: float = Field(default=0.01, ge=0)
    minibatches: int = Field(default=8, ge=1)
    max_turns: int = Field(default=5, ge=1, le=MOST_STEPS)
    top_k: int = Field(default=2, ge=1)
    max_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    temperature_step: float = Field(default=0.3, ge=0, allow_inf_nan=False)
    variant: Variant = "both"
    advantage: Literal["gae", "batch"] = "gae"
    if_correct: float = Field(default=TABLE.if_correct, allow_inf_nan=False)
    if_wrong: float = Field(default=TABLE.if_wrong, allow_inf_nan=False)
    if_unanswered: float = Field(default=TABLE.if_unanswered, allow_inf_nan=False)
    answer_reward: float = Field(default=TABLE.answer, allow_inf_nan=False)
    wrong_answer_reward: float = Field(default=TABLE.wrong_answer, allow_inf_nan=False)
    malformed_reward: float = Field(default=TABLE.malformed, allow_inf_nan=False)
    document_characters: int = Field(default=512, ge=1)
    max_passages: int = Field(default=10, ge=1)
    sft_epochs: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    sft_lr: float = Field(default=7e-6, gt=0)
    sft_batch: int = Field(default=16, ge=1)
    sft_warmup: float = Field(default=0.1, ge=0, le=1)
    teacher: str = ""
    judge: str = ""
    base_url: str | None = None
    attempts: int = Field(default=7, ge=1)
    teacher_steps: int = Field(default=7, ge=1, le=MOST_STEPS)
    teacher_top_k: int = Field(default=3, ge=1)
    teacher_temperature: float = Field(default=0.9, gt=0, allow_inf_nan=False)
    teacher_tokens: int = Field(default=512, ge=1)

    @property
    def compares_groups(self) -> bool:
        return False  # PPO has a critic, and batches are compared with themselves

    @property
    def factors(self) -> StepFactors:
        """The numbers of the table of rewards."""
        return StepFactors(
            self.if_correct,
            self.if_wrong,
            self.if_unanswered,
            self.answer_reward,
            self.wrong_answer_reward,
            self.malformed_reward,
        )

    @property
    def judged_by(self) -> str:
        """The judge: "rule" or the spec of a model."""
        return self.judge or self.teacher

    @property
    def helpers(self) -> tuple[str, ...]:
        taught = (self.teacher,) if self.sft_epochs else ()
        return tuple(dict.fromkeys(spec for spec in (*taught, self.judged_by) if spec != RULE))

    @property
    def helpers_url(self) -> str | None:
        return self.base_url

    @model_validator(mode="after")
    def _somebody_to_ask(self) -> R3RagOptions:
        if self.sft_epochs and not self.teacher:
            raise BadInput(
                "the cold start imitates a teacher; name one with --teacher openai/NAME (and --base-url for a server "
                "of your own), or leave it out with --sft-epochs 0 for a model that writes the steps already"
            )
        if not self.judged_by:
            raise BadInput("somebody must judge steps and answers; name a model with --judge SPEC, or say --judge rule")
        return self


def _stages(options: R3RagOptions) -> tuple[Stage, ...]:
    temperatures = [options.temperature + options.temperature_step * i for i in range(options.group_size)]
    strategy = Stepwise(
        options.max_turns,
        retries=3,
        max_passages=options.max_passages,
        document_characters=options.document_characters,
        temperatures=temperatures,
    )

    def cold_start(trainee: Trainee) -> Supervision:
        from accelerate import PartialState

        with PartialState().main_process_first():
            sampled = _sampled(trainee, options)
        trainee.on_note(_told(sampled))
        rows = [
            pupil_example(trainee.policy, one.success, STEPS, Stepwise.prompt(one.question))
            for one in sampled
            if one.success is not None
        ]
        if not rows:
            raise BadInput(
                f"the teacher {options.teacher} solved none of {len(sampled)} questions, so there is nothing to "
                "imitate; take a stronger one or easier questions, or leave it out with sft_epochs 0"
            )
        return Supervision(rows, options.sft(len(rows)))

    def reinforce(trainee: Trainee) -> Reinforcement:
        if options.sft_epochs:  # whether the cold start has taught the form can only be seen now
            sampling = options.sampling().but(seed=derive_seed("preflight", options.seed))
            check_tags(trainee.policy, trainee.questions, [strategy], trainee.sources, sampling)
        judge = _judge(trainee, options)
        reward = step_reward(judge, variant=options.variant, factors=options.factors)
        tasks = [Task(question, strategy, "steps") for question in trainee.questions]
        watch = _JudgeWatch(judge)
        return Reinforcement(tasks, reward, _ppo(options), check=watch.check, told=watch.told)

    first = Stage("cold-start", "imitate the teacher's successes, step by step", (), cold_start)
    # A model that is to be taught the form need not write it before.
    needed = () if options.sft_epochs else (strategy,)
    last = Stage("steps", f"reason and retrieve, rewarded by {options.variant}", needed, reinforce)
    return (*((first,) if options.sft_epochs else ()), *((last,) if options.steps else ()))


def _ppo(options: R3RagOptions) -> RLConfig:
    """Every step is a sample of its own, credited by its own reward."""
    return options.rl(
        advantage=options.advantage,
        turn_credit=True,
        loss="bnpo",
        clip_low=0.2,
        value_clip=0.2,
        kl=0.0,
        kl_in_reward=options.kl,
        critic_lr=options.critic_lr,
    )


def _sampled(trainee: Trainee, options: R3RagOptions) -> list[Sampled]:
    """The teacher's attempts. What it was asked before an interruption it is not asked again."""
    teacher, search = trainee.beside(options.teacher), trainee.sources.search
    assert search is not None
    plain = Sources(search=search, top_k=options.teacher_top_k)
    split = Sources(search=SubQueries(search, teacher), top_k=options.teacher_top_k)
    config = SamplerConfig(
        attempts=options.attempts,
        temperature=options.teacher_temperature,
        max_tokens=options.teacher_tokens,
        seed=options.seed,
    )
    sampler = TrajectorySampler(
        teacher,
        lambda attempt: split if attempt else plain,
        _judge(trainee, options),
        Stepwise(options.teacher_steps, retries=1),
        config,
    )
    done = 0

    def on_done(_: Sampled) -> None:
        nonlocal done
        done += 1
        trainee.on_progress(done, len(trainee.questions))

    with KeptAttempts(trainee.folder / "samples.jsonl") as kept:
        return run(sampler.sample(trainee.questions, kept=kept, on_done=on_done))


def _told(sampled: Sequence[Sampled]) -> str:
    """How sampling went, by data set."""
    parts = []
    for name, counts in statistics(sampled).items():
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.outcomes.most_common())
        of = f" of {name}" if name else ""
        parts.append(f"{counts.solved:,} of {counts.questions:,} questions{of} ({outcomes})")
    return f"the teacher solved {'; '.join(parts)}"


def _judge(trainee: Trainee, options: R3RagOptions) -> Judge:
    return RuleJudge() if options.judged_by == RULE else LLMJudge(trainee.beside(options.judged_by))


class _JudgeWatch:
    """Tells of verdicts that a heuristic gave, and stops a training whose judge is down."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge if isinstance(judge, LLMJudge) else None
        self._seen = (0, 0)

    def check(self) -> None:
        """Raises `SourceError` when a judge that was asked often gave no verdict in this step."""
        if self.judge is None:
            return
        calls, fallbacks = self.judge.calls - self._seen[0], self.judge.fallbacks - self._seen[1]
        self._seen = (self.judge.calls, self.judge.fallbacks)
        if calls >= LEAST_CALLS and fallbacks * (self.judge.retries + 1) >= calls:
            raise SourceError(f"the judge {self.judge.model.spec} gave no verdict in {calls} calls; start it again")

    def told(self) -> str:
        if self.judge is None or not self.judge.fallbacks:
            return ""
        return (
            f"a heuristic stood in for {self.judge.fallbacks:,} verdicts that the judge did not give "
            f"({self.judge.calls:,} calls)"
        )


def _fit(questions: Sequence[Question], options: R3RagOptions) -> None:
    if not any(question.answers for question in questions):
        with_answers(questions)
    if options.judged_by == RULE and options.variant != "outcome" and options.steps:
        for question in questions:
            if question.answers:
                evidence_of(question)


def _lab(_: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": 60,
        "questions_per_step": 32,
        "lr": 2e-4,
        "critic_lr": 1e-3,
        "warmup_steps": 5,
        "minibatches": 1,
        "max_tokens": 24,  # the longest step, which repeats a whole question, takes 20
        "sft_epochs": 2.0,
        "sft_lr": 1e-3,
        "sft_batch": 32,
        "judge": RULE,
        "teacher_top_k": 2,
        "save_every": 20,
    }


recipe = Recipe(
    "r3-rag",
    R3RagOptions,
    _lab,
    _stages,
    fit=_fit,
    admit=answered,
    then="ken ask QUESTION --strategy stepwise --model hf/{model} --index {index} --top-k {top_k}",
)
