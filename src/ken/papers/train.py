"""Train a model of your own by a paper's recipe, in a folder from which it can be resumed.

The folder holds run.json (all settings), questions.jsonl (a copy), answers.jsonl (closed-book samples behind labels), a
folder for every stage but the last, and of the last one metrics.jsonl, checkpoints/, model/ and what it has sampled.
What is whole is never made again, so that the files themselves say where to go on.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import ken
from ken.agents.ask import open_sources
from ken.agents.background import run
from ken.core import BadInput, Question, Unsupported
from ken.core.files import write_whole
from ken.core.frozen import Frozen
from ken.core.readers import read_questions
from ken.core.seeding import derive_seed
from ken.metrics.decision import Matcher
from ken.models import Model, load_model
from ken.models.lab import CHECKPOINTS
from ken.models.local import LAB_MANIFEST, LocalModel
from ken.papers.recipe import Learning, Recipe, Stage, Trainee, is_address
from ken.papers.recipes import recipe_of
from ken.papers.work import Log, Workshop
from ken.sources import Sources
from ken.sources.tools.search_tool import CachedRetriever
from ken.training.trackers import Tracker, check_tracker, tracker

if TYPE_CHECKING:
    from ken.training.labels.solve_rate import SolveRates
    from ken.training.monitors import Alarm

RUN, QUESTIONS, ANSWERS, SOLVE_RATES, MODEL = (
    "run.json",
    "questions.jsonl",
    "answers.jsonl",
    "solve-rates.jsonl",
    "model",
)


class TrainingRun(Frozen):
    """What a training was asked to do, as run.json keeps it: enough to go on with it from anywhere on this machine.

    model, index: with folders as absolute paths; "" where the recipe does not search. options: of the recipe, all of
    them. version: of Ken that began it.
    """

    paper: str
    model: str
    index: str
    options: dict[str, Any]
    log_to: Tracker | None = None
    version: str = ken.__version__


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is: in `stage`, done with `step` of `steps`. statistics: of that step; {} while something is
    sampled, when steps are questions.
    """

    stage: str
    step: int
    steps: int
    statistics: Mapping[str, float]


@dataclass(slots=True)
class Trained:
    """How a training went. model: the folder of the trained model, None when it was interrupted. logs: by stage."""

    out: Path
    settings: TrainingRun
    model: Path | None = None
    logs: dict[str, Log] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        return self.model is None


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told: of every step, of what a person should know, and of every alarm of the collapse monitors."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_note: Callable[[str], None] = lambda note: None
    on_alarm: Callable[[Alarm], None] = lambda alarm: None


def train_on(
    paper: str,
    *,
    model: str,
    questions: str | Path | Iterable[Question],
    index: str | Path = "",
    out: str | Path,
    log_to: Tracker | None = None,
    device: str | None = None,
    api_key: str | None = None,
    listener: Listener = Listener(),
    **options: Any,
) -> Trained:
    """Train `model` by a paper's recipe; `out`/model is then a model as `hf/OUT/model`.

    paper: slug, name or number of one with a recipe (`ken.papers.recipes.RECIPES`). model: hf/NAME_OR_PATH or
    lab/NAME. questions: a file or `Question`s, as the recipe needs them (`Recipe.file`). index: a folder or the address
    of a /retrieve service, for a recipe that searches. log_to: "tensorboard" or "trackio". api_key: of the models that
    help (default: $OPENAI_API_KEY); it is not written down. options: of the recipe.

    Called again with the same settings it goes on where it was interrupted, as `resume` does. Raises `BadInput` for
    what cannot work as given, a model that writes no tags among it, `SourceError` when the search engine does not
    answer, and as `ken.training.train.train`. Nothing is written before the input has been checked.
    """
    recipe, folder = recipe_of(paper), Path(out)
    spec, lab = _named(model)
    chosen = recipe.chosen(options, lab=lab)
    _check_index(recipe, chosen, index)
    settings = TrainingRun(
        paper=recipe.slug,
        model=spec,
        index=str(index) if not index or is_address(index) else str(Path(index).absolute()),
        options=chosen.model_dump(mode="json"),
        log_to=log_to,
    )
    asked = list(recipe.questions_in(Path(questions)) if isinstance(questions, str | Path) else questions)
    if not asked:
        raise BadInput("there are no questions to train on; give at least one")
    recipe.fit(asked, chosen)
    known = _claimed(folder, settings, asked)
    return _trained(folder, settings, recipe, chosen, asked, device, api_key, listener, new=not known)


def resume(
    out: str | Path, *, device: str | None = None, api_key: str | None = None, listener: Listener = Listener()
) -> Trained:
    """Go on with the training in `out`; one that is finished is returned as it is. Raises as `train_on`."""
    folder = Path(out)
    settings = read_run(folder)
    recipe = recipe_of(settings.paper)
    if (folder / MODEL).is_dir():
        return Trained(folder, settings, model=folder / MODEL)
    asked = list(read_questions(folder / QUESTIONS))
    chosen = recipe.chosen(settings.options)
    return _trained(folder, settings, recipe, chosen, asked, device, api_key, listener, new=False)


