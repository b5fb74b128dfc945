"""Labels that a model gives itself: sampled once and kept, never lost to a kill, and honest about what is missing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents import Adaptive, Rag
from ken.core import BadInput, DataError, ModelError, Passage, Question, Sampling, SourceError
from ken.metrics import exact_match
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.training.curricula import AtGapLevel, GapLevel
from ken.training.labels import (
    DegenerateLabels,
    EqualLabels,
    SolveRates,
    boundary_questions,
    ever_solved,
    flip_rate,
    label,
    majority,
    majority_answer,
    measure_solve_rates,
    read_solve_rates,
    solved_at_least,
    write_solve_rates,
)
from ken.training.labels.cache import AnswerCache
from ken.training.labels.solve_rate import GIVE_UP_AFTER

QUESTIONS = [Question(id=f"q{i}", text=f"What is number {i}?", answers=(f"right{i}",)) for i in range(6)]
HOT = Sampling(temperature=1.0)


class Knows:
    """Answers question i correctly in i of every 5 samples; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.model = ScriptedModel(self._reply)

    def _reply(self, prompt: str) -> str:
        number = prompt.split("number ")[1].split("?", maxsplit=1)[0]
        self.asked[number] = turn = self.asked.get(number, 0) + 1
        said = f"it is right{number} I think" if (turn - 1) % 5 < int(number) else "no idea"
        return f"<think> hm </think><answer> {said} </answer>"


def measure(model: Any, questions: list[Question] = QUESTIONS, **options: Any) -> SolveRates:
    return asyncio.run(measure_solve_rates(model, questions, **options))


# --- solve rates


def test_the_rate_is_the_share_of_right_samples_and_its_histogram_counts_the_questions() -> None:
    seen: list[tuple[int, int]] = []
    measured = measure(Knows().model, samples=5, on_progress=lambda done, total: seen.append((done, total)))
    assert measured.rates == {f"q{i}": i / 5 for i in range(6)}
    assert measured.histogram() == (1, 1, 1, 1, 1, 1)
    assert (measured.samples, measured.asked, measured.failed) == (5, 6, {})
    assert seen == [(done, 6) for done in range(7)]


def test_another_matcher_is_stricter_and_asks_the_model_nothing(tmp_path: Path) -> None:
    knows = Knows()
    assert measure(knows.model, samples=5, cache=tmp_path / "c.jsonl").rates["q5"] == 1.0
    calls = len(knows.model.calls)
    strict = measure(knows.model, samples=5, cache=tmp_path / "c.jsonl", matcher=exact_match)
    assert strict.rates["q5"] == 0.0, "'it is right5 I think' contains the gold but is not it"
    assert (len(knows.model.calls), strict.asked) == (calls, 0)


def test_a_sample_without_an_answer_is_wrong() -> None:
    assert set(measure(ScriptedModel(lambda _: "I would rather not say"), samples=3).rates.values()) == {0.0}


def test_a_second_run_reads_the_cache_and_more_samples_draw_only_those_missing(tmp_path: Path) -> None:
    knows, cache = Knows(), tmp_path / "deep" / "cache.jsonl"
    first = measure(knows.model, samples=4, cache=cache)
    assert len(knows.model.calls) == 24
    second = measure(knows.model, samples=4, cache=cache)
    assert (second.rates, second.asked, len(knows.model.calls)) == (first.rates, 0, 24)
    more = measure(knows.model, samples=5, cache=cache)
    assert (more.asked, len(knows.model.calls)) == (6, 30)
    assert more.rates == {f"q{i}": i / 5 for i in range(6)}
    fewer = measure(knows.model, samples=1, cache=cache)
    assert (fewer.asked, fewer.rates["q1"]) == (0, 1.0), "the first of the samples"


