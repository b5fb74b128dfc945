"""Rejection sampling: the first success is kept, failures are logged, and the lab's teacher errs as it should."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from ken.agents.stepwise import DOCUMENTS, QUERY, STEPS, StepTurn, Stepwise, parse_step, write_step
from ken.core import BadInput, ModelError, Question, Sampling, Search
from ken.lab.multihop import MultiHopConfig, MultiHopWorld, documents, questions
from ken.models import Message
from ken.models.local import LocalModel
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.sources.search.ngrams import NgramRetriever
from ken.training.judges import RuleJudge
from ken.training.lab_checkpoint import untrained_llama
from ken.training.multihop_base import MultiHopBaseConfig, build_tokenizer
from ken.training.multihop_teacher import MultiHopTeacher, TeacherConfig
from ken.training.trajectory_sampling import (
    Sampled,
    SamplerConfig,
    TrajectorySampler,
    pupil_example,
    statistics,
    step_rows,
)

BONN = Question(id="q", text="Where?", answers=("Bonn",), meta={"dataset": "towns"})


def says(*answers: str | None) -> ScriptedModel:
    """Answers one after the other; None is a step that cannot be read, "error" a model that is down."""
    left = list(answers)

    def reply(prompt: str) -> str:
        answer = left.pop(0)
        if answer == "error":
            raise ModelError("down")
        return "what?" if answer is None else write_step(1, "a", answer=answer)

    return ScriptedModel(reply)


def sample(model: ScriptedModel, *asked: Question, retries: int = 0, **config: int) -> list[Sampled]:
    sampler = TrajectorySampler(model, Sources(), RuleJudge(), Stepwise(retries=retries), SamplerConfig(**config))
    return asyncio.run(sampler.sample(asked))


def test_the_first_success_is_kept_and_the_failures_before_it_are_logged() -> None:
    model = says("Rome", None, "error", "Bonn")
    (sampled,) = sample(model, BONN)
    assert sampled.outcomes == ("wrong", "malformed", "error", "right")
    assert sampled.success is not None
    assert sampled.success.answer == "Bonn"
    assert [t.answer for t in sampled.failures] == ["Rome", None, None]
    assert [call.sampling.temperature for call in model.calls] == [0.0, 0.9, 0.9, 0.9]
    assert len({call.sampling.seed for call in model.calls}) == 4


def test_it_gives_up_after_its_attempts() -> None:
    (sampled,) = sample(says(*["Rome"] * 3), BONN, attempts=3)
    assert sampled.success is None
    assert sampled.outcomes == ("wrong",) * 3


def test_a_malformed_step_is_written_again_before_the_chain_is_dropped() -> None:
    # The first attempt is greedy and would repeat itself; the second writes again once.
    (sampled,) = sample(says(None, None, "Bonn"), BONN, retries=1)
    assert sampled.outcomes == ("malformed", "right")


def test_later_attempts_may_go_another_way() -> None:
    used: list[tuple[str, int]] = []

    def strategy(attempt: int) -> Stepwise:
        used.append(("strategy", attempt))
        return Stepwise()

    def sources(attempt: int) -> Sources:
        used.append(("sources", attempt))
        return Sources()

    sampler = TrajectorySampler(says("Rome", "Bonn"), sources, RuleJudge(), strategy)
    asyncio.run(sampler.sample([BONN]))
    assert sorted(used) == [("sources", 0), ("sources", 1), ("strategy", 0), ("strategy", 1)]


def test_questions_without_golds_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    bare = Question(id="bare", text="Who?")
    with caplog.at_level(logging.WARNING):
        assert [s.question.id for s in sample(says("Bonn"), bare, BONN)] == ["q"]
    assert "1 of 2 questions have no gold answer and are skipped" in caplog.text
    with pytest.raises(BadInput, match="no question has a gold answer"):
        sample(says(), bare)


def test_statistics_by_data_set() -> None:
    other = BONN.model_copy(update={"id": "p", "meta": {"dataset": "rivers"}})
    sampled = [*sample(says("Rome", "Bonn"), BONN), *sample(says("Rome", "Rome"), other, attempts=2)]
    found = statistics(sampled, skipped=[BONN])
    assert (found["towns"].solved_share, found["towns"].attempts, found["towns"].skipped) == (1.0, 2, 1)
    assert found["rivers"].outcomes == Counter(wrong=2)
    assert found["rivers"].solved_share == 0.0


# --- the lab's teacher
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> MultiHopWorld:
    return MultiHopWorld(MultiHopConfig(train=300, test=0))


def taught(world: MultiHopWorld, config: TeacherConfig, *, attempts: int = 7) -> list[Sampled]:
    asked = questions(world, "train")
    sources = Sources(search=NgramRetriever(documents(world)), top_k=2)
    teacher = MultiHopTeacher(world, asked, config)
    sampler = TrajectorySampler(teacher, sources, RuleJudge(), Stepwise(7), SamplerConfig(attempts=attempts))
    return asyncio.run(sampler.sample(asked))


PERFECT = TeacherConfig(broad=0, wording=0, redundant=0, premature=0)


def test_a_teacher_without_errors_solves_everything_without_a_wasted_step(world: MultiHopWorld) -> None:
    sampled = taught(world, PERFECT, attempts=1)
    kept = [s.success for s in sampled if s.success is not None]
    assert len(kept) >= 0.97 * len(sampled)
    # n-grams may miss a page at first sight; the teacher then asks again.
    assert sum(len(t.searches) > len(t.question.supporting_ids) for t in kept) <= 0.03 * len(kept)


def test_the_teacher_of_the_card_errs_and_is_right_in_the_end(world: MultiHopWorld) -> None:
    sampled = taught(world, TeacherConfig())
    assert sum(s.success is not None for s in sampled) > 0.9 * len(sampled)
    assert sum(s.outcomes[0] == "right" for s in sampled) < 0.85 * len(sampled)
    kept = [s.success for s in sampled if s.success is not None]
    assert sum(len(t.searches) > len(t.question.supporting_ids) for t in kept) > 0.25 * len(kept)
    broad = [s.query == t.question.text.rstrip("?") for t in kept for s in t.searches]
    assert 0.15 < sum(broad) / len(broad) < 0.4
    again = taught(world, TeacherConfig())
    assert [s.outcomes for s in again] == [s.outcomes for s in sampled]


@pytest.mark.parametrize("habits", [0.0, 1.0])
def test_habits_bind_broad_queries_to_relations_and_leave_their_rate(world: MultiHopWorld, habits: float) -> None:
    asked = questions(world, "train")
    config = TeacherConfig(broad=0.25, wording=0, redundant=0, premature=0, habits=habits)
    teacher = MultiHopTeacher(world, asked, config)
    assert len(teacher.habits) == 3
    sampling = [Sampling(temperature=1, seed=i) for i in range(4)]
    seen: dict[str, list[bool]] = {}
    for question in asked:
        for how in sampling:
            conversation = [Message("system", "s"), Message("user", f"The question: {question.text}")]
            (reply,) = asyncio.run(teacher.generate(conversation, sampling=how))
            turn = parse_step(reply.text, 1)
            assert isinstance(turn, StepTurn)
            assert isinstance(turn.action, Search)
            relation = question.meta["evidence"][0]["relation"]  # type: ignore[index, call-overload]
            seen.setdefault(str(relation), []).append(turn.action.query == question.text.rstrip("?"))
    rates = {relation: sum(hits) / len(hits) for relation, hits in seen.items()}
    for relation, rate in rates.items():
        expected = 0.25 * (1 - habits) + habits * (relation in teacher.habits)
        assert abs(rate - expected) < 0.15


def test_the_teacher_answers_nothing_else(world: MultiHopWorld) -> None:
    teacher = MultiHopTeacher(world, questions(world, "train"))
    with pytest.raises(BadInput, match="only the questions of its own world"):
        asyncio.run(teacher.generate([Message("user", "The question: Who are you?")]))


def test_there_is_one_row_per_step_and_each_continues_the_last(world: MultiHopWorld) -> None:
    trajectory = next(s.success for s in taught(world, PERFECT, attempts=1) if s.success is not None)
    rows = step_rows(trajectory)
    assert len(rows) == len(trajectory.searches) + 1
    assert [row.output.count("Step ") for row in rows] == [1] * len(rows)
    for number, (before, after) in enumerate(pairwise(rows), start=1):
        assert after.instruction.startswith(before.instruction + before.output)
        assert isinstance(parse_step(before.output, number), StepTurn)
    assert rows[0].output.endswith(DOCUMENTS)
    assert QUERY not in rows[-1].output
    assert rows[-1].output.rstrip().endswith(str(trajectory.answer))


def test_a_pupil_learns_what_the_teacher_wrote_and_nothing_else(world: MultiHopWorld, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(world)
    small = MultiHopBaseConfig(hidden_size=32, layers=1, heads=2, intermediate_size=32)
    model = untrained_llama(small, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pupil = LocalModel(tmp_path, device="cpu", control_tokens=True)
    trajectories = [s.success for s in taught(world, TeacherConfig()) if s.success is not None][:50]
    for t in trajectories:
        example = pupil_example(pupil, t, STEPS, Stepwise.prompt(t.question))
        assert tokenizer.unk_token_id not in example.ids
        learnt = tokenizer.decode([i for i, own in zip(example.ids, example.learn, strict=True) if own])
        written = " ".join(s.text for s in t.segments if s.role == "policy")
        words = tokenizer.decode(tokenizer.encode(written, add_special_tokens=False)).split()
        assert learnt.split() == [*words, "<eos>"]
        assert tokenizer.decode(example.ids).startswith(f"<bos> {STEPS.token} The question: ")
        # The pupil, replaying the teacher's words, sees the very ids that it has learnt from.
        conversation = [Message("system", STEPS), Message("user", Stepwise.prompt(t.question))]
        for segment in t.segments[1:]:
            role = "policy" if segment.role == "policy" else "observation"
            conversation.append(Message(role, segment.text))
        assert (*pupil.render(conversation)[1], tokenizer.eos_token_id) == example.ids
