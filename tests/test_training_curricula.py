"""Curricula make it harder when it goes well, ask what teaches most, and go on after a stop as if there was none."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ken.agents import Direct, Rag, SearchLoop
from ken.core import Answer, BadInput, Passage, Question, Trajectory
from ken.metrics import exact_match
from ken.models.scripted import ScriptedModel
from ken.sources import Retriever, Sources
from ken.training.curricula import (
    AtGapLevel,
    Curriculum,
    GapLevel,
    GapScheduler,
    GaussianAccuracySampler,
    LevelChange,
    ObservationGraph,
    ObservedOnlySampler,
    RetrievalEditor,
    StuckCurriculum,
    UniformSampler,
    gap_table,
    gaussian_weights,
    gold_passages,
    propagate,
)
from ken.training.rollouts import Group, Task, Tasks

# --- the gap table and the editor


def test_the_gap_table_is_that_of_the_card() -> None:
    assert gap_table(6) == (
        GapLevel(1, gold=True),
        GapLevel(1, gold=True),
        GapLevel(2, gold=True),
        GapLevel(3, gold=True),
        GapLevel(4, gold=True),
        GapLevel(5, gold=True),
        GapLevel(5, gold=False),
    )
    assert [level.keep for level in gap_table(6, extra=1)] == [1, 2, 3, 4, 5, 6, 6]
    assert gap_table(1) == (GapLevel(1, gold=True), GapLevel(1, gold=False))


@pytest.mark.parametrize("bad", [lambda: gap_table(0), lambda: gap_table(3, extra=-1), lambda: GapLevel(0, gold=True)])
def test_impossible_tables_are_refused(bad: Any) -> None:
    with pytest.raises(BadInput):
        bad()


class Ranked:
    """Always the same ranking; notes how many were asked for."""

    name = "ranked"

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages, self.asked = list(passages), []

    async def search(self, query: str, k: int) -> list[Passage]:
        self.asked.append(k)
        return self.passages[:k]

    async def close(self) -> None:
        raise AssertionError("the engine is its owner's to close")


OTHERS = [Passage(id=f"other{i}", text=f"other text {i}") for i in range(10)]
GOLD = Passage(id="gold", text="the gold text")


def edited(
    level: GapLevel, ranking: Sequence[Passage], *, golds: Sequence[Passage] = (GOLD,), seed: int = 0
) -> list[str]:
    editor = RetrievalEditor(Ranked(ranking), golds, level, seed=seed)
    assert isinstance(editor, Retriever)
    found = asyncio.run(editor.search("q", 3))
    asyncio.run(editor.close())
    return [passage.id for passage in found]


@pytest.mark.parametrize("place", [0, 2, 9, None])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_with_gold_there_are_k_candidates_and_the_gold_among_them_wherever_it_ranked(
    place: int | None, keep: int
) -> None:
    ranking = list(OTHERS)
    if place is not None:
        ranking.insert(place, GOLD)
    found = edited(GapLevel(keep, gold=True), ranking)
    assert found.count("gold") == 1
    assert [name for name in found if name != "gold"] == [p.id for p in OTHERS[: keep - 1]], "the best others, in order"


def test_at_the_last_level_the_result_is_untouched() -> None:
    assert edited(GapLevel(5, gold=False), OTHERS) == [p.id for p in OTHERS[:5]]


def test_the_gold_alone_needs_no_search() -> None:
    engine = Ranked(OTHERS)
    found = asyncio.run(RetrievalEditor(engine, [GOLD], GapLevel(1, gold=True)).search("q", 3))
    assert (found, engine.asked) == ([GOLD], [])


def test_the_place_of_the_gold_is_uniform_over_seeds_and_fixed_for_one() -> None:
    level = GapLevel(5, gold=True)
    places = Counter(edited(level, OTHERS, seed=seed).index("gold") for seed in range(500))
    assert stats.chisquare([places[i] for i in range(5)]).pvalue > 0.001
    assert edited(level, OTHERS, seed=7) == edited(level, OTHERS, seed=7)


def test_several_golds_are_all_forced_in_beside_the_candidates() -> None:
    second = Passage(id="gold2", text="the second hop")
    found = edited(GapLevel(3, gold=True), [GOLD, *OTHERS], golds=(GOLD, second))
    assert sorted(found) == ["gold", "gold2", "other0", "other1"]


def test_a_level_with_gold_needs_one() -> None:
    with pytest.raises(BadInput, match="needs one"):
        RetrievalEditor(Ranked(OTHERS), [], GapLevel(2, gold=True))


def asks(name: str, *documents: str, answer: str = "x") -> Question:
    return Question(id=name, text=f"{name}?", answers=(answer,), meta={"supporting_ids": list(documents)})


def test_the_gold_of_a_document_is_its_passage_that_tells_the_answer() -> None:
    corpus = [
        Passage(id="d#0", document="d", text="about something else"),
        Passage(id="d#1", document="d", text="the Elbe ends in the North Sea"),
        Passage(id="e", text="a hop without the answer"),
    ]
    golds = gold_passages([asks("a", "d", answer="North Sea"), asks("b", "d", "e", answer="nowhere")], iter(corpus))
    assert [p.id for p in golds["a"]] == ["d#1"]
    assert [p.id for p in golds["b"]] == ["d#0", "e"]


def test_questions_without_gold_are_refused_at_load_with_their_ids() -> None:
    questions = [asks("fine", "other1"), asks("none"), asks("gone", "other1", "lost")]
    with pytest.raises(BadInput, match=r"2 of 3 questions have no gold passage in the corpus \(none, gone\)"):
        gold_passages(questions, OTHERS)


# --- the strategy at a level


def answering() -> ScriptedModel:
    """Right when a gold text is in front of it."""
    return ScriptedModel(lambda prompt: f"<answer> {'yes' if 'gold text' in prompt else 'no'} </answer>")


def test_a_strategy_at_a_level_sees_the_edited_result_and_keeps_its_name() -> None:
    question = asks("q", "gold", answer="yes")
    strategy = AtGapLevel(Rag(), {"q": (GOLD,)}, GapLevel(3, gold=True), seed=1)
    sources = Sources(search=Ranked(OTHERS), top_k=2)
    done = asyncio.run(strategy.run(question, answering(), sources))
    assert (done.strategy, strategy.needs_search, done.answer) == ("rag", True, "yes")
    assert sorted(p.id for p in done.passages) == ["gold", "other0", "other1"]
    real = asyncio.run(AtGapLevel(Rag(), {}, GapLevel(5, gold=False)).run(question, answering(), sources))
    assert (real.answer, len(real.passages)) == ("no", 5)
    assert isinstance(sources.search, Ranked), "the sources that others share are as they were"


def test_all_rollouts_of_a_group_read_the_same_and_every_search_of_a_loop_is_edited() -> None:
    question, golds = asks("q", "gold", answer="yes"), {"q": (GOLD,)}
    strategy = AtGapLevel(Rag(), golds, GapLevel(5, gold=True), seed=3)
    orders = {
        tuple(
            p.id
            for p in asyncio.run(strategy.run(question, answering(), Sources(search=Ranked(OTHERS)), sample=i)).passages
        )
        for i in range(8)
    }
    assert len(orders) == 1

    def loop(prompt: str) -> str:
        searched = prompt.count("</information>")
        return "<answer> yes </answer>" if searched > 2 else f"<search> try {searched} </search>"

    looped = AtGapLevel(SearchLoop(), golds, GapLevel(2, gold=True))
    done = asyncio.run(looped.run(question, ScriptedModel(loop), Sources(search=Ranked(OTHERS))))
    observations = [{p.id for p in step.passages} for step in done.steps if step.kind == "observation"]
    assert len(done.searches) == len(observations) > 0
    assert all(found == {"gold", "other0"} for found in observations)


# --- the scheduler


def test_the_level_rises_when_a_full_window_exceeds_the_threshold_and_the_window_is_cleared() -> None:
    scheduler = GapScheduler(window=4, threshold=0.55, levels=2)
    assert not scheduler.observe(0, [1, 1, 1]), "not full"
    assert scheduler.observe(1, [1, 0, 0, 0]), "on the fourth; the rest of the step belongs to the level left behind"
    assert (scheduler.level, scheduler.accuracy) == (1, None)
    assert not scheduler.observe(2, [0.55] * 8), "0.55 does not exceed 0.55"
    assert scheduler.observe(3, [0.75])
    assert scheduler.changes == [LevelChange(1, 1, 1.0), LevelChange(3, 2, pytest.approx(0.6))]
    assert not scheduler.observe(4, [1] * 50), "there is no level above the last"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.finish()


def test_the_window_slides() -> None:
    scheduler = GapScheduler(window=4, threshold=0.55)
    assert not scheduler.observe(0, [0, 0, 0, 0, 1, 1])
    assert scheduler.accuracy == 0.5
    assert scheduler.observe(1, [1])


def test_with_32_questions_a_step_the_cards_window_fills_in_the_tenth() -> None:
    scheduler = GapScheduler()
    assert (scheduler.window, scheduler.threshold, scheduler.levels) == (300, 0.55, 6)
    rose = [scheduler.observe(step, [0.75] * 32) for step in range(10)]
    assert rose == [False] * 9 + [True]


def test_a_threshold_never_reached_is_told_at_the_end() -> None:
    scheduler = GapScheduler(window=2)
    scheduler.observe(0, [0.25, 0.25])
    with pytest.warns(StuckCurriculum, match=r"gap level 0 of 6 \(accuracy there is 0\.25, the threshold 0\.55\)"):
        scheduler.finish()


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0},
        {"threshold": 1},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"levels": 0},
        {"window": 0},
    ],
)
def test_schedules_that_cannot_be_are_refused(options: Any) -> None:
    with pytest.raises(BadInput):
        GapScheduler(**options)


@pytest.mark.parametrize("value", [-0.1, 1.6, float("nan")])
def test_an_accuracy_lies_between_0_and_1(value: float) -> None:
    with pytest.raises(BadInput, match="accuracy"):
        GapScheduler().observe(0, [value])


@given(st.lists(st.lists(st.floats(0, 1), max_size=6), max_size=12), st.integers(0, 12))
def test_a_scheduler_restored_from_json_goes_on_as_the_first(steps: list[list[float]], stop: int) -> None:
    def new() -> GapScheduler:
        return GapScheduler(window=5, threshold=0.5, levels=3)

    straight, before, after = new(), new(), new()
    for step, values in enumerate(steps[:stop]):
        straight.observe(step, values)
        before.observe(step, values)
    after.restore(json.loads(json.dumps(before.state())))
    for step, values in enumerate(steps[stop:], start=stop):
        assert straight.observe(step, values) == after.observe(step, values)
    assert after.state() == straight.state()


def test_a_state_of_a_longer_curriculum_is_refused() -> None:
    long = GapScheduler(window=2)
    for step in range(3):
        long.observe(step, [1, 1])
    with pytest.raises(BadInput, match="at level 3"):
        GapScheduler(window=2, levels=2).restore(long.state())


# --- the graph


WORDS = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "a", "of", "it", "zeta", "eta"]), max_size=8).map(
    " ".join
)


@given(st.lists(WORDS, min_size=1, max_size=12))
def test_tf_idf_similarities_are_those_of_scikit_learn(texts: list[str]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    graph = ObservationGraph.from_texts(texts, neighbours=len(texts))
    if not any(len(word) > 1 for text in texts for word in text.split()):
        assert graph.isolated.all()
        return
    rows = TfidfVectorizer().fit_transform(texts)
    cosines = (rows @ rows.T).toarray()
    np.fill_diagonal(cosines, 0)
    totals = cosines.sum(axis=1, keepdims=True)
    wanted = np.divide(cosines, totals, out=np.zeros_like(cosines), where=totals > 0)
    ours = np.array([[graph.neighbours(i).get(j, 0.0) for j in range(len(texts))] for i in range(len(texts))])
    np.testing.assert_allclose(ours, wanted, atol=1e-9)


def test_rows_are_normalised_after_the_cut() -> None:
    texts = ["river sea", "river sea", "river delta", "river desert", "mountain"]
    graph = ObservationGraph.from_texts(texts, neighbours=2)
    rows = [graph.neighbours(i) for i in range(5)]
    assert [len(row) for row in rows] == [2, 2, 2, 2, 0]
    assert [sum(row.values()) for row in rows[:4]] == pytest.approx([1.0] * 4)
    assert next(iter(rows[0])) == 1, "the most similar first"
    assert all(i not in row for i, row in enumerate(rows)), "nobody is a neighbour of oneself"
    assert graph.isolated.tolist() == [False, False, False, False, True]


def test_embeddings_work_as_well_and_opposite_ones_are_no_neighbours() -> None:
    graph = ObservationGraph.from_vectors([[1, 0], [2, 0.1], [-1, 0], [0, 0]], neighbours=3)
    assert graph.neighbours(0) == {1: 1.0}
    assert graph.isolated.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: ObservationGraph.from_texts([]),
        lambda: ObservationGraph.from_texts(["a"], neighbours=0),
        lambda: ObservationGraph.from_vectors([1.0, 2.0]),
        lambda: ObservationGraph.from_vectors([[float("nan")]]),
    ],
)
def test_graphs_of_nothing_are_refused(bad: Any) -> None:
    with pytest.raises(BadInput):
        bad()


# --- propagation

CHAIN = ObservationGraph.from_vectors(np.eye(4)[[0, 0, 1, 3]] + np.eye(4)[[1, 1, 1, 3]], neighbours=3)


def test_the_first_iteration_is_the_formula_by_hand() -> None:
    # 0 and 1 are equal, 2 is at 45°, 3 alone: K row 0 = (0, 1, √½, 0)/(1 + √½), row 2 = (½, ½, 0, 0)
    near, far = 1 / (1 + 0.5**0.5), 0.5**0.5 / (1 + 0.5**0.5)
    assert CHAIN.neighbours(0) == pytest.approx({1: near, 2: far})
    done = propagate(CHAIN, [1.0, 0.0, 0.0, 0.0], [True, False, False, False], max_iterations=1)
    assert done.estimates == pytest.approx([1.0, 0.8 * (near + far * 0.5) + 0.2 * 0.5, 0.8 * 0.75 + 0.2 * 0.5, 0.5])
    assert (done.iterations, done.converged) == (1, False)


def test_it_converges_to_the_solution_of_the_linear_system() -> None:
    done = propagate(CHAIN, [1.0, 0.2, 0.0, 0.0], [True, True, False, False], max_iterations=500, eps=1e-10)
    assert done.converged
    assert done.change < 1e-10
    k = np.array([[CHAIN.neighbours(i).get(j, 0.0) for j in range(4)] for i in range(4)])
    start = np.array([1.0, 0.2, 0.5, 0.5])
    solution = np.linalg.solve(np.eye(4) - 0.8 * k, 0.2 * start)
    assert done.estimates[2] == pytest.approx(solution[2])
    assert done.estimates[[0, 1]] == pytest.approx([1.0, 0.2]), "observed entries keep their value"
    assert done.estimates[3] == 0.5, "an isolated node keeps its prior"


@st.composite
def observations(draw: Any) -> tuple[ObservationGraph, np.ndarray, np.ndarray]:
    vectors = draw(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=10))
    accuracies = draw(st.lists(st.floats(0, 1), min_size=len(vectors), max_size=len(vectors)))
    mask = draw(st.lists(st.booleans(), min_size=len(vectors), max_size=len(vectors)))
    return ObservationGraph.from_vectors(vectors, neighbours=3), np.array(accuracies), np.array(mask)


@given(observations(), st.floats(0, 1), st.floats(0, 1))
def test_estimates_stay_between_the_extremes_and_observed_and_isolated_ones_as_they_are(
    given_: tuple[ObservationGraph, np.ndarray, np.ndarray], alpha: float, prior: float
) -> None:
    graph, accuracies, mask = given_
    unread = np.where(mask, accuracies, np.nan)
    done = propagate(graph, unread, mask, alpha=alpha, prior=prior)
    values = [*accuracies[mask], prior]
    assert min(values) - 1e-9 <= done.estimates.min() <= done.estimates.max() <= max(values) + 1e-9
    assert (done.estimates[mask] == accuracies[mask]).all()
    assert (done.estimates[graph.isolated & ~mask] == prior).all()
    assert 1 <= done.iterations <= 10
    if not mask.any():
        assert done.converged, "nothing to spread"


@pytest.mark.parametrize(
    "options",
    [{"alpha": 1.1}, {"alpha": -0.1}, {"max_iterations": 0}, {"eps": 0}, {"accuracies": [1.0]}, {"observed": [True]}],
)
def test_propagations_that_cannot_be_are_refused(options: Any) -> None:
    arguments = {"accuracies": [1.0, 0, 0, 0], "observed": [True, False, False, False], **options}
    with pytest.raises(BadInput):
        propagate(CHAIN, arguments.pop("accuracies"), arguments.pop("observed"), **arguments)
    with pytest.raises(BadInput, match="nan"):
        propagate(CHAIN, [float("nan"), 0, 0, 0], [True, False, False, False])


def families(seed: int, *, members: int = 25, count: int = 24) -> tuple[list[str], np.ndarray]:
    """Articles of families that share words; difficulty belongs to the family, with noise of its own per sample."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.1, 0.9, count)
    texts, truth = [], []
    for family in range(count):
        for _ in range(members):
            shared = [f"family{family}word{i}" for i in rng.integers(12, size=5)]
            common = [f"common{i}" for i in rng.integers(60, size=15)]
            texts.append(" ".join([*shared, *common]))
            truth.append(np.clip(base[family] + rng.normal(0, 0.12), 0, 1))
    return texts, np.array(truth)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_propagation_knows_the_difficulty_of_questions_never_tried(seed: int) -> None:
    texts, truth = families(seed)
    graph = ObservationGraph.from_texts(texts, neighbours=100)
    rng = np.random.default_rng(seed)
    mask = rng.random(truth.size) < 0.2
    seen = rng.binomial(4, truth) / 4  # four rollouts each
    unseen = propagate(graph, seen, mask).estimates[~mask]
    assert stats.spearmanr(unseen, truth[~mask]).statistic >= 0.25
    shuffled = propagate(graph, rng.permutation(seen), mask).estimates[~mask]
    assert abs(stats.spearmanr(shuffled, truth[~mask]).statistic) < 0.25, "without the link there is nothing to know"
    without = propagate(graph, seen, mask, alpha=0).estimates[~mask]
    assert set(without) == {0.5}, "by construction"


