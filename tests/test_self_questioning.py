"""Self-questioning on pairs of texts: what is asked, answered, voted and repaired (card 54)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ken
from ken.agents import load_strategy
from ken.agents.background import run
from ken.agents.json_reply import json_object
from ken.agents.pair_judge import Vote, decide, judge_instruction, parse_vote, render_pair
from ken.agents.self_questioning import (
    NO_INFORMATION,
    Mode,
    SelfQuestioning,
    about_the_text,
    parse_questions,
    parse_reply,
)
from ken.auditing.knowledge import measure_knowledge
from ken.core import BadInput, DataError, Malformed, Passage, Trajectory
from ken.core.pairs import pair_question
from ken.core.readers import read_questions
from ken.lab.patents import PatentConfig, PatentWorld, documents
from ken.metrics.knowledge_decomposition import decompose_knowledge
from ken.metrics.pairs import score_pairs
from ken.models.scripted import ScriptedModel
from ken.sources import Sources

# --- votes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "by_confidence", "by_heads"),
    [
        ([], False, False),
        ([(True, 5)], True, True),
        ([(True, 9), (False, 4), (False, 4)], True, False),
        ([(True, 4), (False, 4)], False, False),  # a tie says no
        ([(True, 0), (True, 0), (False, 1)], False, True),
    ],
)
def test_confidence_weighs_votes(votes: list[tuple[bool, float]], by_confidence: bool, by_heads: bool) -> None:
    given = [Vote(same, confidence) for same, confidence in votes]
    assert decide(given) is by_confidence
    assert decide(given, "majority") is by_heads


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ('{"label": 1, "confidence": 7}', Vote(True, 7.0)),
        ('I think {"label": "no", "confidence": "3"}', Vote(False, 3.0)),
        ('{"label": 1} no: {"label": 0, "confidence": 2}', Vote(False, 2.0)),
        ('{"label": true, "confidence": -4}', Vote(True, 0.0, clipped=True)),
        ('{"label": 0, "confidence": "NaN"}', Vote(False, 0.0)),
        ('{" label ": 0, " confidence ": null}', Vote(False, 0.0)),
    ],
)
def test_votes_are_read_from_whatever_json_there_is(text: str, vote: Vote) -> None:
    assert parse_vote(text) == vote
    flipped = parse_vote(text, "different")
    assert isinstance(flipped, Vote)
    assert flipped.same is not vote.same


values = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.text() | values.map(json.dumps))
def test_no_reply_breaks_a_parser(text: str) -> None:
    assert isinstance(parse_vote(text), Vote | Malformed)
    assert isinstance(parse_reply(text), str | Malformed)
    questions = parse_questions(text, 3)
    assert isinstance(questions, Malformed) or 1 <= len(questions) <= 3
    assert json_object(text) is None or isinstance(json_object(text), dict)


def test_questions_come_in_the_order_of_their_numbers_and_not_about_the_text() -> None:
    assert parse_questions('{"10": "j?", "9": "i?", "1": "a?"}', 2) == ("a?", "i?")
    text = "A pump with a coil that turns when the lower valve of the housing is closed by hand."
    assert about_the_text("What does this patent improve?", text)
    assert about_the_text("Why: a coil that turns when the lower valve of the housing?", text)
    assert not about_the_text("What is a coil?", text)


# --- the strategy ----------------------------------------------------------------------------------------------------

MEANINGS = {"flarn": "a pump", "grusk": "a pump", "wobel": "a lens", "tralt": "a lens"}
KNOWN = ("flarn", "wobel", "grusk")  # not tralt
TEXTS = ("a housing with a flarn and a wobel", "a housing with a grusk and a tralt")
PAIR = pair_question("p", *TEXTS, same=True)


class Dictionary:
    name = "dictionary"

    async def search(self, query: str, k: int) -> list[Passage]:
        return [Passage(id=w, text=f"{w} is {m} and long known") for w, m in MEANINGS.items() if w in query][:k]

    async def close(self) -> None: ...


def reply(prompt: str) -> str:
    """Names the jargon, knows some of it, reads, and judges by the notes: the same unless two notes differ."""
    asked = prompt.rsplit("\n\n", 1)[-1]
    words = [word for word in MEANINGS if word in asked]
    if "basic questions" in prompt:
        return json.dumps({str(i): f"What is a {word}?" for i, word in enumerate(words, start=1)})
    if prompt.startswith("Answer the user's question briefly"):
        told = "<information>" in prompt
        known = next((MEANINGS[w] for w in words if told or w in KNOWN), NO_INFORMATION)
        return json.dumps({"answer": known})
    if "Text 2 :" not in prompt:  # closed book
        return "<answer> same </answer>"
    one, two = prompt.split("Text 2 :")[1].split("Notes on text 2 :") if "Notes on text 2" in prompt else ("", "")
    notes = [[line[4:] for line in part.splitlines() if line.startswith("A : ")] for part in (one, two)]
    same = bool(notes[0]) and notes[0] == notes[1]
    return json.dumps({"label": int(same), "confidence": 9 if notes[0] else 3})


def attempt(mode: Mode, **options: Any) -> Trajectory:
    strategy = SelfQuestioning(mode, basic=2, conceptual=0, **options)
    return run(strategy.run(PAIR, ScriptedModel(reply), Sources(search=Dictionary())))


@pytest.mark.parametrize(
    ("mode", "answer", "calls"),
    [
        ("raw", "different", 3),
        ("cot", "different", 3),
        ("questions", "different", 3 + 2),
        ("self", "different", 3 + 2 + 4),  # it does not know what a tralt is
        ("search", "same", 3 + 2 + 4),
        ("placebo", "different", 3 + 2 + 4),
    ],
)
def test_each_mode_judges_with_its_notes(mode: Mode, answer: str, calls: int) -> None:
    made = attempt(mode)
    assert made.error is None
    assert (made.answer, made.usage.model_calls) == (answer, calls)
    assert len(made.searches) == (4 if mode in {"search", "placebo"} else 0)
    assert made.consulted == (("search",) if mode in {"search", "placebo"} else ())


def test_one_question_is_not_enough_here() -> None:
    assert attempt("search", most=1).answer == "same"  # only the pumps are explained, and they agree
    notes = [s.text for s in attempt("search", most=1).steps if s.kind == "thought" and "?" in s.text]
    assert notes == ["What is a flarn? a pump", "What is a grusk? a pump"]


def test_notes_on_a_text_are_made_once_and_shared() -> None:
    model, strategy = ScriptedModel(reply), SelfQuestioning("search", basic=2, conceptual=0, votes=1)
    others = [pair_question(f"p{i}", TEXTS[0], f"another housing {i}", same=False) for i in range(4)]

    async def all_at_once() -> list[Trajectory]:
        import asyncio

        return list(
            await asyncio.gather(*(strategy.run(q, model, Sources(search=Dictionary())) for q in [PAIR, *others]))
        )

    made = run(all_at_once())
    asked = [call.prompt for call in model.calls if "basic questions" in call.prompt]
    assert sum(TEXTS[0] in prompt for prompt in asked) == 1
    assert all("What is a flarn? a pump" in [s.text for s in t.steps if s.kind == "thought"] for t in made)


def test_identical_texts_need_no_model() -> None:
    model = ScriptedModel(reply)
    question = pair_question("p", "a  pump", "a pump", same=None)
    made = run(SelfQuestioning().run(question, model, Sources()))
    assert (made.answer, len(model.calls)) == ("same", 0)


def test_what_cannot_be_read_is_asked_for_once_more_then_dropped_and_counted() -> None:
    said = iter(["what?", '{"label": 1, "confidence": 8}', "no", "no", '{"label": 0, "confidence": 2}'])
    made = run(SelfQuestioning("raw").run(PAIR, ScriptedModel(lambda prompt: next(said, "no")), Sources()))
    assert made.malformed >= 1
    never = run(SelfQuestioning("raw").run(PAIR, ScriptedModel(lambda prompt: "hm"), Sources()))
    assert never.unfinished
    assert never.malformed == 3


def test_any_question_can_be_prepared_so() -> None:
    def model(prompt: str) -> str:
        if "basic questions" in prompt:
            return '{"1": "What is a quasar?"}'
        if prompt.startswith("Answer the user's question briefly"):
            return '{"answer": "a bright galaxy core"}'
        assert "A : a bright galaxy core" in prompt
        return "<think> so </think><answer> far away </answer>"

    made = ken.ask("Where are quasars?", model=ScriptedModel(model), strategy="self-questioning")
    assert made.answer == "far away"


def test_the_question_writer_may_be_another_model() -> None:
    asker = ScriptedModel(lambda prompt: '{"1": "What is a flarn?"}')
    model = ScriptedModel(reply)
    strategy = SelfQuestioning("self", asker=asker)
    run(strategy.run(PAIR, model, Sources()))
    assert len(asker.calls) == 2
    assert not [call for call in model.calls if "basic questions" in call.prompt]


def test_the_inverted_wording_asks_the_opposite() -> None:
    assert "different inventions" in judge_instruction("different").text
    assert render_pair(["a", "b"], ["", "Q : x"]) == "Text 1 : a\nText 2 : b\nNotes on text 2 :\nQ : x"
    made = run(SelfQuestioning("raw", wording="different").run(PAIR, ScriptedModel(reply), Sources()))
    assert made.answer == "same"  # label 0: not different


@pytest.mark.parametrize("wrong", [{"mode": "guess"}, {"basic": 0, "conceptual": 0}, {"votes": 0}, {"most": -1}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        SelfQuestioning(**wrong)


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_a_judge_that_always_says_different_is_no_better_than_chance() -> None:
    found = score_pairs(["different"] * 4, ["same", "same", "different", "different"])
    assert (found.misjudge, found.miss, found.balanced_accuracy) == (0.0, 1.0, 0.5)
    assert score_pairs([None], ["same"]).unjudged == 1
    assert score_pairs(["same"], ["same"]).balanced_accuracy is None


def test_the_decomposition_recovers_what_was_planted() -> None:
    """10 pairs: raw is wrong on 8; the model's own answers repair 5 of them, documents 7."""
    raw, own, documents = [i < 8 for i in range(10)], [i < 3 for i in range(10)], [i < 1 for i in range(10)]
    found = decompose_knowledge(raw, own, documents, questions=[i < 7 for i in range(10)])
    assert found.unused is not None
    assert found.missing is not None
    assert found.cue is not None
    shares = [found.unused.estimate, found.missing.estimate, found.cue.estimate]
    assert shares == pytest.approx([5 / 7, 2 / 7, 1 / 7])
    assert found.unused.low <= 5 / 7 <= found.unused.high
    nothing = decompose_knowledge(own, own, raw)
    assert (nothing.unused, nothing.missing, nothing.cue) == (None, None, None)


