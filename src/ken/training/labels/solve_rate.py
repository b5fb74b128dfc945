"""How often does a model solve each question by itself? K closed-book samples, and the labels made of them.

Sources: the pseudo-labels of AdaSearch (arXiv 2512.16883): yes iff the solve rate is ≥ τ; the knowledge probe of IKEA
(arXiv 2505.07596) with 16 samples. Labels must come from the very weights that are to be trained next: training changes
what is solvable.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from ken.agents import Direct
from ken.agents.strategy import Strategy
from ken.core import BadInput, DataError, ModelError, Observation, Question, Sampling, Trajectory
from ken.core.files import write_whole
from ken.core.frozen import Frozen
from ken.metrics.decision import Matcher, solve_rate
from ken.metrics.text import substring_match
from ken.models import Model
from ken.models.fingerprint import fingerprint
from ken.sources import Sources
from ken.training.labels.cache import AnswerCache, Answers
from ken.training.labels.degenerate import DegenerateLabels, all_equal

IN_FLIGHT = 512  # samples under way at once; how many of their calls share a batch is the model's business
GIVE_UP_AFTER = 20  # questions failed in a row: the model is down, not a question bad


@dataclass(frozen=True, slots=True)
class SolveRates:
    """What was measured: of each question id the share of `samples` closed-book answers that were right, in [0, 1].

    failed: question id → why it could not be attempted; such questions have no rate. asked: of how many questions the
    model was sampled now (the others came from the cache).
    """

    rates: dict[str, float]
    samples: int
    failed: dict[str, str]
    asked: int

    def labels(self, tau: float = 0.5, *, stage: str = "the decision stage") -> dict[str, bool]:
        """question id → solve rate ≥ tau. Warns with `DegenerateLabels` when they are all equal. As `label`."""
        labels = {name: label(rate, tau) for name, rate in self.rates.items()}
        if labels and len(set(labels.values())) == 1:
            problem = all_equal(f"{stage} is degenerate: all {len(labels)} labels", next(iter(labels.values())), tau)
            warnings.warn(problem, DegenerateLabels, stacklevel=2)
        return labels

    def histogram(self) -> tuple[int, ...]:
        """How many questions were solved 0, 1, …, K times: K + 1 counts."""
        counts = [0] * (self.samples + 1)
        for rate in self.rates.values():
            counts[round(rate * self.samples)] += 1
        return tuple(counts)


def label(rate: float, tau: float = 0.5) -> bool:
    """Does the model know it? z = [rate ≥ tau]. Raises `BadInput` when either is outside [0, 1]."""
    if not 0 <= tau <= 1:
        raise BadInput(f"tau is {tau}; the threshold of the solve rate must lie in [0, 1]")
    if not 0 <= rate <= 1:
        raise BadInput(f"the solve rate is {rate}; it must lie in [0, 1]")
    return rate >= tau


def flip_rate(before: Mapping[str, bool], after: Mapping[str, bool]) -> float:
    """Share of the questions in both whose label changed, as between the start and the end of a training stage."""
    shared = before.keys() & after.keys()
    if not shared:
        raise BadInput("the two sets of labels share no question; compare labels of the same questions")
    return sum(before[name] != after[name] for name in shared) / len(shared)


async def measure_solve_rates(
    model: Model,
    questions: Sequence[Question],
    *,
    samples: int = 8,
    matcher: Matcher = substring_match,
    strategy: Strategy | None = None,
    sampling: Sampling = Sampling(temperature=1.0),
    sources: Sources | None = None,
    cache: str | Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SolveRates:
    """Sample every question `samples` times with `strategy` (by default `Direct`: closed book) and match the answers.

    sampling: its temperature must be above 0 when samples > 1. cache: a file that keeps the answers; with the same
    weights, strategy, sampling and question nothing is sampled again, more samples only draw those that are missing,
    and another matcher draws none. on_progress: told of questions done, of how many.

    A sample without an answer is wrong. A question on which the model fails (an error, not a wrong answer) has no rate
    and is in `failed`, with a warning. Raises `ModelError` when `GIVE_UP_AFTER` questions fail in a row, or all do;
    `BadInput` for samples < 1, no questions, equal ids, or a question without accepted answers.
    """
    _check(questions, samples, sampling)
    strategy, sources = strategy or Direct(), sources or Sources()
    kept = None
    if cache is not None:
        kept = AnswerCache(cache, await _setting(model, strategy, sampling, sources))
    try:
        known: dict[str, Answers] = {q.id: kept[q] if kept is not None else () for q in questions}
        todo = [question for question in questions if len(known[question.id]) < samples]
        failed: dict[str, str] = {}
        in_a_row, done = 0, len(questions) - len(todo)
        on_progress(done, len(questions))
        waiting = iter(todo)

        async def work() -> None:
            nonlocal in_a_row, done
            for question in waiting:  # shared by all workers: each takes the next question when it is free
                drawn = await asyncio.gather(
                    *(
                        strategy.run(question, model, sources, sampling=sampling, sample=sample)
                        for sample in range(len(known[question.id]), samples)
                    )
                )
                problem = next((why for why in map(_problem, drawn) if why), None)
                done += 1
                if problem is None:
                    in_a_row = 0
                    known[question.id] += tuple(trajectory.answer for trajectory in drawn)
                    if kept is not None:
                        kept.add(question, known[question.id])
                else:
                    in_a_row += 1
                    failed[question.id] = problem
                    if in_a_row == GIVE_UP_AFTER:
                        raise _gave_up(f"{in_a_row} questions in a row", problem, kept)
                on_progress(done, len(questions))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(todo), -(-IN_FLIGHT // samples))):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        if kept is not None:
            kept.close()
    if failed:
        why = next(iter(failed.values()))
        if len(failed) == len(questions):
            raise _gave_up("every question", why, kept)
        warnings.warn(
            f"{len(failed)} of {len(questions)} questions have no solve rate, because the model failed on them ({why})",
            RuntimeWarning,
            stacklevel=2,
        )
    rates = {
        q.id: solve_rate(known[q.id][:samples], q.answers, matcher=matcher) for q in questions if q.id not in failed
    }
    return SolveRates(rates, samples, failed, asked=len(todo))


def write_solve_rates(path: str | Path, questions: Sequence[Question], measured: SolveRates) -> None:
    """Write `{"id", "question", "pass_rate"}`, one JSON line per question that has a rate, whole or not at all."""
    lines = [
        json.dumps({"id": q.id, "question": q.text, "pass_rate": measured.rates[q.id]}, ensure_ascii=False)
        for q in questions
        if q.id in measured.rates
    ]
    write_whole(Path(path), "".join(f"{line}\n" for line in lines).encode(errors="replace"))


def read_solve_rates(path: str | Path) -> dict[str, float]:
    """question id → solve rate, from a file of `write_solve_rates`. Raises `DataError` for a line that is none."""
    rates: dict[str, float] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the solve rates in {path} cannot be read ({error}); measure them first") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            name, rate = str(record["id"]), float(record["pass_rate"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(path, number, 'expected {"id": …, "question": …, "pass_rate": …}') from error
        if not 0 <= rate <= 1:
            raise DataError(path, number, f"the pass_rate is {rate}; it must lie in [0, 1]")
        rates[name] = rate
    return rates


def _check(questions: Sequence[Question], samples: int, sampling: Sampling) -> None:
    if samples < 1:
        raise BadInput(f"samples is {samples} (K); draw at least one answer per question")
    if samples > 1 and sampling.temperature == 0:
        raise BadInput(f"{samples} samples at temperature 0 are all the same; use a temperature near 1")
    if not questions:
        raise BadInput("there are no questions to probe; give at least one")
    seen: set[str] = set()
    for question in questions:
        if not question.answers:
            raise BadInput(f"the question {question.id!r} has no accepted answers; leave it out, or add them")
        if question.id in seen:
            raise BadInput(f"the question {question.id!r} is given twice; ids must be unique")
        seen.add(question.id)


async def _setting(model: Model, strategy: Strategy, sampling: Sampling, sources: Sources) -> dict[str, object]:
    """All that decides what is sampled for a question, the prompts of this version of Ken excepted."""
    setting: dict[str, object] = {
        "model": await asyncio.to_thread(fingerprint, model),
        "spec": model.spec,
        "strategy": _described(strategy),
        "sampling": sampling.model_dump(mode="json"),
    }
    if sources.search is not None and strategy.needs_search:
        setting["search"] = [sources.search.name, sources.top_k]
    if str(setting["model"]).startswith("weights:"):
        del setting["spec"]  # the same weights in another folder are the same model
    return setting


def _described(value: object) -> object:
    """A strategy and its options as JSON that is equal for equal ones, in this process and in any other."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Frozen):
        return value.model_dump(mode="json")
    if isinstance(value, Strategy):
        kind = type(value)
        options = {name: _described(option) for name, option in vars(value).items()}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "name": value.name, **options}
    if isinstance(value, Mapping):
        return {str(key): _described(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [_described(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _described(getattr(value, field.name)) for field in fields(value)}
    raise BadInput(
        f"the strategy has an option of type {type(value).__name__}, by which the cache cannot tell it from another; "
        "measure without a cache"
    )


def _problem(trajectory: Trajectory) -> str | None:
    """Why this attempt says nothing about what the model knows, or None."""
    if trajectory.error is not None:
        return trajectory.error
    broken = (step.note for step in trajectory.steps if isinstance(step, Observation) and step.error)
    return next((f"the search failed: {note}" for note in broken), None)


def _gave_up(where: str, problem: str, kept: AnswerCache | None) -> ModelError:
    after = "what was sampled is in the cache, so run it again to go on" if kept else "mend that and run it again"
    return ModelError(f"the model failed on {where} ({problem}); {after}")