# --- the samplers


def test_the_weights_are_gaussian_around_one_half() -> None:
    weights = gaussian_weights(np.array([0.5, 0.35, 0.65, 0.0, 1.0]))
    assert weights == pytest.approx([1.0, np.exp(-0.5), np.exp(-0.5), np.exp(-50 / 9), np.exp(-50 / 9)])
    with pytest.raises(BadInput, match="sigma"):
        gaussian_weights(np.array([0.5]), 0)


def test_first_draws_follow_the_weights() -> None:
    estimates = np.array([0.5, 0.4, 0.2, 0.8, 1.0])
    sampler, rng = GaussianAccuracySampler(0.2), np.random.default_rng(0)
    counts = Counter(int(sampler(estimates, estimates > 2, 1, rng)[0]) for _ in range(4000))
    weights = gaussian_weights(estimates, 0.2)
    assert stats.chisquare([counts[i] for i in range(5)], 4000 * weights / weights.sum()).pvalue > 0.001


def test_a_narrow_gaussian_does_not_underflow() -> None:
    estimates = np.array([0.0, 1.0, 0.1, 0.9])
    assert set(GaussianAccuracySampler(1e-3)(estimates, estimates > 2, 2, np.random.default_rng(0))) == {2, 3}


SAMPLERS = [GaussianAccuracySampler(), UniformSampler(), ObservedOnlySampler(), ObservedOnlySampler(explore=0.0)]


