"""What a model lacked and what it had but did not use, from an audit of self-questioning (arXiv 2505.12452; card
54)."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from ken.agents.self_questioning import MODES, Mode, name_of
from ken.auditing.folder import LOG, read_settings
from ken.auditing.grouped import grouped
from ken.auditing.log import read_log
from ken.core import BadInput, Trajectory
from ken.core.frozen import Frozen
from ken.core.pairs import DIFFERENT, SAME
from ken.metrics import exact_match
from ken.metrics.knowledge_decomposition import KnowledgeDecomposition, decompose_knowledge
from ken.metrics.pairs import PairScores, score_pairs

NEEDED: tuple[Mode, ...] = ("raw", "self", "search")


class Condition(Frozen):
    """One mode of self-questioning on the questions that all modes answered. pairs: where they are pairs of texts.
    words: mean length of the last prompt, since a fair comparison needs notes of like length."""

    mode: str
    error: float
    pairs: PairScores | None
    words: float


class KnowledgeReport(Frozen):
    """questions: those with golds that all conditions attempted. shares: see `KnowledgeDecomposition`."""

    questions: int
    conditions: tuple[Condition, ...]
    shares: KnowledgeDecomposition
    notes: tuple[str, ...]


def measure_knowledge(out: str | Path) -> KnowledgeReport:
    """Decompose the errors of the audit in `out`. Raises `BadInput` unless it holds the strategies "self-questioning"
    and its variants "-raw" and "-search", with questions that have golds."""
    settings = read_settings(Path(out))
    found = grouped(read_log(Path(out) / LOG).values(), settings).greedy
    if lacking := [name_of(mode) for mode in NEEDED if not found.get(name_of(mode))]:
        raise BadInput(
            f"{out} holds no attempts of {', '.join(lacking)}; audit with --strategies "
            f"{','.join(name_of(mode) for mode in (*NEEDED, 'questions'))}"
        )
    named = {name_of(mode): mode for mode in MODES}
    asked = {named[name]: attempts for name, attempts in found.items() if name in named and attempts}
    shared = [
        i for i, t in asked["raw"].items() if t.question.answers and all(i in attempts for attempts in asked.values())
    ]
    if not shared:
        raise BadInput(f"no question of {out} has an accepted answer and an attempt of every variant")
    made = {mode: [attempts[i] for i in shared] for mode, attempts in asked.items()}
    wrong = {mode: [not exact_match(t.answer, t.question.answers) for t in attempts] for mode, attempts in made.items()}
    shares = decompose_knowledge(wrong["raw"], wrong["self"], wrong["search"], wrong.get("questions"))
    return KnowledgeReport(
        questions=len(shared),
        conditions=tuple(_condition(mode, attempts) for mode, attempts in made.items()),
        shares=shares,
        notes=tuple(_notes(made["raw"], shares)),
    )


def _condition(mode: str, attempts: list[Trajectory]) -> Condition:
    golds = [t.question.answers[0] for t in attempts]
    pairs = set(golds) <= {SAME, DIFFERENT}
    prompts = [next((s.text for s in reversed(t.segments) if s.role == "prompt"), "") for t in attempts]
    return Condition(
        mode=mode,
        error=fmean(not exact_match(t.answer, t.question.answers) for t in attempts),
        pairs=score_pairs([t.answer for t in attempts], golds) if pairs else None,
        words=fmean(len(prompt.split()) for prompt in prompts),
    )


def _notes(attempts: list[Trajectory], shares: KnowledgeDecomposition) -> list[str]:
    notes = []
    golds = {t.question.answers[0] for t in attempts}
    if golds == {DIFFERENT}:
        notes.append(
            "All pairs are different, so a judge that always says so makes no error; add pairs that are the same."
        )
    if shares.unused is None:
        notes.append("Answers from documents repair no errors here, so there is nothing to decompose.")
    return notes
