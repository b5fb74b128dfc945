"""The trees that ProbTree's authors released, with every candidate of every node, and any selector over them (arXiv
2311.13982; card 59).

A file is a list of trees; a tree is a list of nodes in the order in which they were answered,

    {"idx": 0, "question_text": "…", "sons": [], "qd_logprob": null, "fa": 2, "question": "…",
     "cb_answer": ["…", -0.098], "ob_answer": ["…", -0.008], "answer": ["…", -0.008]}

and inner nodes have a `child_answer`. Answers are [text, score], in the files for MuSiQue and 2Wiki also their chain of
thought.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ken.agents.query_tree import QueryTree
from ken.agents.tree import Selector, select
from ken.core import BadInput, Candidate, SubQuestion
from ken.core.readers import read_questions
from ken.core.steps import NO_SCORE, Method
from ken.metrics import exact_match, token_f1
from ken.metrics.calibration import reliability
from ken.metrics.statistics import mean
from ken.metrics.text import normalize_answer
from ken.papers.replay import Cell, Replay, Table

RECORDS = (
    "The records are src/{hotpotqa,musique,2wiki}/RoHT/results/released.json of https://github.com/THU-KEG/ProbTree "
    "(MIT); give one or more of them."
)
GOLDS = (
    "The accepted answers for the HotpotQA records are data/hotpot_dev_v1_simplified.json of "
    "https://github.com/ysymyth/ReAct (MIT); any list of {question, answer}, or questions in a format that Ken reads, "
    "will do."
)
KEYS: Mapping[Method, str] = {"closed": "cb_answer", "open": "ob_answer", "child": "child_answer"}
NAMES: Mapping[Method, str] = {"closed": "CB", "open": "OB", "child": "CA"}
METHODS: tuple[Method, ...] = ("closed", "open", "child")
BINS = 10
CLOSED_CLASS = {"yes", "no", "noanswer"}


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Released:
    """A tree with its candidates, and the answer and score that its authors stored for the root."""

    tree: QueryTree
    answer: str
    score: float


def read_released(path: Path) -> list[Released]:
    """The trees of a file. Raises `BadInput` when it is not as described above."""
    try:
        trees = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON file ({error}). {RECORDS}") from error
    if not isinstance(trees, list) or not trees:
        raise BadInput(f"{path} is not a list of trees. {RECORDS}")
    return [_released(tree, f"{path}, tree {number}") for number, tree in enumerate(trees, start=1)]


def _released(nodes: Any, where: str) -> Released:
    try:
        tree = QueryTree(nodes=tuple(map(_node, nodes)))
        return Released(tree, str(nodes[-1]["answer"][0]), float(nodes[-1]["answer"][1]))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise BadInput(f"{where} is not as ProbTree releases them ({type(error).__name__}: {problem})") from error


def _node(node: Mapping[str, Any]) -> SubQuestion:
    """A node. Its authors did not store who won, and count the closed-book or open-book candidate that has the score of
    the stored answer, else the child-aggregated one; so does `chosen`."""
    candidates = tuple(_candidate(method, node[key]) for method, key in KEYS.items() if key in node)
    stored = [m for m in METHODS[:2] if node[KEYS[m]][1] == node["answer"][1]]
    return SubQuestion(
        index=node["idx"],
        text=node["question_text"],
        question=node["question"],
        children=tuple(node["sons"]),
        decomposition=node["qd_logprob"],
        candidates=candidates,
        chosen=stored[0] if stored else candidates[-1].method,
    )


def _candidate(method: Method, answer: Sequence[Any]) -> Candidate:
    text, score = str(answer[0]), float(answer[1])
    if not math.isfinite(score):
        raise ValueError(f"the score {score} is no number")
    refused = "ERROR" in text or "Unknow" in text or score <= NO_SCORE  # as their code asks
    return Candidate(
        method=method, text=text, score=NO_SCORE if refused else score, problem="no answer" if refused else ""
    )


def read_golds(path: Path) -> dict[str, tuple[str, ...]]:
    """Accepted answers by question, for `key`. Raises `BadInput` for a file that holds none."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        simple = isinstance(listed, list) and all(
            isinstance(g, dict) and {"question", "answer"} <= {*g} for g in listed
        )
    except (OSError, ValueError, RecursionError):
        simple = False
    if simple:
        return {key(str(gold["question"])): (str(gold["answer"]),) for gold in listed}
    return {key(question.text): question.answers for question in read_questions(path) if question.answers}


def key(question: str) -> str:
    """A question whatever its spaces, dashes, capitals and accents, in which the released files differ."""
    plain = unicodedata.normalize("NFKD", question.lower())
    return re.sub(r"[^0-9a-z]+", "", plain) or question


# --- scoring ----------------------------------------------------------------------------------------------------------


def reselect(
    trees: Iterable[QueryTree], selector: Selector, golds: Callable[[QueryTree], Sequence[str]] = lambda tree: ()
) -> list[Candidate | None]:
    """The root's answer by a selector, from the stored candidates, one a tree; None where it has no answer. The
    candidates themselves stay as they were made, from the children that won then."""
    picked: list[Candidate | None] = []
    for tree in trees:
        method = select(tree.root.candidates, selector, golds=golds(tree))
        picked.append(next((c for c in tree.root.candidates if c.method == method), None))
    return picked