@given(
    st.sampled_from(SAMPLERS),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 5),
    st.data(),
)
def test_a_draw_is_without_replacement_complete_and_told_by_its_seed(
    sampler: Any, pairs: list[tuple[float, bool]], seed: int, data: Any
) -> None:
    estimates, observed = np.array([e for e, _ in pairs]), np.array([o for _, o in pairs])
    count = data.draw(st.integers(1, len(pairs)))
    drawn = sampler(estimates, observed, count, np.random.default_rng(seed))
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert set(drawn.tolist()) <= set(range(len(pairs)))
    assert drawn.tolist() == sampler(estimates, observed, count, np.random.default_rng(seed)).tolist()


def test_the_observed_only_sampler_explores_a_share_and_fills_up_from_the_untried() -> None:
    observed = np.arange(20) < 10
    estimates = np.where(observed, 0.5, 0.5)
    rng = np.random.default_rng(0)
    assert [int(observed[ObservedOnlySampler(explore=e)(estimates, observed, 8, rng)].sum()) for e in (0, 0.5, 1)] == [
        8,
        4,
        0,
    ]
    assert observed[ObservedOnlySampler(explore=0)(estimates, observed, 16, rng)].sum() == 10
    assert observed[ObservedOnlySampler(explore=1)(estimates, observed, 16, rng)].sum() == 6


