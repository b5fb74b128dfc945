"""KnowRL's row: its arms and claims, a smoke run of all of it, and rounds that collapse on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ken.core import BadInput, TrainingError
from ken.core.sampling import Sampling
from ken.training.factworld_introspection import ask
from ken.training.introspection import Filters, Request


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.58_knowrl")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The smoke run's base model is built once for this file."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def bench(row: Any, cache: Path) -> Any:
    return row.prepare(row.paper.smoke, 0)


def test_arms_and_sizes_are_those_of_the_card_and_every_hard_claim_is_there(row: Any) -> None:
    names = [arm.name for arm in row.paper.arms if not arm.optional]
    assert names == ["base", "vote", "sft", "random", "knowrl", "knowrl-intended", "oracle"]
    full = row.paper.full
    assert (full.seeds, full.rounds, full.runs, full.candidates, full.replayed) == (50, 6, 12, 60, 200)
    assert (full.updates, 2 * full.questions, full.group_size, full.limit) == (25, 16, 8, 600)
    assert full.asked == "test"
    margins = [claim.margin for claim in row.paper.claims if claim.kind == "hard"]
    assert margins == [0.1, 0.08, 0.04, 0.04, 0.02, 0.02, 0.6, 0.0, 150.0]


@pytest.mark.parametrize(
    ("values", "rho"),
    [
        ([1, 2, 3, 4, 5, 6], 1.0),
        ([6, 5, 4, 3, 2, 1], -1.0),
        ([1, 1, 1], 0.0),
        ([1, 3, 2, 4], 0.8),
        ([1, 2, 2, 3], 0.9486832980505138),
        ([1], 0.0),
    ],
)
def test_the_trend_is_spearmans_rank_correlation(row: Any, values: list[float], rho: float) -> None:
    assert row.spearman(values) == pytest.approx(rho)


def test_the_seed_is_of_both_kinds_and_true_and_nothing_of_the_truth_is_shown(row: Any, bench: Any) -> None:
    pool = bench.pool()
    assert [sum(t.feasible is kind for t in pool.tasks) for kind in (True, False)] == [8, 8]
    assert all(bench.true_labels[task.question.id] is task.feasible for task in pool.tasks)
    assert all(task.question.answers == () and set(task.question.meta) == {"written"} for task in pool.tasks)
    assert [t.question.id for t in bench.pool().tasks] == [t.question.id for t in pool.tasks]


def test_made_up_tasks_are_read_in_the_labs_format_and_never_about_held_out_facts(row: Any, bench: Any) -> None:
    assert ask(Request(True), ["Kavelo birthplace"]) == "feasible: Kavelo birthplace →"
    written = next(iter(bench.tasks))
    question = bench.read(f" {written} ")
    assert question.text.startswith("What is the ")
    assert question.meta == {"written": written}
    assert Filters().problem(question.text) is None
    held_out = bench.shared.asked[0]
    entity, relation = held_out.text.removesuffix("?").split()[-1], held_out.text.split()[3]
    assert bench.read(f"{entity} {relation}") is None
    assert bench.read("nobody birthplace of") is None


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(row: Any) -> None:
    from ken.papers.reproduce import reproduce

    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert set(results.arms) == {arm.name for arm in row.paper.arms}
    assert not any(arm.errors for arm in results.arms.values())
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert isinstance(claim.measure(measured), float)
    for name in ("random", "knowrl", "knowrl-intended", "oracle"):
        assert len(measured[name]["intrinsic_curve"]) == 3
        assert len(measured[name]["entered_curve"]) == 2
        assert measured[name]["pool_curve"][0] == 16
        assert measured[name]["pool"] == 16 + sum(measured[name]["entered_curve"])
    same = {name: measured[name]["intrinsic_curve"][0] for name in ("random", "knowrl", "oracle")}
    assert len(set(same.values())) == 1  # all start from the same model, asked the same
    assert measured["vote"]["known"] == measured["base"]["known"]
    assert measured["vote"]["accuracy"] == measured["base"]["vote_accuracy"]


def rounds(bench: Any, reward: Any, **options: Any) -> Any:
    from ken.training.introspection_rounds import RoundsConfig, train_on_introspection
    from ken.training.rl_config import RLConfig

    settings = {
        "steps": options.pop("steps", 2),
        "units": 4,
        "group_size": 4,
        "advantage": "batch",
        "kl": 0.0,
        "lr": options.pop("lr", 5e-4),
        "sampling": Sampling(temperature=1.0, max_tokens=16),
    }
    return train_on_introspection(
        bench.shared.policy(),
        options.pop("pool", None) or bench.pool(),
        reward,
        RLConfig(**settings),
        config=RoundsConfig(rounds=2, runs=2, candidates=8, replayed=8, measured=12, **options.pop("config", {})),
        introspector=bench.introspector,
        analyser=bench.analyser,
        **options,
    )


def test_paying_for_one_verdict_trips_the_guard(bench: Any) -> None:
    from ken.training.introspection_rounds import GUARDS, stopping
    from ken.training.rollouts import each

    def yes(trajectory: Any) -> float:
        return float(trajectory.decision is not None and trajectory.decision.knows is True)

    reports: list[Any] = []
    with pytest.raises(TrainingError, match=r"stopped in round \d: nearly all tasks are judged alike"):
        rounds(bench, each(yes), steps=15, lr=5e-4, guards=stopping(GUARDS), on_round=reports.append)
    assert reports[0].agreement.says_feasible < 0.9 < reports[-1].agreement.says_feasible
    assert [a.monitor.statistic for a in reports[-1].alarms] == ["one_verdict"]
    assert reports[-1].unreadable < 0.4


def test_a_policy_that_has_unlearnt_to_make_up_tasks_ends_the_training(bench: Any) -> None:
    from ken.training.rollouts import each

    with pytest.raises(TrainingError, match="not a question"):
        rounds(bench, each(lambda t: float("yes" in t.segments[-1].text)), steps=12, lr=1e-2)


def test_a_model_that_makes_up_nothing_usable_is_told_so(bench: Any) -> None:
    from dataclasses import replace

    from ken.training.introspection_rounds import RoundsConfig, train_on_introspection
    from ken.training.rl_config import RLConfig
    from ken.training.rollouts import each

    nothing = replace(bench.introspector, filters=Filters(min_words=50))
    with pytest.raises(BadInput, match="too short"):
        train_on_introspection(
            bench.shared.policy(),
            bench.pool(),
            each(lambda t: 0.0),
            RLConfig(),
            config=RoundsConfig(measured=4),
            introspector=nothing,
            analyser=bench.analyser,
        )


def test_tasks_outside_the_bounds_of_difficulty_are_not_trained_on(bench: Any) -> None:
    """SeRL's option: with bounds that nothing meets only the pool is left."""
    from ken.training.rollouts import Group

    seen: set[str] = set()

    def note(groups: list[Group]) -> list[list[float]]:
        seen.update(group.task.question.id for group in groups)
        return [[float(i % 2) for i, _ in enumerate(group.trajectories)] for group in groups]

    pool = bench.pool()
    seeds = {task.question.id for task in pool.tasks}
    rounds(bench, note, pool=pool, config={"difficulty_bounds": (0.01, 0.02)})
    assert seen <= {task.question.id for task in pool.tasks}
    assert seen & seeds