def hotpot_f1(prediction: str | None, golds: Sequence[str]) -> float:
    """Token F1, but 0 where one of the two is yes or no and the other is something else (the evaluation script of
    HotpotQA, which ProbTree uses on all sets)."""

    def score(gold: str) -> float:
        said, wanted = normalize_answer(prediction or ""), normalize_answer(gold)
        return 0.0 if {said, wanted} & CLOSED_CLASS and said != wanted else token_f1(prediction, [gold])

    return max(map(score, golds))


def _tables(paths: Sequence[Path], gold: Path | None) -> tuple[list[Table], list[str]]:
    """For each file: who won, by kind of node; with golds, the selectors over the roots and the calibration."""
    golds = read_golds(gold) if gold is not None else {}
    made: list[Table] = []
    notes: list[str] = []
    for path in paths:
        released = read_released(path)
        trees = [one.tree for one in released]
        made += [_winners(path, trees), _sizes(path, trees)]
        best = list(zip(released, reselect(trees, "max"), strict=True))
        same = [(c is not None and c.score == r.score, (c.text if c else "") == r.answer) for r, c in best]
        scores, answers = (sum(column) for column in zip(*same, strict=True))
        others = "" if scores == len(trees) else "; the others come from another run of the authors"
        notes.append(
            f"{path}: of {len(trees):,} roots, {scores:,} have the score of their best stored candidate and "
            f"{answers:,} its answer{others}."
        )
        known = [one for one in released if key(one.tree.root.text) in golds]
        if known:
            made += [_selectors(path, known, golds), _calibration(path, known, golds)]
        if gold is not None:
            notes.append(f"{path}: accepted answers were found for {len(known):,} of {len(trees):,} questions.")
    if gold is None:
        notes.append(f"Without --gold nothing is scored. {GOLDS}")
    return made, notes


def _winners(path: Path, trees: Sequence[QueryTree]) -> Table:
    nodes = [node for tree in trees for node in tree.nodes]
    rows: list[tuple[Cell, ...]] = []
    for name, kind in (
        ("leaves", [n for n in nodes if len(n.candidates) == 2]),
        ("inner nodes", [n for n in nodes if len(n.candidates) > 2]),
    ):
        won = Counter(node.chosen for node in kind)
        refused = Counter(c.method for node in kind for c in node.candidates if c.problem)
        rows.append((name, len(kind), *(won[m] for m in METHODS), *(refused[m] for m in METHODS)))
    columns = ("", "nodes", *(f"{NAMES[m]} won" for m in METHODS), *(f"no {NAMES[m]}" for m in METHODS))
    return Table(title=f"{path}: who won, and how many candidates are no answer", columns=columns, rows=tuple(rows))


def _sizes(path: Path, trees: Sequence[QueryTree]) -> Table:
    sizes = Counter(len(tree.nodes) for tree in trees)
    rows = tuple((str(size), sizes[size]) for size in sorted(sizes))
    return Table(title=f"{path}: sizes of trees", columns=("nodes", "trees"), rows=rows)


def _selectors(path: Path, known: Sequence[Released], golds: Mapping[str, Sequence[str]]) -> Table:
    """EM and F1 of the root's answer, by selector."""

    def accepted(tree: QueryTree) -> Sequence[str]:
        return golds[key(tree.root.text)]

    trees = [one.tree for one in known]

    def row(name: str, answers: Iterable[str | None]) -> tuple[Cell, ...]:
        pairs = [(answer, accepted(tree)) for answer, tree in zip(answers, trees, strict=True)]
        return name, mean(exact_match(a, g) for a, g in pairs), mean(hotpot_f1(a, g) for a, g in pairs)

    def chosen(candidates: Iterable[Candidate | None]) -> list[str | None]:
        return [None if c is None else c.text for c in candidates]

    two = [tree.root.model_copy(update={"candidates": tree.root.candidates[:2]}) for tree in trees]
    best_of_two = [next((c for c in node.candidates if c.method == select(node.candidates)), None) for node in two]
    anybody = [[(c.text, accepted(tree)) for c in tree.root.candidates] for tree in trees]
    rows = [
        row("as released", [one.answer for one in known]),
        row("always closed", chosen(reselect(trees, "closed"))),
        row("always open", chosen(reselect(trees, "open"))),
        row("always child", chosen(reselect(trees, "child"))),
        (
            "random, expected",
            mean(mean(exact_match(a, g) for a, g in pairs) for pairs in anybody),
            mean(mean(hotpot_f1(a, g) for a, g in pairs) for pairs in anybody),
        ),
        row("max of closed and open", chosen(best_of_two)),
        row("max", chosen(reselect(trees, "max"))),
        row("oracle", chosen(reselect(trees, "oracle", accepted))),
    ]
    title = f"{path}: the root's answer by selector, {len(known):,} questions"
    return Table(title=title, columns=("selector", "EM", "F1"), rows=tuple(rows))


def _calibration(path: Path, known: Sequence[Released], golds: Mapping[str, Sequence[str]]) -> Table:
    """F1 by the confidence of the winner, in bins of about equally many questions."""
    picked = [
        (math.exp(min(0.0, c.score)), hotpot_f1(c.text, golds[key(one.tree.root.text)]))
        for one, c in zip(known, reselect([one.tree for one in known], "max"), strict=True)
        if c is not None
    ]
    curve = reliability([sure for sure, _ in picked], [f1 for _, f1 in picked], bins=BINS, equal_mass=True)
    return Table(
        title=f"{path}: exp(score) of the winner by max, and how right it is",
        columns=("from", "to", "questions", "confidence", "F1"),
        rows=tuple((b.low, b.high, b.count, b.confidence, b.accuracy) for b in curve),
    )


replay = Replay("probtree", RECORDS, GOLDS, _tables)