# --- the world -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 50))
def test_every_pair_is_what_it_says(seed: int) -> None:
    world = PatentWorld(PatentConfig(concepts=12, train=20, test=20, seed=seed))
    for pair in (*world.pairs("train"), *world.pairs("test")):
        differing = [i for i, (a, b) in enumerate(pair.slots) if a.concept != b.concept]
        assert differing == ([] if pair.same else [pair.deciding])
        assert all(a.word != b.word for a, b in pair.slots)
        assert {t.split for slot in pair.slots for t in slot} == {pair.id.split("-")[0]}
        tails = [i for i, slot in enumerate(pair.slots) if not all(t.head for t in slot)]
        assert tails == ([pair.deciding] if pair.tail else [])
    assert len({p.id for p in documents(world)}) == len(world.terms)


def test_the_world_has_the_cards_numbers() -> None:
    world = PatentWorld(PatentConfig())
    assert (len(world.terms), len(world.of("train")), len(world.of("test"))) == (360, 200, 160)
    assert sum(t.head for t in world.terms) == 240
    same = [pair.same for pair in world.pairs("test")]
    assert (len(same), sum(same)) == (400, 200)


# --- a user's own pairs ----------------------------------------------------------------------------------------------


def test_pairs_in_a_csv_file_are_audited_and_decomposed(tmp_path: Path) -> None:
    rows = ["id,text_a,text_b,label"]
    rows += [
        f'{i},"a housing with a {a}","a box with a {b}",{MEANINGS[a] == MEANINGS[b]:d}'
        for i, (a, b) in enumerate([("flarn", "grusk"), ("wobel", "tralt"), ("flarn", "wobel"), ("grusk", "tralt")])
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    variants = ["self-questioning", *(f"self-questioning-{mode}" for mode in ("raw", "questions", "search"))]
    ken.audit(
        tmp_path / "pairs.csv",
        model=ScriptedModel(reply),
        index=Dictionary(),
        out=tmp_path / "audit",
        strategies=variants,
        samples=0,
    )
    report = measure_knowledge(tmp_path / "audit")
    errors = {c.mode: c.error for c in report.conditions}
    assert errors == {"raw": 0.5, "questions": 0.5, "self": 0.25, "search": 0.0}
    assert report.shares.unused is not None
    assert report.shares.unused.estimate == 0.5
    command = ["-c", "from ken.cli import main; main()", "audit", "knowledge", str(tmp_path / "audit")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert "unused 0.50" in done.stdout
    assert "balanced" in done.stdout


def test_a_broken_pair_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("text_a,text_b,label\na,b,1\na,b,perhaps\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs\.csv.*3.*'label'"):
        list(read_questions(path))
    path.write_text("text_a,text_b,label\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="3 fields"):
        list(read_questions(path))


def test_without_the_variants_there_is_nothing_to_decompose(tmp_path: Path) -> None:
    ken.audit([PAIR], model=ScriptedModel(reply), out=tmp_path, strategies="direct", samples=0)
    with pytest.raises(BadInput, match="--strategies self-questioning-raw"):
        measure_knowledge(tmp_path)


def test_the_names_of_the_variants_are_the_registrys() -> None:
    assert load_strategy("self-questioning-placebo").needs_search
    assert not load_strategy("self-questioning-raw").needs_search
