"""Introspection: what is made up, what is thrown away, what enters the pool, how it is judged, and when to stop."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.agents import Strategy
from ken.agents.attempt import Attempt
from ken.agents.protocol import parse_decision
from ken.core import BadInput, DataError, ModelError, Question, Sampling
from ken.core.answerable import answerable, read_answerable
from ken.metrics.diversity import distinct_n, rouge_l, self_bleu
from ken.metrics.feasibility import feasibility, feasibility_by
from ken.models.conversation import Instruction
from ken.models.local import LocalModel
from ken.models.scripted import ScriptedModel
from ken.training.introspection import REASONS, Filters, Introspector, Request, read_question, request_text
from ken.training.introspection_rounds import GUARDS, balanced_units, stopping
from ken.training.monitors import Watch
from ken.training.rewards.consensus import INTENDED, agree, majority_rewards
from ken.training.rollouts import Group, Task
from ken.training.self_analysis import Analysis, SelfAnalyser, consensus_histogram, extrinsic, intrinsic, judged
from ken.training.task_pool import InventedTask, TaskPool, task_id
from tests.bandits import bandit_model

TOPICS = (
    *("rivers", "cheese", "comets", "tennis", "harbours", "violins", "glaciers"),
    *("bees", "castles", "algebra", "marble", "opera", "tulips"),
)


def made_up(text: str, feasible: bool, *, round: int = 0, reason: str = "") -> InventedTask:
    return InventedTask(
        question=Question(id=task_id(text), text=text), written=text, feasible=feasible, round=round, reason=reason
    )


def seeds(number: int = 4) -> list[InventedTask]:
    able = [made_up(f"Who first wrote about {topic} in Latin?", True) for topic in TOPICS[:number]]
    return able + [made_up(f"When will somebody lose all {topic} tomorrow?", False) for topic in TOPICS[:number]]


def author(*texts: str) -> ScriptedModel:
    """A model that writes these texts, one a call."""
    turn = count()
    return ScriptedModel(lambda prompt: texts[next(turn) % len(texts)])


def inventive() -> ScriptedModel:
    """A model that never writes the same twice: every word of a text is its own."""
    turn = count()
    return ScriptedModel(lambda prompt: " ".join(f"w{next(turn)}" for _ in range(5)) + "?")


def introspect(model: ScriptedModel, pool: TaskPool | None = None, **options: object):
    settings = {name: options.pop(name) for name in ("per_run", "examples", "reasons") if name in options}
    return asyncio.run(Introspector(**settings).run(model, pool or TaskPool(seeds()), **options))  # type: ignore[arg-type]


# --- what is asked for, and read
# -------------------------------------------------------------------------------------------------------------------


def test_there_are_eleven_reasons_in_five_types() -> None:
    assert Counter(reason.type for reason in REASONS) == {
        "capability boundary": 3,
        "contextual awareness": 2,
        "identification of ambiguity": 2,
        "ethical integrity": 2,
        "temporal perception": 2,
    }
    assert len({reason.name for reason in REASONS}) == 11


def test_both_kinds_and_all_reasons_are_asked_for_equally_often() -> None:
    model = inventive()
    made = introspect(model, wanted=110, runs=11)
    assert len(made.written) == 110
    assert Counter(task.feasible for task in made.candidates) == {True: 55, False: 55}
    assert Counter(task.reason for task in made.candidates if not task.feasible) == {r.name: 5 for r in REASONS}
    assert {task.reason for task in made.candidates if task.feasible} == {""}
    assert all("Kind: feasible." in call.prompt or "Kind: infeasible, and only" in call.prompt for call in model.calls)


def test_a_request_names_kind_reason_and_examples_and_no_verdict_on_its_own_question() -> None:
    text = request_text(Request(False, REASONS[3]), ["Where is it?", "Who\nwas she?"])
    assert text.startswith("Kind: infeasible, and only because context that it needs is missing.")
    assert "\n- Where is it?\n- Who was she?\n" in text
    assert "Examples" not in request_text(Request(True), [])


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Who wrote Faust?", "Who wrote Faust?"),
        ("Question: Who wrote Faust?\n\nIt is easy.", "Who wrote Faust?"),
        ("- Who wrote Faust?", "Who wrote Faust?"),
        ("1. Who wrote Faust?", "Who wrote Faust?"),
        ('```json\n{"question": "Who wrote Faust?", "kind": 1}\n```', "Who wrote Faust?"),
        ('{"task": "Who wrote Faust?"}', "Who wrote Faust?"),
        ("<think>something easy</think> Who wrote Faust?", "Who wrote Faust?"),
        ("  ", None),
        ('{"question": ""}', None),
        ("{not json} who?", "{not json} who?"),
    ],
)
def test_the_question_is_read_out_of_what_a_model_writes(written: str, text: str | None) -> None:
    found = read_question(written)
    assert (found.text if found else None) == text


@given(st.text())
def test_reading_never_fails_on_what_a_model_writes(text: str) -> None:
    found = read_question(text)
    assert found is None or (found.text and found.id == task_id(found.text))


# --- what is thrown away
# -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Who wrote Faust?", "too short"),
        ("Who wrote Faust once?", None),
        ("word " * 150, None),
        ("word " * 151, "too long"),
        ("Describe the picture shown above.", "needs more than text"),
        ("Open the file and count its lines.", "needs more than text"),
        ("Which profile does the mapping have?", None),
        ("?Who was the first king", "odd start"),
        ("Über wen schrieb der Dichter damals?", "odd start"),
        ("日本 の 首都 は どこ です か", "odd start"),
        ("Write an infeasible question about bees.", "leaks the verdict"),
        ("Is this unanswerable: what is the wind?", "leaks the verdict"),
        ("What is up? This question cannot be answered.", "leaks the verdict"),
        ("Tell me <assessment>no</assessment> about the sea.", "leaks the verdict"),
        ("You cannot answer this: who am I?", "leaks the verdict"),
        ("Which vaccines are feasibly stored at home?", "leaks the verdict"),
        ("Why can a falling cat land on its feet?", None),
    ],
)
def test_filters(text: str, problem: str | None) -> None:
    assert Filters().problem(text.strip()) == problem


def test_copies_of_the_seed_and_of_each_other_are_dropped() -> None:
    pool = TaskPool(seeds())
    copies = (pool.tasks[0].written, "Who first wrote about rivers in old Latin?", "What do ten bees weigh now?")
    made = introspect(author(*copies), pool, wanted=10, runs=1, max_runs=1)
    assert [task.written for task in made.candidates] == ["What do ten bees weigh now?"]
    assert made.dropped["there already"] >= 3
    assert made.dropped["close to another"] >= 3
    assert len(made.written) == 10
    assert 0.7 <= rouge_l(copies[0], copies[1]) < 1


def test_it_goes_on_until_there_are_enough_and_not_for_ever() -> None:
    enough = introspect(inventive(), wanted=60, runs=2)
    assert (len(enough.candidates), enough.runs) == (60, 6)
    never = introspect(author("no"), wanted=60, runs=2)
    assert (never.candidates, never.runs, never.dropped) == ([], 8, {"too short": 80})
    surplus = introspect(inventive(), wanted=10, runs=3)
    assert (len(surplus.candidates), surplus.runs, surplus.dropped) == (10, 3, {"enough of its kind": 20})


def test_candidates_say_where_they_come_from() -> None:
    pool = TaskPool(seeds())
    made = introspect(inventive(), pool, wanted=20, runs=2, round=3, examples=2)
    task = made.candidates[-1]
    assert (task.round, task.run, task.feasible) == (3, 1, False)
    assert len(task.shown) == 2
    assert set(task.shown) <= {seed.question.id for seed in pool.tasks if not seed.feasible}


def test_introspection_is_the_same_again_with_the_same_seed() -> None:
    first, second = (inventive() for _ in range(2))
    for model in (first, second):
        introspect(model, wanted=10, runs=1, seed=5)
    assert [(c.prompt, c.sampling) for c in first.calls] == [(c.prompt, c.sampling) for c in second.calls]
    assert len({call.sampling.seed for call in first.calls}) == 10


@pytest.mark.parametrize("options", [{"per_run": 0}, {"examples": -1}, {"seed_share": 1.5}, {"sampling": Sampling()}])
def test_settings_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        Introspector(**options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="there is no round"):
        introspect(inventive(), wanted=0)


# --- the pool
# -------------------------------------------------------------------------------------------------------------------


def test_a_seed_of_one_kind_is_refused() -> None:
    for some in (seeds()[:4], []):
        with pytest.raises(BadInput, match="both kinds"):
            TaskPool(some)
    with pytest.raises(BadInput, match="twice"):
        TaskPool([*seeds(), seeds()[0]])
    with pytest.raises(BadInput, match="consensus for entry"):
        TaskPool(seeds(), entry=0.5)


@pytest.mark.parametrize(
    ("yes", "no", "unread", "feasible", "enters"),
    [
        (8, 0, 0, True, True),
        (7, 1, 0, True, True),
        (6, 2, 0, True, False),
        (7, 0, 1, True, True),
        (6, 0, 2, True, False),
        (0, 8, 0, True, False),
        (1, 7, 0, False, True),
        (4, 4, 0, False, False),
        (0, 0, 8, False, False),
    ],
)
def test_a_task_enters_when_nearly_all_judge_it_as_its_author_meant(
    yes: int, no: int, unread: int, feasible: bool, enters: bool
) -> None:
    pool = TaskPool(seeds())
    task = made_up("What is a brand new question about?", feasible, round=2)
    entered = pool.admit([task], [[True] * yes + [False] * no + [None] * unread])
    assert len(entered) == len(pool) - 8 == enters
    if enters:
        assert (pool.tasks[-1].round, pool.tasks[-1].consensus) == (2, max(yes, no) / 8)
        assert pool.admit([task], [[feasible] * 8]) == []


@given(st.integers(0, 12), st.integers(0, 9), st.floats(0, 1), st.booleans())
def test_examples_are_of_one_kind_mixed_from_seed_and_pool(
    grown: int, wanted: int, share: float, feasible: bool
) -> None:
    pool = TaskPool(seeds(6))
    news = [made_up(f"news {i} {TOPICS[i]} with some words", feasible, round=1) for i in range(grown)]
    pool.admit(news, [[feasible] * 8] * grown)
    drawn = pool.examples(feasible, wanted, np.random.default_rng(0), seed_share=share)
    assert len({task.question.id for task in drawn}) == len(drawn) == min(wanted, 6 + grown)
    assert {task.feasible for task in drawn} <= {feasible}
    if grown >= wanted and wanted <= 6:
        assert sum(task.round == 0 for task in drawn) == round(share * wanted)


def test_replay_takes_both_kinds_equally() -> None:
    pool = TaskPool(seeds(10))
    for count_, expected in ((10, (5, 5)), (20, (10, 10)), (200, (10, 10)), (0, (0, 0))):
        drawn = pool.sample(count_, np.random.default_rng(1))
        assert (sum(t.feasible for t in drawn), sum(not t.feasible for t in drawn)) == expected


def test_a_pool_is_saved_with_its_provenance(tmp_path: Path) -> None:
    pool = TaskPool(seeds())
    pool.admit([made_up("What is a brand new question about?", True, round=4)], [[True] * 8])
    pool.save(tmp_path / "pool.jsonl")
    assert TaskPool.load(tmp_path / "pool.jsonl").tasks == pool.tasks
    (tmp_path / "pool.jsonl").write_text('{"question": 1}\n')
    with pytest.raises(DataError, match=r"pool\.jsonl:1"):
        TaskPool.load(tmp_path / "pool.jsonl")
    with pytest.raises(BadInput, match="cannot be read"):
        TaskPool.load(tmp_path / "none.jsonl")


def test_a_task_is_asked_without_its_golds_and_with_its_intended_kind() -> None:
    task = InventedTask(question=Question(id="a", text="?a", answers=("x",)), written="a", feasible=False)
    assert task.asked.answers == ()
    assert task.asked.meta[INTENDED] is False


# --- judging
# -------------------------------------------------------------------------------------------------------------------


def judge(verdict: Callable[[str, int], str]) -> ScriptedModel:
    """A model that judges by the question and by how often it was asked."""
    asked: Counter[str] = Counter()

    def reply(prompt: str) -> str:
        asked[prompt] += 1
        return f"<think> so </think> <assessment> {verdict(prompt, asked[prompt])} </assessment>"

    return ScriptedModel(reply)


def test_every_task_is_judged_k_times_in_a_fresh_context() -> None:
    model = judge(lambda prompt, i: "yes" if i <= 6 else "no" if i == 7 else "maybe")
    questions = [Question(id=name, text=f"What is {name}?") for name in "ab"]
    first, second = asyncio.run(SelfAnalyser(samples=8).run(model, questions))
    assert Counter(first.verdicts) == {True: 6, False: 1, None: 1}
    assert (first.majority, first.consensus, second.consensus) == (True, 0.75, 0.75)
    assert all(len(call.conversation) == 2 for call in model.calls)
    assert len({call.sampling.seed for call in model.calls}) == 16


def test_a_tie_has_no_majority_and_pays_nobody() -> None:
    tie = Analysis(Question(id="a", text="a"), (True, False) * 4)
    assert (tie.majority, tie.consensus) == (None, 0.0)
    assert majority_rewards(tie.verdicts) == [0.0] * 8


def test_a_model_that_fails_casts_no_vote() -> None:
    def broken(prompt: str) -> str:
        raise ModelError("away")

    (analysis,) = asyncio.run(SelfAnalyser(samples=3).run(ScriptedModel(broken), [Question(id="a", text="a")]))
    assert analysis.verdicts == (None, None, None)


def test_judging_that_cannot_work_is_refused() -> None:
    with pytest.raises(BadInput, match="all the same"):
        SelfAnalyser(samples=8, sampling=Sampling())
    with pytest.raises(BadInput, match="at least once"):
        SelfAnalyser(samples=0)
    assert SelfAnalyser(samples=1, sampling=Sampling()).samples == 1
    with pytest.raises(BadInput, match="group size of at least 2"):
        agree(Group(Task(Question(id="a", text="a"), SelfAnalyser().strategy), ()))


def test_consensus_is_counted_in_five_buckets() -> None:
    votes = [(True,) * n + (False,) * (8 - n) for n in range(9)]
    analyses = [Analysis(Question(id="a", text="a"), v) for v in votes]
    assert consensus_histogram(analyses) == pytest.approx((1 / 9, 2 / 9, 2 / 9, 2 / 9, 2 / 9))
    assert consensus_histogram([]) == (0.0,) * 5


def test_the_intrinsic_evaluation_is_agreement_with_the_models_own_kind_by_type_of_self_knowledge() -> None:
    """An author that marks what it makes up, and a judge that reads the marks but for offensive topics: it takes ten of
    eleven reasons as meant."""
    turn = count()

    def reply(prompt: str) -> str:
        if "Kind: " in prompt:
            mark = "offensive" if "offensive" in prompt else "hard" if "infeasible, and" in prompt else "easy"
            return f"{mark} a{next(turn)} b{next(turn)} c{next(turn)}?"
        question = prompt.rpartition("\n\n")[2]
        return f"<assessment>{'no' if question.startswith('hard') else 'yes'}</assessment>"

    pool = TaskPool(seeds())
    found, made = asyncio.run(intrinsic(ScriptedModel(reply), Introspector(), pool, SelfAnalyser(samples=2), count=110))
    assert len(made.candidates) == 110
    assert found.single.n == 220
    assert found.single.accuracy == found.voted.accuracy == pytest.approx(105 / 110)
    assert found.single.overconfident == pytest.approx(5 / 110)
    assert found.by_type["feasible"].accuracy == 1
    assert found.by_type["ethical integrity"].accuracy == 0.5
    others = [scores for name, scores in found.by_type.items() if name not in {"feasible", "ethical integrity"}]
    assert [scores.accuracy for scores in others] == [1.0] * 4


def test_a_model_that_makes_up_nothing_cannot_be_evaluated() -> None:
    with pytest.raises(BadInput, match="too short"):
        asyncio.run(intrinsic(author("no"), Introspector(), TaskPool(seeds()), SelfAnalyser(samples=2), count=20))


def test_the_extrinsic_evaluation_is_against_what_a_file_says(tmp_path: Path) -> None:
    records = [
        {"question_id": i, "question": f"What is {i}?", "answer": ["x"] if i % 2 else None, "answerable": bool(i % 2)}
        for i in range(1, 9)
    ]
    (tmp_path / "SelfAware.json").write_text(json.dumps({"example": records}))
    questions = list(read_answerable(tmp_path / "SelfAware.json"))
    model = judge(lambda prompt, i: "no" if "What is 2?" in prompt or "What is 3?" in prompt else "yes")
    labels = [answerable(question) for question in questions]
    found = asyncio.run(extrinsic(model, questions, labels, SelfAnalyser(samples=1, sampling=Sampling())))
    # three of four answerable ones, and one of four others, are judged rightly
    assert found.single.accuracy == 0.5
    assert found.single.f1_infeasible == pytest.approx(2 * 1 / (2 * 1 + 1 + 3))
    assert found.single.f1_feasible == pytest.approx(2 * 3 / (2 * 3 + 3 + 1))
    with pytest.raises(BadInput, match="no questions"):
        asyncio.run(extrinsic(model, [], [], SelfAnalyser()))


# --- scores
# -------------------------------------------------------------------------------------------------------------------


def test_an_unreadable_verdict_is_wrong_for_either_kind() -> None:
    scores = feasibility([None, None, True, False], [True, False, True, False])
    assert (scores.n, scores.unreadable, scores.accuracy) == (4, 2, 0.5)
    assert scores.f1_feasible == scores.f1_infeasible == scores.macro_f1 == pytest.approx(2 / 3)
    assert scores.says_feasible == 0.5
    assert feasibility([None], [True]).says_feasible == 0


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.booleans(), st.sampled_from("xyz")), min_size=1))
def test_scores_by_key_add_up(rows: list[tuple[bool | None, bool, str]]) -> None:
    verdicts, labels, keys = (list(column) for column in zip(*rows, strict=True))
    whole, parts = feasibility(verdicts, labels), feasibility_by(verdicts, labels, keys)
    assert sum(part.n for part in parts.values()) == whole.n == len(rows)
    assert sum(part.accuracy * part.n for part in parts.values()) == pytest.approx(whole.accuracy * whole.n)
    assert whole.accuracy + whole.overconfident + whole.underconfident + whole.unreadable / whole.n == pytest.approx(1)


def test_scores_need_tasks() -> None:
    for verdicts, labels in (([], []), ([True], [])):
        with pytest.raises(ValueError, match=r"verdicts"):
            feasibility(verdicts, labels)
    with pytest.raises(ValueError, match="keys"):
        feasibility_by([True], [True], [])
    with pytest.raises(ValueError, match="no verdicts"):
        judged([], [])


def test_rouge_l() -> None:
    assert rouge_l("police killed the gunman", "police kill the gunman") == 0.75  # Lin 2004, section 3
    assert rouge_l("police killed the gunman", "the gunman kill police") == 0.5
    assert rouge_l("", "a") == 0
    assert rouge_l("A b, c!", "a B c") == 1


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_rouge_l_is_symmetric_and_one_only_for_equal_words(first: list[str], second: list[str]) -> None:
    one, other = " ".join(first), " ".join(second)
    assert rouge_l(one, other) == rouge_l(other, one)
    assert (rouge_l(one, other) == 1) == (first == second != [])


def test_distinct_n() -> None:
    assert distinct_n(["a b a", "a b c"], 1) == 3 / 6
    assert distinct_n(["a b a", "a b c"], 2) == 3 / 4
    assert math.isnan(distinct_n(["a"], 2))
    with pytest.raises(TypeError):
        distinct_n("a b", 1)
    with pytest.raises(ValueError, match="at least one word"):
        distinct_n(["a"], 0)


def test_self_bleu_is_one_for_copies_low_for_different_texts_and_agrees_with_the_definition() -> None:
    assert self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(1)
    assert self_bleu(["one two three four", "five six seven eight"]) < 0.15
    # "a b c" against "a b d" up to bigrams: precisions 2/3 and 1/2, equal lengths
    assert self_bleu(["a b c", "a b d"], 2) == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    # a word said twice counts as often as the reference has it; a text shorter than the nearest reference is penalised
    expected = (math.exp(1 - 2 / 1) * 1 + math.sqrt(1 / 2 * 0.1 / 1)) / 2
    assert self_bleu(["a", "a a"], 2) == pytest.approx(expected)
    assert math.isnan(self_bleu(["only one"]))


# --- rounds
# -------------------------------------------------------------------------------------------------------------------


def test_kinds_are_trained_on_in_pairs_and_every_task_is() -> None:
    tasks = [made_up(f"able {i} {TOPICS[i]}", True) for i in range(3)]
    tasks += [made_up(f"unable {i} {TOPICS[i]}", False) for i in range(7)]
    units = balanced_units(tasks, SelfAnalyser().strategy, np.random.default_rng(0))
    assert len(units) == 7
    assert all([task.question.meta[INTENDED] for task in unit] == [True, False] for unit in units)
    assert {task.question.id for unit in units for task in unit} == {task.question.id for task in tasks}
    with pytest.raises(BadInput, match="one kind only"):
        balanced_units(tasks[:3], SelfAnalyser().strategy, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("statistics", "fires"),
    [
        ({"one_verdict": 0.91, "diversity_kept": 1.0}, "one_verdict"),
        ({"one_verdict": 0.9, "diversity_kept": 0.5}, None),
        ({"one_verdict": 0.5, "diversity_kept": 0.49}, "diversity_kept"),
        ({"one_verdict": 0.5, "diversity_kept": math.nan}, "diversity_kept"),
    ],
)
def test_guards_fire_at_once(statistics: dict[str, float], fires: str | None) -> None:
    for guards, action in ((GUARDS, "warn"), (stopping(GUARDS), "stop")):
        alarms = Watch(guards).see(1, statistics)
        assert [alarm.monitor.statistic for alarm in alarms] == ([fires] if fires else [])
        assert {alarm.monitor.action for alarm in alarms} <= {action}


# --- files of questions that can be answered or not
# -------------------------------------------------------------------------------------------------------------------


def test_seeds_are_read_from_lines_and_make_a_pool(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text(
        '{"id": "a", "question": "Who wrote Faust?", "feasible": true}\n'
        '{"question": "Who will win?", "answerable": false, "reason": "after cut-off", "answer": null}\n'
    )
    first, second = read_answerable(path)
    assert (first.id, answerable(first), second.id, answerable(second)) == ("a", True, "line-2", False)
    pool = TaskPool.from_questions([first, second])
    assert [(t.feasible, t.reason, t.round) for t in pool.tasks] == [(True, "", 0), (False, "after cut-off", 0)]
    with pytest.raises(BadInput, match="holds no infeasible tasks"):
        TaskPool.from_questions([first])
    with pytest.raises(BadInput, match="does not say whether"):
        TaskPool.from_questions([Question(id="x", text="x")])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"example": [{"question": "a", "answerable": "yes"}]}', "true or false, found a string"),
        ('{"example": [{"question": "a"}]}', "'answerable' to be true or false, found the keys"),
        ('{"example": [3]}', "expected a JSON object"),
        ('{"question": "a", "answerable": 1}', "found a number"),
        ('{"answerable": true}', "expected the key 'question'"),
        ('{"question": "a", "answerable": true, "answer": {}}', "list of strings"),
        (
            '{"id": 1, "question": "a", "answerable": true}\n{"id": 1, "question": "b", "answerable": true}',
            "used before",
        ),
        ("{broken", "not JSON"),
    ],
)
def test_a_broken_record_is_reported_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(DataError, match=problem):
        list(read_answerable(path))
    bad: list[DataError] = []
    kept = list(read_answerable(path, bad=bad))
    assert len(bad) == 1
    assert len(kept) <= 1


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "none.json").write_text('{"example": []}')
    for name in ("empty.jsonl", "none.json", "missing.json"):
        with pytest.raises(BadInput):
            list(read_answerable(tmp_path / name))


# --- what agreement teaches
# -------------------------------------------------------------------------------------------------------------------


class Say(Strategy):
    """One word: loud for yes, soft for no."""

    name = "say"

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(Instruction(text="choose", token="<choose>"), attempt.question.text)
        generation = await attempt.generate(stop=())
        said = {"loud": "yes", "soft": "no"}.get(generation.text.strip(), "?")
        attempt.steps.append(parse_decision(f"<assessment>{said}</assessment>"))


def leaning(folder: Path, right: float) -> LocalModel:
    """A tiny model that says what is true of each of six words (red: yes, blue: no …) with this probability."""
    import torch

    model = bandit_model(folder)
    ids = model.tokenizer.convert_tokens_to_ids(["<choose>", *TRUTH, "loud", "soft"])
    prompts = torch.tensor([[ids[0], word] for word in ids[1:-2]])
    target = torch.zeros(len(prompts), model.model.config.vocab_size)
    for row, true in enumerate(TRUTH.values()):
        target[row, ids[-2 if true else -1]] = right
        target[row, ids[-1 if true else -2]] = 1 - right
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model.model(prompts).logits[:, -1], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


TRUTH = {"red": True, "green": True, "blue": False, "black": False, "one": True, "two": False}


def test_agreement_sharpens_what_is_right_more_often_than_not_and_what_is_wrong_as_well(tmp_path: Path) -> None:
    """The promise and the pitfall of consensus, with Reinforce++: judgements that are right 70% of the time become
    right, those that are right 30% of the time become wrong, and a reward by chance does neither."""
    from ken.training.rewards.chance import by_chance
    from ken.training.rl_config import RLConfig
    from ken.training.rollouts import each, within
    from ken.training.train import train

    tasks = [Task(Question(id=w, text=w, meta={INTENDED: true}), Say()) for w, true in TRUTH.items()]
    config = RLConfig(
        steps=30,
        units=6,
        group_size=16,
        advantage="batch",
        kl=0.0,
        kl_in_reward=0.05,
        lr=2e-3,
        warmup_steps=0,
        sampling=Sampling(temperature=1.0, max_tokens=1),
    )
    reached = {}
    for name, right, reward in (
        ("majority", 0.7, within(agree)),
        ("chance", 0.7, each(by_chance)),
        ("wrong", 0.3, within(agree)),
    ):
        model = leaning(tmp_path / name, right)
        analyser = SelfAnalyser(samples=16, strategy=Say(), sampling=Sampling(temperature=1.0, max_tokens=1))
        before = asyncio.run(extrinsic(model, [t.question for t in tasks], list(TRUTH.values()), analyser))
        assert abs(before.single.accuracy - right) < 0.15
        train(model, tasks, reward, config)
        after = asyncio.run(extrinsic(model, [t.question for t in tasks], list(TRUTH.values()), analyser))
        reached[name] = after.single.accuracy
    assert reached["majority"] > 0.9
    assert abs(reached["chance"] - 0.7) < 0.2
    assert reached["wrong"] < 0.1
