"""`ken train`."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.cli import options
from ken.cli.train_progress import finish, library, listening
from ken.core.errors import BadInput, ModelError, SourceError, TrainingError

if TYPE_CHECKING:
    from ken.papers.train import Trained

PAPERS = "search-r1, adasearch, ikea, tapo, convsearch-r1, r3-rag or knowrl."
_BESIDE = {"paper", "model", "questions", "gold", "index", "out", "resume", "device", "api_key", "log_to", "limit"}


def train(  # noqa: PLR0917 (typer reads the options from the signature)
    context: typer.Context,
    paper: Annotated[str | None, typer.Argument(metavar="[PAPER]", help=PAPERS)] = None,
    model: options.Model = "",
    questions: Annotated[
        Path | None,
        typer.Option(
            help="FlashRAG, HotpotQA, MuSiQue or TAPO file, with accepted answers; for ConvSearch-R1 conversations "
            "(TopiOCQA, QReCC), for KnowRL seeds that say whether they are feasible."
        ),
    ] = None,
    gold: Annotated[
        Path | None, typer.Option(help="ConvSearch-R1: the gold passages of TopiOCQA, where it keeps them apart.")
    ] = None,
    index: options.Index = "",
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The folder of the run; the model is RUN/model.")] = (
        None
    ),
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run; it knows its settings.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Of reinforcement learning; of AdaSearch, of its first stage; of KnowRL, in a round."),
    ] = None,
    questions_per_step: Annotated[int | None, typer.Option(help="Questions drawn for a step.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Rollouts of a question.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps until it is reached.")] = None,
    kl: Annotated[float | None, typer.Option(help="Weight of the KL term.")] = None,
    minibatches: Annotated[int | None, typer.Option(help="Updates a step.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Rollouts of one forward pass, for memory.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Searches of a rollout at most.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", help="Passages per search.")] = None,
    search_cache: Annotated[
        float | None,
        typer.Option(metavar="RATIO", help="Queries that resemble an earlier one so much share its passages; 0: none."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most new tokens of one turn.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of rollouts.")] = None,
    search: Annotated[bool | None, typer.Option("--search/--no-search", help="TAPO: the tool that searches.")] = None,
    code: Annotated[bool | None, typer.Option("--code/--no-code", help="TAPO: the tool that runs Python.")] = None,
    max_refills: Annotated[
        int | None, typer.Option(help="TAPO: batches drawn again for groups that are all right or all wrong, at most.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="TAPO: tokens of a response, beyond which it earns less.")] = None,
    buffer: Annotated[int | None, typer.Option(help="TAPO: tokens before that, over which it earns ever less.")] = None,
    clip_low: Annotated[
        float | None, typer.Option(help="TAPO: the ratio of an update is at least 1 less this.")
    ] = None,
    clip_high: Annotated[float | None, typer.Option(help="TAPO: and at most 1 and this.")] = None,
    dual_clip: Annotated[float | None, typer.Option(help="TAPO: its bound where the advantage is negative.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="TAPO: of the optimizer.")] = None,
    algo: Annotated[str | None, typer.Option(help="Search-R1: grpo or ppo.")] = None,
    critic_lr: Annotated[float | None, typer.Option(help="Search-R1 with ppo, R3-RAG: of the critic.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="AdaSearch, IKEA: closed-book answers a question (K). ConvSearch-R1: rewrites a turn to learn from."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="AdaSearch, IKEA: share of right ones from which it is known (tau).")
    ] = None,
    e2e: Annotated[bool | None, typer.Option("--e2e", help="AdaSearch: one stage instead of two.")] = None,
    decide_steps: Annotated[int | None, typer.Option(help="AdaSearch: steps of the second stage.")] = None,
    decide_questions: Annotated[int | None, typer.Option(help="AdaSearch: questions of a step there.")] = None,
    decide_lr: Annotated[float | None, typer.Option(help="AdaSearch: learning rate there.")] = None,
    decide_kl: Annotated[float | None, typer.Option(help="AdaSearch: weight of the KL term there.")] = None,
    verdicts: Annotated[int | None, typer.Option(help="AdaSearch: verdicts on a question there.")] = None,
    greedy_thoughts: Annotated[
        bool | None,
        typer.Option("--greedy-thoughts", help="AdaSearch, IKEA, KnowRL: sample only what follows the thought."),
    ] = None,
    replay_every: Annotated[
        int | None, typer.Option(help="AdaSearch: one closed-book group for so many verdicts; 0: none.")
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option("--balanced", help="AdaSearch: as many known as unknown questions in the second stage."),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="IKEA: share of easy questions.")] = None,
    plus: Annotated[float | None, typer.Option(help="IKEA: bonus for a right answer without search.")] = None,
    minus: Annotated[float | None, typer.Option(help="IKEA: reward of a wrong answer after a search.")] = None,
    sft_epochs: Annotated[
        float | None,
        typer.Option(help="ConvSearch-R1, R3-RAG: passes of the supervised stage before; 0 leaves it out."),
    ] = None,
    sft_lr: Annotated[float | None, typer.Option(help="ConvSearch-R1, R3-RAG: learning rate there.")] = None,
    sft_batch: Annotated[int | None, typer.Option(help="ConvSearch-R1, R3-RAG: sequences of an update there.")] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="ConvSearch-R1: rank-incentive, ndcg, mrr or recall. KnowRL: majority, consensus or "
            "majority-as-intended."
        ),
    ] = None,
    reward_k: Annotated[int | None, typer.Option(help="ConvSearch-R1: k of ndcg, mrr and recall.")] = None,
    keep_rank: Annotated[
        int | None, typer.Option(help="ConvSearch-R1: the worst rank of a rewrite to learn from.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="ConvSearch-R1: ranks beyond it count as not found.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="ConvSearch-R1: how an index searches in training: bm25, dense or hybrid.")
    ] = None,
    shots: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ConvSearch-R1: demonstrations for sampling before the supervised stage: turns with a 'response'.",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="SPEC", help="R3-RAG: the model to imitate first, such as openai/NAME.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="SPEC|rule", help="R3-RAG: who judges steps and answers; default: the teacher."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="R3-RAG: of the server for these; default: $OPENAI_BASE_URL.")
    ] = None,
    attempts: Annotated[int | None, typer.Option(help="R3-RAG: of the teacher at a question.")] = None,
    variant: Annotated[str | None, typer.Option(help="R3-RAG: reward both, outcome or process.")] = None,
    advantage: Annotated[
        str | None, typer.Option(help="R3-RAG: gae (PPO, with a critic) or batch (without one).")
    ] = None,
    if_correct: Annotated[
        float | None, typer.Option(help="R3-RAG: factor on what queries earn when the answer is right.")
    ] = None,
    if_wrong: Annotated[float | None, typer.Option(help="R3-RAG: when it is wrong.")] = None,
    if_unanswered: Annotated[float | None, typer.Option(help="R3-RAG: when there is none.")] = None,
    answer_reward: Annotated[float | None, typer.Option(help="R3-RAG: of a right answer.")] = None,
    wrong_answer_reward: Annotated[float | None, typer.Option(help="R3-RAG: of a wrong one.")] = None,
    malformed_reward: Annotated[float | None, typer.Option(help="R3-RAG: of a step that cannot be read.")] = None,
    document_characters: Annotated[
        int | None, typer.Option(help="R3-RAG: of the passages that a step is shown, at most.")
    ] = None,
    max_passages: Annotated[int | None, typer.Option(help="R3-RAG: that a rollout is shown, at most.")] = None,
    temperature_step: Annotated[
        float | None, typer.Option(help="R3-RAG: so much warmer is each further rollout of a question.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="KnowRL: of making up tasks and judging them.")] = None,
    runs: Annotated[int | None, typer.Option(help="KnowRL: introspection runs of a round, at least.")] = None,
    candidates: Annotated[int | None, typer.Option(help="KnowRL: tasks to be made up in a round.")] = None,
    replayed: Annotated[int | None, typer.Option(help="KnowRL: tasks of earlier rounds trained on again.")] = None,
    measured: Annotated[int | None, typer.Option(help="KnowRL: tasks on which each round is measured.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    max_failures: Annotated[int | None, typer.Option(help="Failed searches in a row that end the training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="For hf/…: sequences decoded at once.")] = None,
    vllm: Annotated[bool | None, typer.Option("--vllm", help="Rollouts by vLLM, on the GPUs that train.")] = None,
    vllm_memory: Annotated[float | None, typer.Option(help="Share of a GPU's memory that it may use.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16", help="Compute in bfloat16; weights stay float32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of rollouts, their order and labels.")] = None,
    log_to: Annotated[str | None, typer.Option(help="tensorboard or trackio, where installed.")] = None,
    device: options.Device = None,
    api_key: options.ApiKey = None,
) -> None:
    """Train a model by a paper's recipe on questions and an index of your own; RUN/model is then a model as
    hf/RUN/model.

    Options left out are the paper's, or for a model of the lab those of its small worlds; RUN/run.json holds them all.
    Ctrl-C ends the step under way and saves a checkpoint. Exit status: 0 when the model is trained, 2 when the input
    cannot be used or the training had to stop, 130 when it was interrupted.
    """
    parameters = context.params
    if resume is not None:
        if extra := [
            name for name in parameters if name not in {"resume", "device", "api_key"} and _typed(context, name)
        ]:
            raise BadInput(
                f"a resumed run keeps its settings, so --{extra[0].replace('_', '-')} cannot be given with --resume"
            )
        _run(resume, lambda listener: library().resume(resume, device=device, api_key=api_key, listener=listener))
        return
    needed = {"PAPER": paper, "--model SPEC": model, "--questions FILE": questions, "--out RUN": out}
    if missing := [name for name, value in needed.items() if not value]:
        raise BadInput(f"a training needs {', '.join(missing)} (or --resume RUN alone)")
    assert paper is not None
    assert questions is not None
    assert out is not None
    chosen = options.given(**{name: value for name, value in parameters.items() if name not in _BESIDE})
    trainer = library()
    recipe = trainer.recipe_of(paper)
    # What ken.toml says to all commands is for those that have such an option.
    has = recipe.options.model_fields
    chosen = {name: value for name, value in chosen.items() if name in has or _typed(context, name)}
    searches = recipe.needs_index(chosen)
    if searches and not index:
        raise BadInput("a training searches; name an index with --index DIR or a /retrieve service with --index URL")
    if not searches and not _typed(context, "index"):
        index = ""  # what ken.toml says of it is for others
    _run(
        out,
        lambda listener: trainer.train_on(
            paper,
            model=model,
            questions=list(islice(_questions(recipe, questions, gold), limit)),
            index=index,
            out=out,
            log_to=_tracker(log_to),
            device=device,
            api_key=api_key,
            listener=listener,
            **chosen,
        ),
    )


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _questions(recipe: Any, path: Path, gold: Path | None) -> Any:
    """The questions of a file of the kind that the recipe reads."""
    if gold is None:
        return recipe.questions_in(path)
    if recipe.slug != "convsearch-r1":
        raise BadInput(f"--gold is for the conversations of convsearch-r1; {recipe.slug} has no use for it")
    from ken.core.conversation import read_turns

    return (turn.question() for turn in read_turns(path, gold=gold))


def _tracker(name: str | None) -> Any:
    if name not in {None, "tensorboard", "trackio"}:
        raise BadInput(f"there is no tracker {name!r}; choose tensorboard or trackio")
    return name


def _run(out: Path, work: Any) -> None:
    """Train, tell how it goes, and say how to go on."""
    again = f"ken train --resume {out}"
    try:
        with listening() as listener:
            trained: Trained = work(listener)
    except KeyboardInterrupt:
        typer.echo(f"ken: interrupted; what was saved is kept, go on with: {again}", err=True)
        sys.exit(130)
    except (TrainingError, SourceError, ModelError) as error:
        if not (out / "run.json").is_file():  # it had not begun
            raise
        raise type(error)(f"{str(error).rstrip('.')}; when that is mended, go on with: {again}") from error
    if not _speaks():
        return
    if trained.interrupted:
        typer.echo(f"ken: interrupted; a checkpoint is saved, go on with: {again}", err=True)
        sys.exit(130)
    finish(trained)


def _speaks() -> bool:
    """Whether this process speaks for all that train together (`accelerate launch`)."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