@pytest.mark.parametrize(
    "bad",
    [
        lambda: GaussianAccuracySampler(0),
        lambda: GaussianAccuracySampler(float("nan")),
        lambda: ObservedOnlySampler(-1),
        lambda: ObservedOnlySampler(explore=2),
    ],
)
def test_samplers_that_cannot_be_are_refused(bad: Any) -> None:
    with pytest.raises(BadInput):
        bad()


# --- the curriculum as a stream of tasks

N = 60
UNITS = [Task(asks(f"q{i}", f"doc{i}", answer="yes"), Rag()) for i in range(N)]
GOLDS = {f"q{i}": (Passage(id=f"doc{i}", text=f"gold text {i}"),) for i in range(N)}
TEXTS = [f"family{i % 6} words of family{i % 6}" for i in range(N)]


def curriculum(**options: Any) -> Curriculum:
    settings = {
        "golds": GOLDS,
        "scheduler": GapScheduler(window=10, threshold=0.55, levels=6),
        "graph": ObservationGraph.from_texts(TEXTS, neighbours=20),
        **options,
    }
    return Curriculum(UNITS, **settings)


def attempts(unit: Sequence[Task], right: Sequence[bool], *, error: str | None = None) -> Group:
    steps = [Answer(text="yes" if r else "no") for r in right]
    done = (Trajectory(question=unit[0].question, strategy="rag", steps=(s,), error=error) for s in steps)
    return Group(unit[0], tuple(done))


