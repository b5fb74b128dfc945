"""`ken replay`: records that authors released, scored again; ProbTree's on files of the shape of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from capitals import run_ken

from ken.core import BadInput
from ken.papers.replay import Replayed, replay, replays
from ken.papers.replays.probtree import hotpot_f1, read_released, reselect

Answer = tuple[str, float]


def node(index: int, text: str, *, sons: tuple[int, ...] = (), answer: Answer, **answers: Answer) -> dict[str, object]:
    """A node as ProbTree releases it."""
    return {
        "idx": index,
        "question_text": text,
        "question": text,
        "sons": list(sons),
        "qd_logprob": -0.04 if sons else None,
        "answer": list(answer),
        **{f"{name}_answer": list(said) for name, said in answers.items()},
    }


def tree(root: str, *, answer: Answer, **answers: Answer) -> list[dict[str, object]]:
    leaves = [
        node(0, "Who?", cb=("Ann", -0.1), ob=("Unknown", -100), answer=("Ann", -0.1)),
        node(1, "Where is <1>?", cb=("Rome", -0.3), ob=("Bonn", -0.2), answer=("Bonn", -0.2)),
    ]
    return [*leaves, node(2, root, sons=(0, 1), answer=answer, **answers)]


TREES = [
    tree("Where is she?", cb=("Rome", -0.3), ob=("Paris", -0.2), child=("Bonn", -0.1), answer=("Bonn", -0.1)),
    tree("Was she there?", cb=("yes", -0.1), ob=("Unknown. No text", -0.01), child=("no", -0.2), answer=("no", -0.05)),
    [node(0, "Who – is it?", cb=("Ann", -0.5), ob=("Ann Lee", -0.4), answer=("Ann Lee", -0.4))],
]
GOLDS = [
    {"question": "Where is she?", "answer": "Bonn"},
    {"question": "Was she there?", "answer": "yes"},
    {"question": "Who is it?", "answer": "Ann"},
    {"question": "And another?", "answer": "no"},
]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "released.json"
    path.write_text(json.dumps(TREES))
    return path


@pytest.fixture
def golds(tmp_path: Path) -> Path:
    path = tmp_path / "golds.json"
    path.write_text(json.dumps(GOLDS))
    return path


def table(found: Replayed, words: str) -> dict[str, tuple[object, ...]]:
    (one,) = [t for t in found.tables if words in t.title]
    return {str(row[0]): row[1:] for row in one.rows}


def test_every_selector_over_the_stored_candidates(records, golds):
    found = replay("probtree", [records], gold=golds)
    scores = {name: tuple(round(float(value), 4) for value in row) for name, row in table(found, "by selector").items()}
    assert scores == {
        "as released": (0.3333, round((1 + 0 + 2 / 3) / 3, 4)),
        "always closed": (0.6667, 0.6667),
        "always open": (0.0, round(2 / 3 / 3, 4)),
        "always child": (0.3333, round((1 + 0 + 2 / 3) / 3, 4)),  # a leaf has none: the best of the two
        "random, expected": (round((1 / 3 + 1 / 3 + 1 / 2) / 3, 4), round((1 / 3 + 1 / 3 + (1 + 2 / 3) / 2) / 3, 4)),
        "max of closed and open": (0.3333, round((0 + 1 + 2 / 3) / 3, 4)),
        "max": (0.6667, round((1 + 1 + 2 / 3) / 3, 4)),
        "oracle": (1.0, 1.0),
    }
    assert scores["oracle"] >= scores["max"] >= scores["random, expected"]


def test_who_won_and_how_big_trees_are(records):
    found = replay("probtree", [records])
    assert table(found, "who won") == {"leaves": (5, 2, 3, 0, 0, 2, 0), "inner nodes": (2, 0, 0, 2, 0, 1, 0)}
    assert table(found, "sizes") == {"1": (1,), "3": (2,)}
    assert "of 3 roots, 2 have the score of their best stored candidate and 2 its answer" in found.notes[0]
    assert "Without --gold nothing is scored" in found.notes[-1]
    assert "ysymyth/ReAct" in found.notes[-1]


def test_calibration_holds_every_answer_once(records, golds):
    found = replay("probtree", [records], gold=golds)
    (one,) = [t for t in found.tables if "how right" in t.title]
    assert sum(int(row[2]) for row in one.rows) == 3
    assert all(row[0] <= row[3] <= row[1] for row in one.rows)


def test_the_trees_keep_what_was_stored(records):
    first = read_released(records)[0].tree
    assert first.root.decomposition == -0.04
    assert first.references(1) == {"<1>": 0}
    assert [c and c.text for c in reselect([one.tree for one in read_released(records)], "open")] == [
        "Paris",
        None,
        "Ann Lee",
    ]


def test_yes_and_no_are_right_or_wrong_and_nothing_between():
    assert hotpot_f1("no", ["no way"]) == hotpot_f1("yes it is", ["yes"]) == 0.0
    assert hotpot_f1("Yes.", ["no", "yes"]) == 1.0
    assert hotpot_f1(None, ["Bonn"]) == 0.0


def test_golds_in_a_format_that_ken_reads(records, tmp_path):
    lines = [{"id": str(i), "question": g["question"], "golden_answers": [g["answer"]]} for i, g in enumerate(GOLDS)]
    path = tmp_path / "golds.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert table(replay("probtree", [records], gold=path), "by selector")["oracle"] == (1.0, 1.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "[1]",
        "[[]]",
        '[[{"idx": 0}]]',
        json.dumps([[TREES[0][2]]]),  # a root without its children
        json.dumps([[TREES[2][0] | {"cb_answer": ["Ann"]}]]),
        json.dumps([[TREES[2][0] | {"cb_answer": ["Ann", "much"]}]]),
        json.dumps([[TREES[2][0] | {"cb_answer": ["Ann", float("nan")]}]]),
        json.dumps([[TREES[2][0] | {"sons": [0]}]]),
        "[" * 100_000,
    ],
)
def test_files_that_are_no_such_records_are_refused_in_a_sentence(content, tmp_path):
    path = tmp_path / "released.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"released\.json"):
        replay("probtree", [path])


def test_on_the_command_line(records, golds, tmp_path):
    done = run_ken("replay", "59", str(records), "--gold", str(golds), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "oracle" in done.stdout
    assert "accepted answers were found for 3 of 3 questions" in " ".join(done.stdout.split())
    as_json = run_ken("replay", "probtree", str(records), "--json", cwd=tmp_path)
    assert Replayed.model_validate_json(as_json.stdout).slug == "probtree"


@pytest.mark.parametrize(
    ("slug", "names", "gold", "said"),
    [
        ("probtree", [], None, "no file of records was given. The records are src/{hotpotqa,musique,2wiki}"),
        ("probtree", ["nowhere.json"], None, "there is no file nowhere.json. The records are"),
        ("probtree", [__file__], "nowhere.json", "there is no file nowhere.json. The accepted answers"),
        ("adasearch", [__file__], None, "AdaSearch has no released records to replay; those that have some:"),
        ("nonsense", [__file__], None, "there is no paper 'nonsense'"),
    ],
)
def test_what_is_missing_is_said_with_where_it_comes_from(slug, names, gold, said):
    with pytest.raises(BadInput) as raised:
        replay(slug, [Path(name) for name in names], gold=None if gold is None else Path(gold))
    assert said in str(raised.value)


def test_without_a_file_the_command_ends_with_that_sentence(tmp_path):
    done = run_ken("replay", "probtree", cwd=tmp_path)
    assert done.returncode == 2
    assert "https://github.com/THU-KEG/ProbTree" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_modules_of_replays_are_named_after_their_papers():
    from ken.papers.replay import replay_of

    assert "probtree" in replays()
    assert all(replay_of(slug).slug == slug for slug in replays())
