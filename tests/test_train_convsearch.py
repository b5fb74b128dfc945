"""`ken train convsearch-r1`: a rewriter learns from ranks, first by imitation of itself, then by reinforcement."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

from ken.agents.rewrite import Rewrite
from ken.core import BadInput, Question
from ken.core.conversation import ConversationTurn
from ken.lab.conversations import ConversationWorld
from ken.papers.recipe import Trainee
from ken.papers.recipes import recipe_of
from ken.papers.train import Listener, Progress, resume, train_on
from ken.sources.search import ranks
from ken.sources.search.ranks import RankService
from ken.training.checkpoints import METRICS
from ken.training.conversations_base import smoke_config, world_index
from ken.training.lab_checkpoint import built

SMALL: Mapping[str, Any] = {
    "steps": 2,
    "questions_per_step": 4,
    "group_size": 2,
    "samples": 2,
    "keep_rank": 10,
    "sft_epochs": 4,
    "sft_batch": 4,
    "save_every": 1,
}

SHOT: Mapping[str, Any] = {
    "turn": {"id": "s", "query": "why"},
    "response": "<think>hm</think>\n<rewrite>why is it so</rewrite>",
}


def record(turn: ConversationTurn, *gold: str) -> str:
    """A turn as ConvSearch-R1 stores QReCC."""
    context = [text for exchange in turn.history for text in (exchange.query, exchange.answer)]
    found = list(gold or turn.gold)
    return json.dumps({"qid": turn.id, "question": turn.query, "context": context, "truth_passages": found})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conversations' world as a user would have it: a model, an index and files of conversations."""
    folder = tmp_path_factory.mktemp("conversations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "model").symlink_to(built(smoke_config()))
    made = ConversationWorld(smoke_config().world)
    world_index(made, folder / "index")
    turns = made.turns("train")[:24]
    (folder / "turns.jsonl").write_text("\n".join(map(record, turns)))
    some = [record(turn, *(("nowhere-7",) if i % 4 == 0 else ())) for i, turn in enumerate(turns)]
    (folder / "some.jsonl").write_text("\n".join(some))
    (folder / "none.jsonl").write_text("\n".join(record(turn, "nowhere-7") for turn in turns))
    blind = [json.dumps({**json.loads(record(turn)), "truth_passages": []}) for turn in turns]
    (folder / "blind.jsonl").write_text("\n".join(blind))
    (folder / "plain.jsonl").write_text('{"id": "q", "question": "Why?", "golden_answers": ["so"]}\n')
    return folder


def train(world: Path, out: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "model": f"lab/{world / 'model'}",
        "questions": world / "turns.jsonl",
        "index": world / "index",
        **SMALL,
        **changes,
    }
    return train_on("convsearch-r1", out=out, **arguments)


def entries(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_a_rewriter_is_warmed_up_on_its_own_rewrites_and_then_reinforced(world: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    notes: list[str] = []
    trained = train(world, tmp_path / "run", listener=Listener(seen.append, notes.append))
    assert list(trained.logs) == ["warm-up", "rewrite"]
    assert [p.step for p in seen if p.stage == "samples"][-1] == 24, "turns, each sampled twice"
    samples = (tmp_path / "run" / "warm-up" / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 24
    assert {len(json.loads(line)["attempts"]) for line in samples} == {2}
    assert any("rewrites brought a gold passage to rank 10 (" in note and "by depth" in note for note in notes)
    assert all("loss" in entry for entry in entries(tmp_path / "run" / "warm-up"))
    assert all("reward" in entry for entry in entries(tmp_path / "run"))
    assert len(entries(tmp_path / "run")) == 2
    assert trained.model == tmp_path / "run" / "model"
    assert (trained.model / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "stages"),
    [({"steps": 0}, ["warm-up"]), ({"sft_epochs": 0, "reward": "recall", "reward_k": 5}, ["rewrite"])],
    ids=str,
)
def test_either_stage_can_be_left_out(
    world: Path, tmp_path: Path, options: Mapping[str, Any], stages: list[str]
) -> None:
    trained = train(world, tmp_path / "run", **options)
    assert list(trained.logs) == stages
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "warm-up").exists()


def test_turns_whose_gold_passage_the_index_lacks_are_named_and_left_out(world: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    train(
        world, tmp_path / "run", questions=world / "some.jsonl", steps=0, listener=Listener(on_note=notes.append)
    )  # fmt: skip
    (left,) = [note for note in notes if "left out" in note]
    assert left.startswith("6 of 24 turns are left out (")
    assert "its gold passage 'nowhere-7' is not in" in left
    asked = sampled(tmp_path / "run")
    assert len(asked) == 18
    assert not set(asked) & set(left[left.index("(") + 1 : left.index(")")].split(", "))


def test_samples_are_drawn_with_demonstrations_and_learnt_without(world: Path, tmp_path: Path) -> None:
    shown = ConversationWorld(smoke_config().world).turns("train")[30]
    response = f"<think> {shown.rewrite}</think>\n<rewrite> {shown.rewrite}</rewrite>"
    (tmp_path / "shots.jsonl").write_text(json.dumps({**json.loads(record(shown)), "response": response}))
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(world, run, shots=tmp_path / "shots.jsonl", keep_rank=100, listener=killed_at("warm-up", 1))
    (tmp_path / "shots.jsonl").unlink()
    trained = resume(run)
    assert list(trained.logs) == ["warm-up", "rewrite"], "the demonstrations are among the settings of the run"
    samples = (run / "warm-up" / "samples.jsonl").read_text().splitlines()
    for line in samples:
        (first, *_) = json.loads(line)["attempts"]
        assert first["segments"][0]["text"].count("Query:") == 2


def test_a_search_mode_reaches_the_ranks(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Mapping[str, Any]] = []

    def open_ranks(index: Any, **options: Any) -> RankService:
        opened.append(options)
        return ranks.open_ranks(index, **options)

    monkeypatch.setattr("ken.papers.recipes.convsearch_r1.open_ranks", open_ranks)
    train(world, tmp_path / "run", mode="bm25", steps=1, sft_epochs=1)
    assert {options["mode"] for options in opened} == {"bm25"}
    assert len(opened) >= 2, "for samples and for rewards"


def test_a_remote_index_searches_in_its_own_way() -> None:
    recipe = recipe_of("convsearch-r1")
    turn = ConversationTurn(id="t", query="Why?", gold=("d",)).question()
    trainee = Trainee(None, [turn], lambda samples, matcher: None, index="http://127.0.0.1:9")  # type: ignore[arg-type, return-value]
    for stage in recipe.stages(recipe.chosen({"mode": "dense"})):
        with pytest.raises(BadInput, match="mode 'dense' is for an index of Ken"):
            stage.check(trainee)


# --- interruptions


class Killed(Exception):
    """Ends a training where it is raised, as a kill would."""


def killed_at(stage: str, step: int) -> Listener:
    def on_progress(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, step):
            raise Killed

    return Listener(on_progress)


def sampled(folder: Path) -> list[str]:
    """The turns whose samples are kept, in the order in which they came."""
    return [json.loads(line)["id"] for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_sampling_that_is_killed_goes_on_and_samples_nothing_twice(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(world, run, steps=0, samples=24, listener=killed_at("samples", 9))
    lines = (run / "samples.jsonl").read_text().splitlines(keepends=True)
    before = sampled(run)[:9]  # what had ended in the same batch was kept as well; a kill may come earlier
    assert len(before) == 9
    (run / "samples.jsonl").write_text("".join([*lines[:9], '{"id": "torn']))
    trained = resume(run)
    assert trained.model == run / "model"
    kept = (run / "samples.jsonl").read_text().replace('{"id": "torn\n', "")
    after = [json.loads(line)["id"] for line in kept.splitlines()]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 24, "every turn was sampled once"


def test_a_fine_tuning_that_is_killed_begins_from_its_last_checkpoint_with_the_same_samples(
    world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(world, run, listener=killed_at("warm-up", 3))
    before = (run / "warm-up" / "samples.jsonl").read_bytes()
    assert not (run / "warm-up" / "model").exists()
    seen: list[Progress] = []
    trained = resume(run, listener=Listener(seen.append))
    assert list(trained.logs) == ["warm-up", "rewrite"]
    assert (run / "warm-up" / "samples.jsonl").read_bytes() == before
    first = next(p.step for p in seen if p.stage == "warm-up")
    assert first == 3, "steps 1 and 2 are in the checkpoint"
    numbers = [entry["step"] for entry in entries(run / "warm-up")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_supervised_stage_that_is_done_is_not_done_again(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(world, run, listener=killed_at("rewrite", 1))
    weights = run / "warm-up" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    trained = resume(run)
    assert list(trained.logs) == ["rewrite"]
    assert weights.stat().st_mtime_ns == before


def test_a_fine_tuning_that_is_resumed_ends_where_it_would_have(world: Path, tmp_path: Path) -> None:
    """Ctrl-C in the second step: the losses are those of a run without it."""
    whole = train(world, tmp_path / "whole", steps=0)

    def press(progress: Progress) -> None:
        if progress.stage == "warm-up" and progress.step == 2:
            signal.raise_signal(signal.SIGINT)

    first = train(world, tmp_path / "run", steps=0, save_every=0, listener=Listener(press))
    assert first.interrupted
    assert not (tmp_path / "run" / "model").exists()
    resume(tmp_path / "run")
    losses = [[entry["loss"] for entry in entries(tmp_path / name)] for name in ("whole", "run")]
    assert len(losses[0]) > 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert whole.model


# --- what cannot work


def test_the_paper_s_constants_are_the_defaults() -> None:
    options = recipe_of("17").chosen({})
    first, last = recipe_of("17").stages(options)
    assert (options.questions_per_step, options.group_size, options.lr, options.warmup_steps) == (128, 16, 1e-6, 100)  # type: ignore[attr-defined]
    assert (options.temperature, options.max_tokens, options.kl) == (0.7, 1024, 1e-3)
    dumped = options.model_dump()
    assert (dumped["samples"], dumped["keep_rank"], dumped["sample_tokens"], dumped["depth"]) == (1, 1, 4096, 100)
    assert (dumped["sft_epochs"], dumped["sft_batch"], dumped["sft_max_tokens"]) == (2.0, 64, 3072)
    assert dumped["reward"] == "rank-incentive"
    assert [type(strategy) for stage in (first, last) for strategy in stage.strategies] == [Rewrite, Rewrite]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions": "blind.jsonl"}, "none of 24 turns names a gold passage"),
        ({"questions": "none.jsonl"}, "none of 24 turns can be ranked; the first: the turn"),
        ({"questions": "plain.jsonl"}, "expected 'qid' to be"),
        (
            {"questions": [Question(id="q", text="Why?", meta={"history": "once"})]},
            "is no list of [query, answer] pairs",
        ),
        ({"questions": []}, "there are no questions to train on"),
        ({"index": ""}, "a training searches; name an index with --index DIR"),
        ({"index": "nowhere"}, "there is no index at"),
        ({"steps": 0, "sft_epochs": 0}, "there is nothing to do"),
        ({"keep_rank": 200}, "ranks are looked for down to depth 100 only"),
        ({"reward": "luck"}, "reward cannot be 'luck'"),
        ({"group_size": 1}, "GRPO compares the rollouts of a group"),
        ({"mode": "dense"}, "has no vectors for mode 'dense'"),
        ({"mode": "sparse"}, "mode cannot be 'sparse'"),
        ({"shots": "nowhere.jsonl"}, "there is no file nowhere.jsonl"),
        ({"shots": [SHOT], "sft_epochs": 0}, "shots are for sampling what is fine-tuned on"),
        ({"shots": [{**SHOT, "response": "why is it so"}]}, "the response of the demonstration 's' is not exactly a"),
        ({"top_k": 3}, "this paper has no option top_k"),
        ({"model": "openai/gpt"}, "'openai/gpt' cannot be trained"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(
    world: Path, tmp_path: Path, changes: Mapping[str, Any], said: str
) -> None:
    from ken.core import SourceError

    if isinstance(name := changes.get("questions"), str):
        changes = {**changes, "questions": world / name}
    with pytest.raises((BadInput, SourceError)) as caught:
        train(world, tmp_path / "run", **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_warm_up_that_found_nothing_says_what_to_do_and_keeps_its_samples(world: Path, tmp_path: Path) -> None:
    """One turn whose gold passage nobody would find."""
    turn = ConversationWorld(smoke_config().world).turns("train")[0]
    (tmp_path / "one.jsonl").write_text(record(turn, "d0000"))
    index = world_index(ConversationWorld(smoke_config().world), tmp_path / "index")
    lost = next(p for p in index.search("nothing", 1) or index.search(turn.query, 100)[-1:])
    (tmp_path / "one.jsonl").write_text(record(turn, lost.document_id))
    with pytest.raises(BadInput, match="raise samples or keep_rank, or leave it out with sft_epochs 0"):
        train(world, tmp_path / "run", questions=tmp_path / "one.jsonl", keep_rank=1, samples=1)
    assert (tmp_path / "run" / "warm-up" / "samples.jsonl").is_file()