def tell(stream: Curriculum, step: int, units: Sequence[Sequence[Task]], share: float, n: int = 4) -> None:
    groups = [attempts(unit, [i < share * n for i in range(n)]) for unit in units]
    stream.observe(step, groups, [[float(i < share * n) for i in range(n)] for _ in groups])


def ids(units: Sequence[Sequence[Task]]) -> list[str]:
    return [unit[0].question.id for unit in units]


def test_a_curriculum_is_a_stream_of_tasks_whose_searches_are_at_its_level() -> None:
    stream = curriculum()
    assert isinstance(stream, Tasks)
    units = stream.draw(0, 8)
    assert len(set(ids(units))) == 8
    strategies = [unit[0].strategy for unit in units]
    assert all(isinstance(s, AtGapLevel) and s.level == GapLevel(1, gold=True) for s in strategies)
    done = [
        asyncio.run(unit[0].strategy.run(unit[0].question, answering(), Sources(search=Ranked(OTHERS))))
        for unit in units
    ]
    assert all(d.answer == "yes" and len(d.passages) == 1 for d in done), "the gold passage alone"


def test_from_reading_to_real_retrieval_the_level_rises_with_success_and_observations_are_cleared() -> None:
    stream, engine = curriculum(), Sources(search=Ranked(OTHERS))
    levels, seen = [], []
    for step in range(20):
        units = stream.draw(step, 8)
        done = [asyncio.run(unit[0].strategy.run(unit[0].question, answering(), engine)) for unit in units]
        levels.append(stream.scheduler.level)
        seen.append(len(done[0].passages))
        groups = [Group(unit[0], (trajectory,)) for unit, trajectory in zip(units, done, strict=True)]
        before = stream.scheduler.level
        stream.observe(
            step, groups, [[float(exact_match(t.answer, t.question.answers)) for t in g.trajectories] for g in groups]
        )
        if stream.scheduler.level > before:
            assert not stream.observed.any(), "accuracies of an easier level would mislead"
            assert stream.estimates == pytest.approx(0.5)
    assert levels == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, *[6] * 8]
    assert seen == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, *[5] * 8]
    assert [change.level for change in stream.scheduler.changes] == [1, 2, 3, 4, 5, 6]
    assert stream.report()["window_accuracy"] == 0.0, "this engine never finds the gold"
    stream.finish()