def test_whatever_changes_the_samples_misses_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"

    def asked(model: Any, questions: list[Question] = QUESTIONS[:1], **options: Any) -> int:
        return measure(model, questions, samples=2, cache=cache, **options).asked

    assert asked(Knows().model) == 1
    assert asked(Knows().model) == 0
    other = Knows().model
    other.spec = "scripted/other"
    assert asked(other) == 1
    assert asked(Knows().model, sampling=HOT.but(temperature=0.7)) == 1
    assert asked(Knows().model, sampling=HOT.but(seed=1)) == 1
    assert asked(Knows().model, [QUESTIONS[0].model_copy(update={"text": "What, then, is number 0?"})]) == 1
    assert asked(Knows().model, [QUESTIONS[0].model_copy(update={"answers": ("another gold",)})]) == 0
    assert asked(Knows().model) == 0, "all of them share one file"


def test_strategies_are_told_apart_by_their_options_however_deep(tmp_path: Path) -> None:
    class Nowhere:
        name = "nowhere"

        async def search(self, query: str, k: int) -> list[Passage]:
            return []

        async def close(self) -> None: ...

    def asked(strategy: Any, top_k: int = 3) -> int:
        model = ScriptedModel(lambda _: "<assessment>yes</assessment> <answer> right0 </answer>")
        sources = Sources(search=Nowhere(), top_k=top_k)
        options = {"strategy": strategy, "sources": sources, "cache": tmp_path / "c.jsonl"}
        return measure(model, QUESTIONS[:1], samples=1, **options).asked

    assert [asked(Adaptive(4)), asked(Adaptive(4)), asked(Adaptive(5)), asked(Adaptive(4), top_k=5)] == [1, 0, 1, 1]
    golds = {"q0": (Passage(id="d", text="gold"),)}
    levels = [AtGapLevel(Rag(), golds, GapLevel(keep, gold=True)) for keep in (1, 1, 2)]
    assert [asked(strategy) for strategy in levels] == [1, 0, 1]
    unknown = Adaptive(4)
    unknown.extra = object()  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="measure without a cache"):
        asked(unknown)


VICTIM = """
import asyncio, os, sys
from ken.core import Question
from ken.models.scripted import ScriptedModel
from ken.training import json_lines
from ken.training.labels import measure_solve_rates

questions = [Question(id=f"q{i}", text=f"What is number {i}?", answers=(f"right{i}",)) for i in range(6)]
real, lines = os.write, 0

def write(handle, data):
    global lines
    if b'"answers"' in bytes(data):
        lines += 1
    if lines == 4:  # the fourth question: half a line reaches the file
        real(handle, data[: len(data) // 2])
        print("here", flush=True)
        sys.stdin.read()
    return real(handle, data)

json_lines.os.write = write
model = ScriptedModel(lambda prompt: "<answer> right" + prompt.split("number ")[1][0] + " </answer>")
asyncio.run(measure_solve_rates(model, questions, samples=3, cache=sys.argv[1]))
"""


