"""ConvSearch-R1's row: the reward of ranks, its arms, and a smoke run of all of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ken.core import Answer, Malformed, Passage, Question, Segment, SourceError, Trajectory
from ken.lab.conversations import ConversationWorld
from ken.sources.search.index import Index
from ken.sources.search.ranks import RankService
from ken.training.advantages import group_normalised
from ken.training.conversations_base import smoke_config
from ken.training.rewards.ranked import Ranked
from ken.training.rewards.ranking import recall
from ken.training.rollouts import Group, Task

DOCUMENTS = [Passage(id=f"d{i:03}", text=f"common {'word ' * i}") for i in range(1, 131)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A search for "common" ranks shorter documents higher: d001 first, d002 second, …"""
    return Index.build(DOCUMENTS, tmp_path_factory.mktemp("row") / "index", tokenizer="simple")


def attempt(gold: str, text: str, answer: str | None = "common", **fields: Any) -> Trajectory:
    return Trajectory(
        question=Question(id=gold, text="q", meta={"supporting_ids": [gold]}),
        strategy="rewrite",
        segments=(Segment(role="prompt", text="p"), Segment(role="policy", text=text)),
        steps=(Answer(text=answer),) if answer else (Malformed(text=text, problem="none"),),
        **fields,
    )


def group(*trajectories: Trajectory) -> Group:
    from ken.agents.rewrite import Rewrite

    return Group(Task(trajectories[0].question, Rewrite()), trajectories)


FORM = "<think>t</think>\n<rewrite>common</rewrite>"


@pytest.mark.parametrize(("rank", "reward"), [(1, 2.0), (10, 1.0), (11, 89 / 90), (100, 0.0), (101, 0.0), (130, 0.0)])
def test_the_reward_is_that_of_the_card_at_its_ranks(index: Index, rank: int, reward: float) -> None:
    ranking = [passage.id for passage in index.search("common", 130)]
    scores = Ranked(RankService(index))([group(attempt(ranking[rank - 1], FORM))])
    assert scores == [[pytest.approx(reward)]]


def test_a_response_out_of_form_is_penalised_in_place_of_its_rank(index: Index) -> None:
    best = index.search("common", 1)[0].id
    texts = [FORM, FORM + " ", FORM.replace("\n", " "), "<rewrite>common</rewrite>", "nothing"]
    made = group(*(attempt(best, text, answer="common" if "rewrite" in text else None) for text in texts))
    assert Ranked(RankService(index))([made]) == [[2.0, -0.1, -0.1, -0.1, -0.1]]


def test_all_rollouts_of_a_step_are_ranked_at_once(index: Index) -> None:
    service = Counting(index)
    groups = [group(*(attempt(f"d{i:03}", FORM) for _ in range(4))) for i in (1, 2, 3)]
    Ranked(service, measure=recall)(groups)
    assert service.calls == [12]


class Counting(RankService):
    """Counts its calls, and fails for groups whose gold passage is named in `failing`."""

    def __init__(self, index: Index, failing: Collection[str] = ()) -> None:
        super().__init__(index)
        self.calls: list[int] = []
        self.failing = failing

    def best_ranks(self, queries: Sequence[str], golds: Sequence[Collection[str]]) -> list[int | None]:
        self.calls.append(len(queries))
        if any(gold in self.failing for ids in golds for gold in ids):
            raise SourceError("the retriever did not answer")
        return super().best_ranks(queries, golds)


def test_a_group_that_cannot_be_ranked_is_dropped_and_never_scored_as_not_found(index: Index) -> None:
    """Scored alike, it has no advantage; scored as not found, its malformed rollouts would look worse than the rest."""
    reward = Ranked(Counting(index, failing={"d002"}))
    groups = [group(attempt(f"d{i:03}", FORM), attempt(f"d{i:03}", "no form", answer=None)) for i in (1, 2, 3)]
    scores = reward(groups)
    assert scores[1] == [0.0, 0.0]
    assert scores[0][0] == 2.0
    assert scores[2][1] == -0.1
    assert reward.dropped == 1
    advantages = group_normalised(np.array([s for row in scores for s in row]), np.repeat(np.arange(3), 2))  # type: ignore[arg-type]
    assert advantages[2:4].tolist() == [0.0, 0.0]
    assert (advantages[[0, 1, 4, 5]] != 0).all()


def test_when_no_group_can_be_ranked_training_hears_of_it(index: Index) -> None:
    reward = Ranked(Counting(index, failing={"d001", "d002"}))
    with pytest.raises(SourceError, match="did not answer"):
        reward([group(attempt("d001", FORM)), group(attempt("d002", FORM))])


# --- the row


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.17_convsearch_r1")


def test_the_arms_and_budgets_are_those_of_the_card(row: Any) -> None:
    names = {arm.name for arm in row.paper.arms}
    card = {"raw", "history", "base", "sft-human", "warm-up", "rir-cold", "recall", "mrr", "ndcg", "rir"}
    assert names == card | {"human"}
    full = row.paper.full
    assert (full.steps, full.questions, full.group_size, full.kl) == (120, 16, 8, 1e-3)
    assert [claim.kind for claim in row.paper.claims].count("hard") == 6
    margins = {claim.text: claim.margin for claim in row.paper.claims}
    assert margins["MRR: ConvSearch-R1 ≥ warm-up only + 0.05"] == 0.05
    assert margins["MRR: rank incentive ≥ Recall@10 + 0.02"] == 0.02
    assert margins["MRR: ConvSearch-R1 ≥ raw query + 0.20"] == 0.2


def test_questions_carry_history_query_and_gold_passages_and_not_the_human_rewrite() -> None:
    turns = ConversationWorld(smoke_config().world).turns("train")
    assert all("rewrite" not in turn.question().model_dump_json() for turn in turns)


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = reproduce(row.paper, seeds=1, smoke=True, arms=["all"])
    assert set(results.arms) == {arm.name for arm in row.paper.arms}
    assert not any(arm.errors for arm in results.arms.values())
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    for claim in row.paper.claims:
        assert isinstance(claim.measure(measured), float)
    assert measured["raw"]["mrr"] < measured["human"]["mrr"]
    for name in ("rir", "recall", "rir-cold"):
        assert len(measured[name]["reward_curve"]) == row.paper.smoke.steps
    assert measured["history"]["r_100"] >= measured["raw"]["r_100"]