def test_what_is_near_one_half_is_drawn_most_also_when_it_was_never_tried() -> None:
    stream = curriculum(scheduler=None, sampler=GaussianAccuracySampler(0.05))
    easy, middle = [i for i in range(N) if i % 6 == 0], [i for i in range(N) if i % 6 == 1]
    tell(stream, 0, [(UNITS[i],) for i in easy[:5]], 1.0)
    tell(stream, 0, [(UNITS[i],) for i in middle[:5]], 0.5)
    assert stream.estimates[easy[5:]].min() > 0.6
    assert stream.estimates[middle[5:]] == pytest.approx(0.5, abs=0.02), "some words are shared by all"
    drawn = Counter(name for step in range(1, 60) for name in ids(stream.draw(step, 10)))
    assert sum(drawn[f"q{i}"] for i in easy[5:]) < 0.1 * sum(drawn[f"q{i}"] for i in middle[5:])
    report = stream.report()
    assert report["observed_share"] == pytest.approx(10 / N)
    assert 1 <= report["propagation_iterations"] <= 10


def test_without_a_graph_questions_never_tried_keep_the_prior() -> None:
    stream = curriculum(graph=None)
    tell(stream, 0, [(UNITS[0],)], 0.25)
    assert stream.estimates[0] == 0.25
    assert set(stream.estimates[1:]) == {0.5}
    assert stream.propagation is None