def read_run(out: Path) -> TrainingRun:
    """The settings of the training in `out`. Raises `BadInput` when there is none."""
    path = out / RUN
    if not path.is_file():
        raise BadInput(f"{out} holds no training (there is no {RUN}); name the --out folder of `ken train`")
    try:
        return TrainingRun.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = f"{path} cannot be read ({error.errors()[0]['msg']}); it was edited or is of another version"
        raise BadInput(problem) from error


# --- before the first step
# -------------------------------------------------------------------------------------------------------------------


def _named(model: str) -> tuple[str, bool]:
    """The spec with an absolute path, and whether the model is one of the lab. Raises `BadInput` for a model that is
    not in this process."""
    kind, _, name = model.strip().partition("/")
    if kind not in {"hf", "lab"} or not name:
        raise BadInput(
            f"{model!r} cannot be trained; give hf/NAME_OR_PATH (transformers) or lab/NAME, whose weights are here"
        )
    path = Path(name)
    shipped = kind == "lab" and "/" not in name and (CHECKPOINTS / name).is_dir()
    if path.is_dir() and not shipped:
        return f"{kind}/{path.absolute()}", kind == "lab" or (path / LAB_MANIFEST).is_file()
    return f"{kind}/{name}", kind == "lab"


def _check_index(recipe: Recipe, options: Learning, index: str | Path) -> None:
    searches = recipe.needs_index(options.model_dump())
    if searches and not index:
        raise BadInput("a training searches; name an index with --index DIR or a /retrieve service with --index URL")
    if index and not searches:
        who = f"{recipe.slug} without --search" if recipe.searches else recipe.slug
        raise BadInput(f"{who} does not search, so that an index is of no use to it; leave --index out")


