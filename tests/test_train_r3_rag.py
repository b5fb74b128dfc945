"""`ken train r3-rag`: a teacher behind a server is imitated step by step, then every step is rewarded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Answer as Reply
from faulty_server import FaultyServer

pytest.importorskip("trl", reason="needs the extra `train`")

import ken
from ken.agents.stepwise import STEPS, Stepwise
from ken.agents.subqueries import SPLIT
from ken.core import (
    Answer,
    BadInput,
    ModelError,
    Observation,
    Passage,
    Question,
    Sampling,
    Search,
    Segment,
    SourceError,
    Trajectory,
)
from ken.lab.multihop import MultiHopWorld, documents, questions
from ken.models import Message
from ken.models.scripted import ScriptedModel
from ken.papers.recipe import Trainee
from ken.papers.recipes import recipe_of
from ken.papers.recipes.r3_rag import R3RagOptions, _JudgeWatch
from ken.papers.train import Listener, Progress, resume, train_on
from ken.papers.work import Reinforcement
from ken.training.judges import LLMJudge
from ken.training.lab_checkpoint import built
from ken.training.multihop_base import smoke_config
from ken.training.multihop_teacher import MultiHopTeacher
from ken.training.rewards.steps import StepFactors
from ken.training.rollouts import Group

SMALL: Mapping[str, Any] = {
    "steps": 2,
    "questions_per_step": 2,
    "group_size": 2,
    "temperature": 0.4,
    "sft_epochs": 12,
    "sft_lr": 3e-3,
    "sft_batch": 8,
    "save_every": 1,
}


class Killed(Exception):
    """Ends a training where it is raised, as a kill would."""


def killed_at(stage: str, step: int) -> Listener:
    def on_progress(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, step):
            raise Killed

    return Listener(on_progress)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The multi-hop world as a user would have it: a model that can read, an index and files of questions."""
    folder = tmp_path_factory.mktemp("multihop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "model").symlink_to(built(smoke_config()))
    made = MultiHopWorld(smoke_config().world)
    ken.Index.build(documents(made), folder / "index", tokenizer="simple")
    lines = [
        {"id": q.id, "question": q.text, "golden_answers": q.answers, "metadata": q.meta}
        for q in questions(made, "train")[:48]
    ]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    some = [{**line, "golden_answers": line["golden_answers"] if i % 4 else []} for i, line in enumerate(lines)]
    (folder / "some.jsonl").write_text("\n".join(map(json.dumps, some)))
    (folder / "unanswered.jsonl").write_text("\n".join(json.dumps({**line, "golden_answers": []}) for line in lines))
    (folder / "plain.jsonl").write_text("\n".join(json.dumps({**line, "metadata": {}}) for line in lines))
    return folder


class Teacher:
    """The teacher of the multi-hop world behind a server. steps: how many it was asked for."""

    def __init__(self) -> None:
        made = MultiHopWorld(smoke_config().world)
        self.teacher = MultiHopTeacher(made, questions(made, "train"))
        self.steps = 0

    def __call__(self, number: int, payload: dict[str, Any]) -> Reply:
        first, *rest = payload["messages"]
        if first["content"] == SPLIT.text:
            return Reply(rest[0]["content"])
        if first["content"] != STEPS.text:
            return Reply("yes")
        self.steps += 1
        said = [Message("user", rest[0]["content"])]
        said += [Message("policy" if m["role"] == "assistant" else "observation", m["content"]) for m in rest[1:]]
        sampling = Sampling(temperature=payload.get("temperature") or 0.0, seed=payload.get("seed") or 0)
        return Reply(self.teacher._step(said, sampling, 0))


@pytest.fixture
def teacher() -> Iterator[tuple[Teacher, str]]:
    plan = Teacher()
    with FaultyServer(plan) as server:
        yield plan, server.base_url


def train(world: Path, out: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "model": f"lab/{world / 'model'}",
        "questions": world / "q.jsonl",
        "index": world / "index",
        "teacher": "openai/teacher",
        **SMALL,
        **changes,
    }
    return train_on("r3-rag", out=out, **arguments)


def sampled(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_pupil_imitates_its_teacher_and_is_then_rewarded_and_no_interruption_asks_the_teacher_twice(
    world: Path, tmp_path: Path, teacher: tuple[Teacher, str]
) -> None:
    plan, url = teacher
    run, notes = tmp_path / "run", []
    with pytest.raises(Killed):
        train(world, run, base_url=url, listener=killed_at("samples", 20))
    first = sampled(run / "cold-start")
    assert 0 < len(first) < 48
    with pytest.raises(Killed):
        resume(run, listener=killed_at("cold-start", 2))
    every, asked = sampled(run / "cold-start"), plan.steps
    assert every[: len(first)] == first
    assert len(every) == len(set(every)) == 48
    assert not (run / "cold-start" / "model").exists()

    trained = resume(run, listener=Listener(on_note=notes.append))
    assert plan.steps == asked, "all that the teacher said was on disk"
    assert sampled(run / "cold-start") == every
    assert list(trained.logs) == ["cold-start", "steps"]
    losses = [entry["loss"] for entry in trained.logs["cold-start"].history]
    assert losses[-1] < 0.5 * losses[0]
    assert len(trained.logs["steps"].history) == 2
    assert any(note.startswith("the teacher solved ") and "right" in note for note in notes)
    assert (run / "model" / "model.safetensors").is_file()

    again = train_on(
        "r3-rag", model=f"hf/{run / 'cold-start' / 'model'}", questions=world / "some.jsonl", index=world / "index",
        out=tmp_path / "again", listener=Listener(on_note=notes.append),
        **{**SMALL, "sft_epochs": 0, "steps": 1, "advantage": "batch", "malformed_reward": -3.0, "judge": "rule"},
    )  # fmt: skip
    assert list(again.logs) == ["steps"], "a model that writes the steps needs no teacher"
    (statistics,) = again.logs["steps"].history
    assert "critic/explained_variance" not in statistics
    (left,) = [note for note in notes if "left out" in note]
    assert left.startswith("WARNING: 12 of 48 questions are left out, because they have no accepted answers (")


def test_the_paper_s_constants_are_the_defaults() -> None:
    given = {"teacher": "openai/deepseek-chat"}
    options = recipe_of("40").chosen(given)
    assert isinstance(options, R3RagOptions)
    assert (options.lr, options.critic_lr, options.kl, options.max_turns, options.top_k) == (5e-7, 9e-6, 0.01, 5, 2)
    assert (options.questions_per_step, options.group_size, options.max_tokens) == (64, 4, 512)
    assert (options.attempts, options.teacher_steps, options.teacher_temperature, options.teacher_top_k) == (
        7,
        7,
        0.9,
        3,
    )
    assert (options.sft_epochs, options.sft_lr, options.sft_warmup, options.sft_max_tokens) == (3.0, 7e-6, 0.1, 4096)
    assert options.helpers == ("openai/deepseek-chat",), "the teacher judges, too"
    cold, steps = recipe_of("40").stages(options)
    assert (cold.name, cold.strategies, steps.strategies) == ("cold-start", (), ())
    (alone,) = recipe_of("40").stages(recipe_of("40").chosen({**given, "sft_epochs": 0}))
    (strategy,) = alone.strategies
    assert isinstance(strategy, Stepwise)
    assert strategy.temperatures == pytest.approx((0.1, 0.4, 0.7, 1.0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": ""}, "name one with --teacher openai/NAME"),
        ({"teacher": "gpt-4"}, "'gpt-4' is not a model"),
        ({"teacher": "", "judge": "", "sft_epochs": 0}, "somebody must judge"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "127.0.0.1:9"),
        ({"questions": "unanswered.jsonl"}, "48 of 48 questions have no accepted answers"),
        ({"questions": "plain.jsonl"}, "names no gold evidence to judge searches by"),
        ({"max_turns": 10}, "max_turns cannot be 10"),
        ({"variant": "luck"}, "variant cannot be 'luck'"),
        ({"attempts": 0}, "attempts cannot be 0"),
        ({"advantage": "group"}, "advantage cannot be 'group'"),
        ({"if_wrong": float("nan")}, "if_wrong cannot be nan"),
        ({"document_characters": 0}, "document_characters cannot be 0"),
        ({"steps": 0, "sft_epochs": 0}, "there is nothing to do"),
        ({"index": "nowhere"}, "there is no index at"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(
    world: Path, tmp_path: Path, changes: Mapping[str, Any], said: str
) -> None:
    if isinstance(name := changes.get("questions"), str):
        changes = {**changes, "questions": world / name}
    with pytest.raises((BadInput, ModelError, SourceError)) as caught:
        train(world, tmp_path / "run", **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_factors_of_rewards_and_what_is_shown_are_options() -> None:
    recipe, alone = recipe_of("r3-rag"), {"judge": "rule", "sft_epochs": 0}
    options = recipe.chosen(alone)
    assert isinstance(options, R3RagOptions)
    assert options.factors == StepFactors()
    changed = {"if_correct": 1.5, "wrong_answer_reward": -1.0, "document_characters": 99, "max_passages": 4}
    options = recipe.chosen({**alone, **changed, "advantage": "batch"})
    assert isinstance(options, R3RagOptions)
    assert options.factors == StepFactors(if_correct=1.5, wrong_answer=-1.0)
    (stage,) = recipe.stages(options)
    (strategy,) = stage.strategies
    assert isinstance(strategy, Stepwise)
    assert (strategy.document_characters, strategy.max_passages) == (99, 4)

    asked = Question(id="q", text="Who?", answers=("Ann",), meta={"supporting_ids": ["d"]})
    work = stage.work(Trainee(None, [asked], lambda samples, matcher: None))  # type: ignore[arg-type, return-value]
    assert isinstance(work, Reinforcement)
    assert (work.config.advantage, work.config.turn_credit) == ("batch", True)
    steps = (Search(query="x"), Observation(passages=(Passage(id="d", text="Ann"),)), Answer(text="Bob"))
    segments = [Segment(role=role, text="-") for role in ("prompt", "policy", "observation", "policy")]
    made = Trajectory(question=asked, strategy="stepwise", steps=steps, segments=tuple(segments))
    assert work.reward([Group(work.tasks[0], (made,))]) == [[[0.8, -1.0]]]


def test_a_judge_that_gives_no_verdict_stops_the_training_and_some_missing_verdicts_are_told() -> None:
    judge = LLMJudge(ScriptedModel(lambda prompt: ""), retries=2)
    watch = _JudgeWatch(judge)
    judge.calls, judge.fallbacks = 60, 2
    watch.check()
    assert watch.told() == "a heuristic stood in for 2 verdicts that the judge did not give (60 calls)"
    judge.calls, judge.fallbacks = 120, 22
    with pytest.raises(SourceError, match="gave no verdict in 60 calls"):
        watch.check()


def test_questions_are_judged_by_rule_without_evidence_when_only_the_answer_counts() -> None:
    question = Question(id="q", text="Who?", answers=("Ann",))
    recipe = recipe_of("r3-rag")
    options = recipe.chosen({"judge": "rule", "sft_epochs": 0, "variant": "outcome"})
    recipe.fit([question], options)
    with pytest.raises(BadInput, match="names no gold evidence"):
        recipe.fit([question], recipe.chosen({"judge": "rule", "sft_epochs": 0}))