def test_refills_bring_other_questions_while_there_are_any() -> None:
    stream = curriculum()
    first, second, third = (set(ids(stream.draw(3, 20, refill=r))) for r in range(3))
    assert len(first | second | third) == 60
    again = stream.draw(3, 20, refill=3)
    assert len(set(ids(again))) == 20, "all were drawn, so they may come again"
    assert set(ids(stream.draw(3, 20, refill=1))) == second, "a draw asked for again is the same"


@given(st.integers(0, 6), st.integers(0, 100))
def test_a_curriculum_restored_from_json_draws_the_same(stop: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.choice([0.25, 0.5, 0.75, 1.0], size=7)

    def go(stream: Curriculum, first: int, last: int) -> list[tuple[list[str], int, Any]]:
        drawn = []
        for step in range(first, last):
            for refill in (0, 1):
                units = stream.draw(step, 8, refill=refill)
                drawn.append((ids(units), units[0][0].strategy.seed, units[0][0].strategy.level))  # type: ignore[attr-defined]
                tell(stream, step, units, float(shares[step]))
        return drawn

    whole = curriculum(seed=seed)
    straight = go(whole, 0, 7)
    stopped, resumed = curriculum(seed=seed), curriculum(seed=seed)
    before = go(stopped, 0, stop)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert before + go(resumed, stop, 7) == straight
    assert resumed.state() == whole.state()


def test_a_stop_between_a_draw_and_its_refill_changes_nothing() -> None:
    straight, stopped, resumed = curriculum(), curriculum(), curriculum()
    for stream in (straight, stopped):
        tell(stream, 0, stream.draw(0, 8), 0.5)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert ids(resumed.draw(0, 8, refill=1)) == ids(straight.draw(0, 8, refill=1))


def test_a_draw_depends_on_seed_step_and_refill() -> None:
    draws = {
        tuple(ids(curriculum(seed=seed).draw(step, 8, refill=refill)))
        for seed in (0, 1)
        for step in (0, 1)
        for refill in (0, 1)
    }
    assert len(draws) == 8


def test_failed_attempts_are_no_observations() -> None:
    stream = curriculum()
    stream.observe(0, [attempts((UNITS[0],), [False, False], error="the server is down")], [[0.0, 0.0]])
    assert not stream.observed.any()
    assert stream.scheduler.accuracy is None


def test_rewards_that_are_no_accuracies_need_an_outcome_of_their_own() -> None:
    group = attempts((UNITS[0],), [True, False])
    for score in (1.6, -1.0, [0.0, 1.0], float("nan")):
        with pytest.raises(BadInput, match="no accuracy"):
            curriculum().observe(0, [group], [[score, 0.0]])
    stream = curriculum(outcome=lambda t, _: float(exact_match(t.answer, t.question.answers)))
    stream.observe(0, [group], [[1.6, -1.0]])
    assert stream.estimates[0] == 0.5
    with pytest.raises(BadInput, match="outside"):
        curriculum(outcome=lambda t, s: 2.0).observe(0, [group], [[1.0, 0.0]])


def test_a_question_asked_in_several_modes_is_one_unit_and_only_its_searches_are_edited() -> None:
    unit = (Task(UNITS[0].question, Direct(), kind="inside"), Task(UNITS[0].question, Rag(), kind="search"))
    stream = Curriculum([unit], golds=GOLDS, scheduler=GapScheduler(window=2))
    (drawn,) = stream.draw(0, 1)
    assert [task.kind for task in drawn] == ["inside", "search"]
    assert isinstance(drawn[0].strategy, Direct)
    assert isinstance(drawn[1].strategy, AtGapLevel)
    groups = [attempts((task,), [True, False]) for task in drawn]
    stream.observe(0, groups, [[1.0, 1.0], [0.0, 1.0]])
    assert stream.estimates.tolist() == [0.75]


@pytest.mark.parametrize(
    ("units", "options", "message"),
    [
        ([], {}, "no questions"),
        ([UNITS[0], UNITS[0]], {}, "'q0' is given twice"),
        ([()], {}, "no tasks"),
        (UNITS, {"golds": {k: v for k, v in GOLDS.items() if k != "q7"}}, "'q7' has no gold passage"),
        (UNITS[:3], {"graph": ObservationGraph.from_texts(TEXTS)}, "60 nodes for 3 questions"),
        (UNITS, {"table": gap_table(5)}, "table has 6 levels, the scheduler 7"),
        (UNITS, {"table": gap_table(6), "scheduler": None}, "without a scheduler"),
    ],
)
def test_curricula_that_do_not_fit_are_refused(units: Any, options: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Curriculum(units, **{"golds": GOLDS, "scheduler": GapScheduler(), **options})


def test_draws_and_states_that_do_not_fit_are_refused() -> None:
    stream = curriculum()
    for count in (0, 61):
        with pytest.raises(BadInput, match="of 60 questions"):
            stream.draw(0, count)
    with pytest.raises(BadInput, match="not in this curriculum"):
        stream.observe(0, [attempts((Task(asks("stranger"), Rag()),), [True])], [[1.0]])
    tell(stream, 0, stream.draw(0, 8), 0.5)
    with pytest.raises(BadInput, match="this one does not"):
        Curriculum([UNITS[0]], golds=GOLDS, scheduler=GapScheduler()).restore(stream.state())
    with pytest.raises(BadInput, match="gap levels"):
        curriculum(scheduler=None).restore(stream.state())


def test_a_curriculum_without_levels_leaves_searches_as_they_are_and_never_warns() -> None:
    stream = Curriculum(UNITS, sampler=UniformSampler())
    assert stream.level is None
    assert all(isinstance(unit[0].strategy, Rag) for unit in stream.draw(0, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.finish()
    with pytest.warns(StuckCurriculum):
        curriculum().finish()


def test_in_the_lab_reading_the_gold_alone_is_easier_than_finding_it(tmp_path: Any) -> None:
    pytest.importorskip("torch", reason="needs the extra `lab`")
    from ken.lab import FactWorld
    from ken.lab.render import documents, questions
    from ken.models import load_model
    from ken.sources.search.index import Index
    from ken.sources.search.retriever import IndexRetriever

    world = FactWorld()
    corpus = list(documents(world))
    asked = [q for q in questions(world, "train") if q.supporting_ids and not q.meta["exposures"]][:32]
    golds = gold_passages(asked, corpus)
    # an engine that never finds it: the gold documents are not in the index
    hidden = {passage.id for gold in golds.values() for passage in gold}
    index = Index.build([passage for passage in corpus if passage.id not in hidden], tmp_path / "index")
    model = load_model("lab/factworld")

    async def accuracy(level: GapLevel) -> float:
        sources = Sources(search=IndexRetriever(index))
        strategy = AtGapLevel(Rag(), golds, level)
        done = await asyncio.gather(*(strategy.run(q, model, sources) for q in asked))
        assert all(t.error is None for t in done)
        return sum(exact_match(t.answer, t.question.answers) for t in done) / len(done)

    alone, among, real = (
        asyncio.run(accuracy(level)) for level in (GapLevel(1, True), GapLevel(3, True), GapLevel(3, False))
    )
    assert alone > 0.9
    assert 0.1 < among < alone - 0.3, "the shipped model reads the first passage best, and the gold is anywhere"
    assert real < 0.05, "what is not there cannot be read"