def _claimed(folder: Path, settings: TrainingRun, asked: Sequence[Question]) -> bool:
    """Whether `folder` already holds this very run. Raises `BadInput` when it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; name a folder with --out")
    if not (folder / RUN).is_file():
        if folder.is_dir() and any(entry.name != f".{RUN}.tmp" for entry in folder.iterdir()):
            raise BadInput(f"{folder} is not empty and holds no training; choose another --out")
        return False
    before = read_run(folder)
    old, new = ({**s.model_dump(exclude={"options", "version"}), **s.options} for s in (before, settings))
    changed = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in new if old.get(name) != new.get(name)
    ]
    if not changed and _lines(asked) != (folder / QUESTIONS).read_bytes():
        changed = ["the questions or their answers are others"]
    if changed:
        raise BadInput(f"{folder} holds another training ({'; '.join(changed)}); choose another --out, or delete it")
    return True


def _lines(questions: Iterable[Question]) -> bytes:
    """Questions as a FlashRAG file."""
    records = (
        {"id": q.id, "question": q.text, "golden_answers": list(q.answers), "metadata": q.meta} for q in questions
    )
    return "".join(json.dumps(record) + "\n" for record in records).encode()


# --- stages
# -------------------------------------------------------------------------------------------------------------------


def _trained(  # noqa: PLR0917
    folder: Path,
    settings: TrainingRun,
    recipe: Recipe,
    options: Learning,
    asked: Sequence[Question],
    device: str | None,
    api_key: str | None,
    listener: Listener,
    *,
    new: bool,
) -> Trained:
    """All stages that are not done yet; of a new training, the folder once the input is known to be fit."""
    if settings.log_to:
        check_tracker(settings.log_to)
    if options.vllm and find_spec("vllm") is None:
        raise Unsupported(
            "vllm is not installed; install it on a machine with GPUs (pip install vllm), or leave it out"
        )
    listener = listener if _first() else Listener()
    helpers = _Helpers(options, api_key)
    sources = _sources(settings.index, options)
    try:
        admitted = recipe.admit(asked, settings.index, listener.on_note)
        stages = recipe.stages(options)
        places = [*(folder / stage.name for stage in stages[:-1]), folder]
        done = sum((place / MODEL).is_dir() for place in places)
        policy = _loaded(f"hf/{places[done - 1] / MODEL}" if done else settings.model, options, device)
        course = _Course(folder, settings, options, admitted, sources, policy, helpers, listener)
        if new and _first():
            course.check(stages)
            course.begin(asked)
        result = Trained(folder, settings)
        for stage, place in list(zip(stages, places, strict=True))[done:]:
            log = result.logs[stage.name] = course.run(stage, place)
            if log.interrupted:
                return result
        result.model = folder / MODEL
        return result
    finally:
        helpers.close()
        if sources.search is not None:
            run(sources.search.close())


def _sources(index: str, options: Learning) -> Sources:
    """Where rollouts search, behind a memory if they are to have one."""
    sources = open_sources(index or None, getattr(options, "top_k", 1))
    near = getattr(options, "search_cache", 0.0)
    if sources.search is None or not near:
        return sources
    return replace(sources, search=CachedRetriever(sources.search, fuzzy=near if near < 1 else None))


class _Helpers:
    """The models that help in a training, such as a teacher, each loaded once. api_key: of those behind a server."""

    def __init__(self, options: Learning, api_key: str | None) -> None:
        self._remote = {"base_url": options.helpers_url, "api_key": api_key}
        self._loaded: dict[str, Model] = {}

    def __call__(self, spec: str) -> Model:
        """The model of a spec. Raises as `load_model`."""
        if spec not in self._loaded:
            self._loaded[spec] = load_model(spec, **(self._remote if spec.startswith("openai/") else {}))
        return self._loaded[spec]

    def close(self) -> None:
        """Close their connections."""
        for model in self._loaded.values():
            run(model.close())


@dataclass(frozen=True, slots=True)
class _Course:
    """A training under way."""

    folder: Path
    settings: TrainingRun
    options: Learning
    asked: Sequence[Question]
    sources: Sources
    policy: LocalModel
    beside: _Helpers
    listener: Listener

    def check(self, stages: Sequence[Stage]) -> None:
        """Raises `SourceError` or `BadInput` for a search engine or a model with which nothing could be learnt."""
        from ken.training.preflight import check_model, check_search, check_tags

        for spec in self.options.helpers:
            check_model(self.beside(spec))
        strategies = {strategy.name: strategy for stage in stages for strategy in stage.strategies}
        check_search(self.sources, self.asked[0].text)
        for stage in stages:
            stage.check(self.trainee(self.folder))
        check_tags(
            self.policy,
            self.asked,
            list(strategies.values()),
            self.sources,
            self.options.sampling().but(seed=derive_seed("preflight", self.options.seed)),
        )

    def begin(self, asked: Sequence[Question]) -> None:
        """Write down what is to be done; run.json last, so that a folder with it is whole."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / QUESTIONS, _lines(asked))
            write_whole(self.folder / RUN, self.settings.model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            raise BadInput(
                f"{self.folder} cannot be written ({error.strerror or error}); choose another --out"
            ) from error

    def run(self, stage: Stage, place: Path) -> Log:
        """One stage, from its last checkpoint if there is one."""
        self.listener.on_note(f"{stage.name}: {stage.text}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("always", RuntimeWarning)
            work = stage.work(self.trainee(place))
        for warning in caught:
            if issubclass(warning.category, UserWarning | RuntimeWarning):
                self.listener.on_note(f"WARNING: {warning.message}")
        name = f"{self.settings.paper}/{self.folder.absolute().name}/{stage.name}"
        log_to = self.settings.log_to if _first() else None
        with tracker(log_to, folder=place, run=name, settings=self.settings.options) as track:

            def on_step(step: int, steps: int, statistics: Mapping[str, float]) -> None:
                track(step, statistics)
                self.listener.on_progress(Progress(stage.name, step, steps, statistics))

            log = work.run(Workshop(self.policy, self.sources, place, on_step, self.listener.on_alarm))
        if told := work.told():
            self.listener.on_note(told)
        return log

    def trainee(self, place: Path) -> Trainee:
        """What a stage with this folder is made from."""
        return Trainee(
            self.policy,
            self.asked,
            self.solve_rates,
            place,
            self.settings.index,
            self.sources,
            self.beside,
            lambda done, total: self.listener.on_progress(Progress("samples", done, total, {})),
            self.listener.on_note,
        )

    def solve_rates(self, samples: int, matcher: Matcher) -> SolveRates:
        """Of the policy as it is now. What was sampled before an interruption is not sampled again."""
        from accelerate import PartialState

        from ken.training.labels.solve_rate import measure_solve_rates, write_solve_rates

        sampling = self.options.sampling().but(temperature=1.0, seed=derive_seed("solve rate", self.options.seed))
        with PartialState().main_process_first():
            measured = run(
                measure_solve_rates(
                    self.policy,
                    self.asked,
                    samples=samples,
                    matcher=matcher,
                    sampling=sampling,
                    cache=self.folder / ANSWERS,
                    on_progress=lambda done, total: self.listener.on_progress(Progress("labels", done, total, {})),
                )
            )
            if _first():
                write_solve_rates(self.folder / SOLVE_RATES, self.asked, measured)
        counts = ", ".join(f"{count:,}" for count in measured.histogram())
        self.listener.on_note(f"questions answered alone 0 to {samples} times of {samples}: {counts}")
        return measured


def _loaded(spec: str, options: Learning, device: str | None) -> LocalModel:
    """The model to train: float32 weights, on this process's own device."""
    if spec.startswith("lab/"):
        loaded = load_model(spec, device=device)
    else:
        loaded = load_model(spec, device=device or _device(), dtype="float32", batch_size=options.batch_size)
    assert isinstance(loaded, LocalModel)
    return loaded


def _device() -> str | None:
    """This process's GPU where several processes train together; None leaves the choice to the model."""
    from accelerate import PartialState

    state = PartialState()
    return str(state.device) if state.num_processes > 1 else None


def _first() -> bool:
    """Whether this process speaks and writes for all that train together."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