def test_a_kill_in_the_middle_of_a_line_loses_that_question_only(tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    torn = cache.read_bytes()
    assert not torn.endswith(b"\n")
    model = ScriptedModel(lambda prompt: "<answer> right" + prompt.split("number ")[1][0] + " </answer>")
    measured = measure(model, samples=3, cache=cache)
    assert set(measured.rates.values()) == {1.0}
    assert measured.asked == 3, "three were whole, the torn one and the two not reached are sampled"
    assert cache.read_bytes().startswith(torn), "the file is only ever appended to"
    assert measure(model, samples=3, cache=cache).asked == 0


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1, max_size=5))
def test_any_answers_come_back_from_the_cache_as_they_went_in(answers: list[str | None]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # the second time the setting is already in the file
            kept = AnswerCache(Path(folder) / "c.jsonl", {"model": "m"})
            kept.add(QUESTIONS[0], answers)
            kept.close()
        again = AnswerCache(Path(folder) / "c.jsonl", {"model": "m"})
        assert again[QUESTIONS[0]] == tuple(answers)
        assert again[QUESTIONS[1]] == ()
        again.close()
        lines = (Path(folder) / "c.jsonl").read_text().splitlines()
        assert sum("setting" in json.loads(line) for line in lines) == 1


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    cache = tmp_path / "c.jsonl"
    cache.write_text('[]\n7\n{"run": 1}\nnot json\n\xff\n')
    knows = Knows()
    assert measure(knows.model, samples=5, cache=cache).rates["q2"] == 0.4
    assert measure(knows.model, samples=5, cache=cache).asked == 0


def test_a_cache_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        measure(Knows().model, cache=tmp_path)  # a folder


def test_a_question_on_which_the_model_fails_has_no_rate_and_is_tried_again(tmp_path: Path) -> None:
    down = True

    def reply(prompt: str) -> str:
        if down and "number 3" in prompt:
            raise ModelError("the prompt is too long")
        return "<answer> right3 </answer>"

    model, cache = ScriptedModel(reply), tmp_path / "c.jsonl"
    with pytest.warns(RuntimeWarning, match=r"1 of 6 questions have no solve rate.*too long"):
        measured = measure(model, samples=2, cache=cache)
    assert set(measured.failed) == {"q3"}
    assert "q3" not in measured.rates
    down = False
    again = measure(model, samples=2, cache=cache)
    assert (again.asked, again.rates["q3"]) == (1, 1.0)


def test_a_model_that_is_down_ends_the_run_and_what_was_sampled_stays(tmp_path: Path) -> None:
    many = [Question(id=f"m{i}", text=f"What is number {i}?", answers=("x",)) for i in range(600)]
    calls = 0

    def reply(prompt: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 100:
            raise ModelError("connection refused")
        return "<answer> x </answer>"

    model, cache = ScriptedModel(reply), tmp_path / "c.jsonl"
    with pytest.raises(ModelError, match=rf"{GIVE_UP_AFTER} questions in a row .*refused.*in the cache"):
        measure(model, many, samples=1, cache=cache)
    calls = -10_000
    assert measure(model, many, samples=1, cache=cache).asked == 500


def test_when_every_question_fails_there_is_nothing_to_return() -> None:
    def reply(prompt: str) -> str:
        raise ModelError("no such model")

    with pytest.raises(ModelError, match=r"every question .*no such model"):
        measure(ScriptedModel(reply), samples=2)


def test_a_failed_search_is_a_failed_attempt_not_a_wrong_answer() -> None:
    class Down:
        name = "down"

        async def search(self, query: str, k: int) -> list[Passage]:
            raise SourceError("nobody listens")

        async def close(self) -> None: ...

    with pytest.raises(ModelError, match="nobody listens"):
        measure(Knows().model, strategy=Rag(), sources=Sources(search=Down()), samples=2)


@pytest.mark.parametrize(
    ("options", "questions", "message"),
    [
        ({"samples": 0}, QUESTIONS, r"samples is 0 \(K\)"),
        ({"samples": -1}, QUESTIONS, "at least one"),
        ({"samples": 2, "sampling": Sampling(temperature=0)}, QUESTIONS, "all the same"),
        ({}, [], "no questions"),
        ({}, [QUESTIONS[0], QUESTIONS[0]], "given twice"),
        ({}, [Question(id="x", text="?")], "'x' has no accepted answers"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: Any, questions: list[Question], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        measure(Knows().model, questions, **options)


# --- labels


@pytest.mark.parametrize(
    ("rate", "tau", "known"),
    [(0.5, 0.5, True), (0.375, 0.5, False), (0.3, 0.3, True), (0, 0, True), (0, 0.01, False), (1, 1, True)],
)
def test_the_model_knows_what_it_solves_at_least_tau_of_the_time(rate: float, tau: float, known: bool) -> None:
    assert label(rate, tau) is known


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(tau: float) -> None:
    with pytest.raises(BadInput, match="tau"):
        label(0.5, tau)
    with pytest.raises(BadInput, match="tau"):
        SolveRates({"q": 0.5}, 2, {}, 1).labels(tau)


def test_labels_that_are_all_equal_make_the_stage_degenerate() -> None:
    measured = SolveRates({"a": 0.0, "b": 0.5, "c": 1.0}, 2, {}, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measured.labels() == {"a": False, "b": True, "c": True}
    with pytest.warns(DegenerateLabels, match=r"stage 2 is degenerate: all 3 labels are 'yes' at tau = 0"):
        assert all(measured.labels(0, stage="stage 2").values())
    with pytest.warns(DegenerateLabels, match=r"all 1 labels are 'no'"):
        SolveRates({"a": 0.0}, 2, {}, 1).labels()


def told(*batches: Sequence[bool | None], batch_limit: int = 3, label_limit: int = 6) -> list[int]:
    """After which batches, counted from 1, it is said that labels stay equal."""
    problems: list[str] = []
    watch = EqualLabels(batches=batch_limit, labels=label_limit, say=problems.append)
    counts = [0]
    for batch in batches:
        watch.see(batch, 0.5)
        counts.append(len(problems))
    return [number for number in range(1, len(counts)) if counts[number] > counts[number - 1]]


def test_labels_made_on_the_way_are_degenerate_after_enough_batches_and_labels() -> None:
    no, yes = [False, False], [True, True]
    assert told(no, no, no, no, no) == [3], "said once"
    assert told([False], [False], [False], [False], [False], [False]) == [6], "three labels are few"
    assert told([False] * 9, no) == [], "one batch is no course"
    assert told(no, no, [False, True], no, no, no) == [6], "what differs begins anew"
    assert told(no, no, yes, yes, yes) == [5], "the other label begins anew"
    assert told(no, no, no, [True], no, no, no) == [3, 7], "said again after labels differed"
    assert told(no, [None], [], [None, False], no) == [], "failed rollouts give no label and end nothing"
    assert told(no, [None], no, [None, False], no) == [5]


def test_by_default_it_is_a_warning_that_says_what_to_do() -> None:
    watch = EqualLabels(batches=2, labels=2)
    watch.see([True, True], 0.25)
    with pytest.warns(
        DegenerateLabels, match=r"last 4 labels, of 2 batches, are 'yes' at tau = 0\.25, .*choose another"
    ):
        watch.see([True, True], 0.25)


def test_the_flip_rate_is_the_share_of_shared_questions_whose_label_changed() -> None:
    before = {"a": True, "b": True, "c": False, "gone": True}
    assert flip_rate(before, {"a": False, "b": True, "c": False, "d": True, "new": True}) == pytest.approx(1 / 3)
    with pytest.raises(BadInput, match="share no question"):
        flip_rate({"a": True}, {"b": True})


def test_probe_results_are_a_file_that_others_can_use(tmp_path: Path) -> None:
    measured = measure(Knows().model, samples=5)
    write_solve_rates(tmp_path / "rates.jsonl", QUESTIONS, measured)
    assert read_solve_rates(tmp_path / "rates.jsonl") == measured.rates
    line = json.loads((tmp_path / "rates.jsonl").read_text().splitlines()[2])
    assert line == {"id": "q2", "question": "What is number 2?", "pass_rate": 0.4}
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "question": "?", "pass_rate": 0.5}\n{"id": "b", "pass_rate": 2}\n')
    with pytest.raises(DataError, match=r"bad.jsonl:2: the pass_rate is 2"):
        read_solve_rates(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"bad.jsonl:1: expected"):
        read_solve_rates(tmp_path / "bad.jsonl")
    with pytest.raises(BadInput, match="cannot be read"):
        read_solve_rates(tmp_path / "absent.jsonl")


# --- votes


@pytest.mark.parametrize(
    ("votes", "winner", "share", "agrees"),
    [
        ([True] * 7 + [False], True, 0.875, [True] * 7 + [False]),  # KnowRL's "high consensus", k = 8
        ([True] * 4 + [False] * 4, None, 0.0, [False] * 8),  # a tie has no majority: nobody agrees
        ([False] * 4 + [True] * 3 + [None], False, 0.5, [True] * 4 + [False] * 4),  # unreadable: 0, but one of k
        ([None, None], None, 0.0, [False, False]),
        ([True], True, 1.0, [True]),
        (["a", "b", "c", "b"], "b", 0.5, [False, True, False, True]),
        (["a", "b", "c"], None, 0.0, [False] * 3),
    ],
)
def test_the_vote(votes: list[Any], winner: Any, share: float, agrees: list[bool]) -> None:
    vote = majority(votes)
    assert (vote.winner, vote.share, list(vote.agrees)) == (winner, share, agrees)


def test_answers_are_the_same_vote_when_they_are_equal_after_normalisation() -> None:
    vote = majority_answer(["The North Sea.", "north sea", "Baltic", None, "A", "The"])
    assert (vote.winner, vote.share) == ("The North Sea.", pytest.approx(1 / 3))
    assert vote.agrees == (True, True, False, False, False, False), "'A' and 'The' both normalise to nothing"


def test_no_votes_are_refused() -> None:
    with pytest.raises(BadInput, match="no votes"):
        majority([])
    with pytest.raises(TypeError):
        majority("yes")


@given(st.lists(st.one_of(st.none(), st.booleans()), min_size=1, max_size=16))
def test_of_two_verdicts_the_winner_has_at_least_half_of_those_cast(votes: list[bool | None]) -> None:
    vote = majority(votes)
    cast = [v for v in votes if v is not None]
    assert (vote.winner is None) == (cast.count(True) == cast.count(False))
    assert vote.share == sum(vote.agrees) / len(votes)
    if vote.winner is not None:
        assert sum(vote.agrees) > len(cast) / 2
        assert majority(votes[::-1]).winner == vote.winner


# --- both sides of the boundary


def sides(easy: int, hard: int) -> tuple[list[Question], dict[str, float]]:
    questions = [Question(id=f"{i:03}", text=f"q{i}?", answers=("a",)) for i in range(easy + hard)]
    return questions, {q.id: 1 / 16 if i < easy else 0.0 for i, q in enumerate(questions)}


def test_half_of_the_questions_are_easy_by_default_and_as_many_as_there_are() -> None:
    questions, rates = sides(30, 50)
    drawn = boundary_questions(questions, rates)
    assert (len(drawn.easy), len(drawn.hard)) == (30, 31), "of 61, half rounded to even"
    assert all(rates[q.id] > 0 for q in drawn.easy)
    assert all(rates[q.id] == 0 for q in drawn.hard)
    assert sorted(q.id for q in drawn.questions) == sorted(q.id for q in (*drawn.easy, *drawn.hard))
    first_half = [rates[q.id] > 0 for q in drawn.questions[:30]]
    assert 5 < sum(first_half) < 25, "shuffled"


@pytest.mark.parametrize(("ratio", "easy", "hard"), [(0, 0, 20), (1, 20, 0), (0.25, 5, 15), (0.5, 10, 10)])
def test_the_ratio_is_the_share_of_easy_ones(ratio: float, easy: int, hard: int) -> None:
    drawn = boundary_questions(*sides(30, 50), n=20, ratio=ratio)
    assert (len(drawn.easy), len(drawn.hard)) == (easy, hard)


def test_what_is_easy_is_a_rule() -> None:
    questions, _ = sides(2, 2)
    rates = dict(zip([q.id for q in questions], [0.0, 1 / 16, 0.5, 1.0], strict=True))
    assert [len(boundary_questions(questions, rates, n=2, rule=ever_solved).easy)] == [1]
    strict = boundary_questions(questions, rates, n=4, rule=solved_at_least(0.5))
    assert sorted(rates[q.id] for q in strict.easy) == [0.5, 1.0]
    with pytest.raises(BadInput, match="threshold of easy"):
        solved_at_least(0)


@pytest.mark.parametrize(("easy", "hard", "lacking"), [(0, 40, "easy"), (40, 0, "hard")])
@pytest.mark.parametrize("ratio", [0, 0.5, 1])
def test_a_split_with_an_empty_side_names_what_the_probe_found(
    easy: int, hard: int, lacking: str, ratio: float
) -> None:
    with pytest.raises(BadInput, match=rf"the probe found {easy} easy and {hard} hard .*add {lacking}"):
        boundary_questions(*sides(easy, hard), n=4, ratio=ratio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 30}, r"15 easy and 15 hard .* found 10 easy and 50 hard questions; ask for at most 21"),
        ({"n": 0}, "at least one"),
        ({"ratio": 1.5}, r"must lie in \[0, 1\]"),
        ({"ratio": float("nan")}, r"must lie in \[0, 1\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        boundary_questions(*sides(10, 50), **options)


def test_questions_without_a_usable_rate_are_named() -> None:
    questions, rates = sides(2, 2)
    with pytest.raises(BadInput, match="'003' has no solve rate"):
        boundary_questions(questions, {k: v for k, v in rates.items() if k != "003"})
    with pytest.raises(BadInput, match=r"solve rate of '001' is 1\.5"):
        boundary_questions(questions, {**rates, "001": 1.5})
    with pytest.raises(BadInput, match="'000' is given twice"):
        boundary_questions([*questions, questions[0]], rates)


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 3), st.data())
def test_a_draw_is_exact_reproducible_and_nested(easy: int, hard: int, ratio: float, seed: int, data: Any) -> None:
    questions, rates = sides(easy, hard)
    most = boundary_questions(questions, rates, ratio=ratio, seed=seed)
    size = len(most.questions)
    n = data.draw(st.integers(1, size))
    drawn = boundary_questions(questions[::-1], rates, n=n, ratio=ratio, seed=seed)
    assert drawn == boundary_questions(questions, rates, n=n, ratio=ratio, seed=seed)
    assert len(drawn.easy) == round(n * ratio)
    assert len({q.id for q in drawn.questions}) == n
    assert drawn.easy == most.easy[: len(drawn.easy)]
    assert drawn.hard == most.hard[: len(drawn.hard)]
    with pytest.raises(BadInput, match="asked for"):
        boundary_questions(questions, rates, n=size + 1, ratio=ratio, seed=seed)


# --- the model of the lab


def test_a_real_model_is_probed_once_and_again_when_its_weights_change(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `lab`")
    from ken.lab import FactWorld
    from ken.lab.render import questions
    from ken.models import load_model
    from ken.models.fingerprint import fingerprint

    seen = questions(FactWorld(), "train")
    chosen = [*[q for q in seen if q.meta["exposures"] >= 20][:20], *[q for q in seen if not q.meta["exposures"]][:20]]
    model: Any = load_model("lab/factworld")
    cache = tmp_path / "cache.jsonl"
    first = measure(model, chosen, samples=4, cache=cache)
    assert first.asked == 40
    known = [first.rates[q.id] for q in chosen]
    assert sum(known[:20]) / 20 > 0.5, "facts often seen in pretraining"
    assert sum(known[20:]) / 20 < 0.2, "facts never seen"
    drawn = boundary_questions(chosen, first.rates, n=20)
    assert sum(q.meta["exposures"] > 0 for q in drawn.easy) > sum(q.meta["exposures"] > 0 for q in drawn.hard)

    calls = 0
    run = model._run

    def counted(requests: Any) -> Any:
        nonlocal calls
        calls += 1
        return run(requests)

    model._run = counted
    again = measure(model, chosen, samples=4, cache=cache)
    assert (again.rates, again.asked, calls) == (first.rates, 0, 0)

    before = fingerprint(model)
    with torch.no_grad():
        next(model.model.parameters())[0, 0] += 1e-3  # one more step of training
    assert fingerprint(model) != before
    assert measure(model, chosen[:4], samples=1, cache=cache).asked == 4
    assert calls == 1, "four questions, one batch"
