"""The audit as one call: measure what a model knows, when it searches, and which searches were needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ken.agents import Strategy, load_strategy
from ken.agents.ask import close_sources, open_sources
from ken.agents.background import run
from ken.agents.strategy import check_sources
from ken.auditing.cluster import Recipe, run_audit_on_cluster
from ken.auditing.folder import LOG, REPORT, AuditSettings, check_keepable, digest, read_settings, save, write_settings
from ken.auditing.html import render_html
from ken.auditing.log import read_log
from ken.auditing.measure import measure
from ken.auditing.report import AuditReport
from ken.auditing.run import DIRECT, Progress, run_audit
from ken.auditing.verdicts import NO_VERDICTS, judge_answers, read_verdicts
from ken.core import BadInput, Question, Sampling
from ken.core.readers import read_questions
from ken.models import Model
from ken.probing.loading import load_model, spec_with
from ken.sources import Sources

STRATEGIES = (DIRECT, "rag", "search", "adaptive")


def audit(
    questions: str | Path | Iterable[Question],
    *,
    model: str | Model,
    out: str | Path,
    index: object = None,
    strategies: str | Sequence[str] = STRATEGIES,
    samples: int = 8,
    threshold: float = 0.5,
    top_k: int = 3,
    sampling: Sampling = Sampling(),
    judge: str | Model | None = None,
    judge_options: Mapping[str, Any] = {},
    ray: str | None = None,
    graph: object = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **model_options: Any,
) -> AuditReport:
    """Audit a model and an index on questions; the folder `out` receives trajectories.jsonl, audit.json and audit.html.

    questions: a file (see `ken.core.readers`) or `Question`s. model, index, top_k, graph, model_options: as for
    `ken.ask`.
    strategies: names, in one string separated by commas or as a list; "direct" is added when missing, since what the
    model knows by itself is the yardstick.
    samples: closed-book samples per question, ≥ 0; threshold: in [0, 1], share of right ones from which it counts as
    known.
    judge: a model that says of answers which equal no gold whether they are right (see `ken.auditing.verdicts`), with
    `judge_options` as a model has its own. It may be given for an audit that was made without one.
    ray: the address of a Ray cluster, or "local": shards of the attempts become its tasks (see `ken.core.scatter`). Its
    workers load the model and open the index themselves: both must then be named, by a spec and a folder or URL.
    on_progress: called after every attempt, from another thread.

    An interrupted audit goes on where it stopped when called again with the same arguments, and tries failed attempts
    again. Attempts that fail are reported in `report.failures`. After `GIVE_UP_AFTER` failures of one strategy in a row
    nothing more is asked: the model's server or the search engine is down. `report.unasked` counts what is then still
    to be done. Raises `BadInput` before anything is asked or written when the arguments cannot work.
    """
    asked, chosen = checked(questions, strategies, samples=samples, threshold=threshold)
    recipe = None if ray is None else _recipe(model, model_options, index, top_k, graph)
    judging = load_model(judge, **judge_options) if isinstance(judge, str) else judge
    sources = open_sources(index, top_k, graph)
    settings = settings_of(
        asked, chosen, "", sources, samples=samples, threshold=threshold, sampling=sampling
    )  # the model is named once it is loaded
    # On a cluster this process needs no model, and may be too small for it.
    loaded = load_model(model, **model_options) if isinstance(model, str) and recipe is None else model
    spec = spec_with(loaded, model_options.get("decoder")) if isinstance(loaded, str) else loaded.spec
    settings = settings.model_copy(update={"model": spec})

    async def work() -> None:
        try:
            if not isinstance(loaded, str):
                await run_audit(
                    asked, loaded, sources, Path(out), strategies=chosen, settings=settings, on_progress=on_progress
                )
        finally:
            if not isinstance(loaded, str) and loaded is not model:
                await loaded.close()
            await close_sources(sources, keep=(index, graph))

    run(work())
    if recipe is not None and ray is not None:
        run_audit_on_cluster(
            asked, recipe, Path(out), strategies=chosen, settings=settings, address=ray, on_progress=on_progress
        )
    if judging is not None:
        run(_judge(judging, Path(out), on_progress, close=judging is not judge))
    return rescore(out)


def checked(
    questions: str | Path | Iterable[Question], strategies: str | Sequence[str], *, samples: int, threshold: float
) -> tuple[list[Question], list[Strategy]]:
    """What an audit asks, and by which strategies, closed book among them. Arguments and errors as for `audit`."""
    asked = _read(questions)
    listed = strategies.split(",") if isinstance(strategies, str) else strategies
    given = [name.strip() for name in listed if name.strip()]
    names = tuple(dict.fromkeys([*([] if DIRECT in given else [DIRECT]), *given]))
    chosen = [load_strategy(name) for name in names]
    if samples < 0:
        raise BadInput(f"samples is {samples}; it must be 0 or more")
    if not 0 <= threshold <= 1:
        raise BadInput(f"threshold is {threshold}; it must lie in [0, 1]")
    return asked, chosen


def settings_of(
    asked: Sequence[Question],
    strategies: Sequence[Strategy],
    model: str,
    sources: Sources,
    *,
    samples: int,
    sampling: Sampling,
    threshold: float = 0.5,
) -> AuditSettings:
    """The settings of an audit of `checked` questions and strategies, for `run_audit`. model: its spec. Raises
    `BadInput` when a strategy needs a source that there is not."""
    check_sources(strategies, sources)
    return AuditSettings(
        model=model,
        strategies=tuple(strategy.name for strategy in strategies),
        index=sources.search.name if sources.search else "",
        graph=sources.graph.name if sources.graph else "",
        top_k=sources.top_k,
        samples=samples,
        threshold=threshold,
        sampling=sampling,
        questions_digest=digest(asked),
        questions_count=len(asked),
    )


async def _judge(judge: Model, out: Path, on_progress: Callable[[Progress], None], *, close: bool) -> None:
    def tell(done: int, total: int) -> None:
        on_progress(Progress(done, total, 0, "verdicts"))

    try:
        attempts = [t for t in read_log(out / LOG).values() if t.sample is None]
        write_settings(out, read_settings(out).model_copy(update={"judge": judge.spec}))
        await judge_answers(judge, attempts, out, tell)
    finally:
        if close:
            await judge.close()


def rescore(out: str | Path) -> AuditReport:
    """Measure the audit in `out` again from its trajectories, without calling a model, and rewrite audit.json and
    audit.html. Raises `BadInput` for a folder that holds no audit, or one without trajectories yet.
    """
    settings = read_settings(Path(out))
    trajectories = list(read_log(Path(out) / LOG).values())
    if not trajectories:
        raise BadInput(f"{out} holds no trajectories yet; run `ken audit` first")
    verdicts = read_verdicts(Path(out), settings.judge) if settings.judge else NO_VERDICTS
    report = measure(trajectories, settings, verdicts)
    save(Path(out) / REPORT, report.model_dump_json(indent=2) + "\n")
    save(Path(out) / "audit.html", render_html(report, trajectories))
    return report


def _recipe(model: object, options: dict[str, Any], index: object, top_k: int, graph: object) -> Recipe:
    if not isinstance(model, str) or not all(one is None or isinstance(one, str | Path) for one in (index, graph)):
        raise BadInput(
            "on a cluster the workers load the model and open the index and the graph; name them: a spec, a path or URL"
        )
    if not isinstance(options.get("decoder"), str | None):
        raise BadInput("on a cluster the workers load the model with its decoder; give the decoder by its name")
    if not model.strip().startswith(("hf/", "lab/")):  # weights are the workers' business; the rest is told here
        load_model(model, **options)
    return Recipe(model, options, _location(index), top_k, _location(graph))


def _location(source: object) -> str | None:
    """A path that holds wherever a worker runs, or an address."""
    if source is None:
        return None
    return str(Path(str(source)).absolute()) if Path(str(source)).exists() else str(source)


def _read(questions: str | Path | Iterable[Question]) -> list[Question]:
    asked = list(read_questions(questions)) if isinstance(questions, str | Path) else list(questions)
    if not asked:
        raise BadInput("there are no questions to audit")
    check_keepable(asked)
    return asked
