"""How good is a verifier? CoSineVerifier's evaluation (arXiv 2512.01224; card 28), of any model and of rules.

The folder holds settings.json, judgements.jsonl (a line per item, so that nothing is asked twice) and
verification.json with the tables, which `ken verify` prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import JsonValue

import ken
from ken.agents.background import run
from ken.agents.verifiers import MANNERS, RULES, SAMPLING, ModelVerifier, Verification, Verifier, majority
from ken.auditing.asking import Asking
from ken.auditing.folder import claim, digest_of, save
from ken.core import BadInput, Sampling
from ken.core.frozen import Frozen
from ken.metrics.final_answer import Label, verdict
from ken.models import Model, load_model

SETTINGS, JUDGEMENTS, REPORT = "settings.json", "judgements.jsonl", "verification.json"
METHODS = (*MANNERS, *RULES)


class VerifyItem(Frozen):
    """Something to be judged. gold: its label, None where it is not known. kind: the type of question."""

    id: str
    question: str
    reference: str
    response: str
    gold: Label | None = None
    kind: str = "all"


class VerifySettings(Frozen):
    """What was asked for; a run is resumed only under equal settings. votes: judgements of an item.
    max_turns: of the model in one, with tools."""

    model: str
    method: str
    votes: int
    max_turns: int
    sampling: Sampling
    questions_digest: str
    questions_count: int
    version: str = ken.__version__


class VerifyScores(Frozen):
    """Of items whose labels are known. n: items. accuracy: of single judgements, of which one without a label counts as
    wrong. voted: of majorities. recall: share of the right responses that are called correct, of single judgements;
    None when there is none. false_positives, false_negatives: shares of the wrong responses that are called correct,
    and of the right ones that are not; None when there is none."""

    n: int
    accuracy: float
    voted: float
    recall: float | None
    false_positives: float | None
    false_negatives: float | None


class VerifyReport(Frozen):
    """all: of all labelled items, None without any; by_type: by `question_type`. correct: share of the items called
    correct, by majority. tokens, calls: written, and calls of tools, in a judgement. unread: share of the judgements
    without a label. failed: judgements without a reply; error: the first one's."""

    settings: VerifySettings
    items: int
    all: VerifyScores | None
    by_type: dict[str, VerifyScores]
    correct: float
    tokens: float
    calls: float
    unread: float
    failed: int
    error: str


def read_items(path: str | Path) -> list[VerifyItem]:
    """Items of a file of JSON lines with the fields of VerifyBench and SCI-VerifyBench as the authors have them:
    `question`, `answer` (the reference), the response under `response` or the first key that holds `_ans`, the label
    under `gold_ans` ("[Correct]" or "[Incorrect]"; true and false are read too), and `question_type`.

    Raises `BadInput`, with the line, for what is no such item.
    """
    place = Path(path)
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{place} cannot be read ({error}); name a file of JSON lines") from error
    items = [_item(json_line(line, place, i), place, i) for i, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise BadInput(f"{place} holds no items to verify")
    counts: dict[str, int] = {}
    for item in items:
        counts[item.id] = counts.get(item.id, 0) + 1
    if twice := [name for name, count in counts.items() if count > 1]:
        raise BadInput(f"{place} has the id {twice[0]!r} {counts[twice[0]]} times; ids must be unique")
    return items


def json_line(line: str, path: Path, number: int) -> dict[str, Any]:
    """The object on a line. Raises `BadInput`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}, line {number}, is no JSON ({str(error)[:80]})") from error
    if not isinstance(record, dict):
        raise BadInput(f"{path}, line {number}, is no object with question, answer and a response")
    return record


def _item(record: Mapping[str, JsonValue], path: Path, number: int) -> VerifyItem:
    where = f"{path}, line {number},"
    reference = record.get("answer")
    if isinstance(reference, list) and len(reference) == 1:
        (reference,) = reference
    if reference is None or not str(reference).strip():
        raise BadInput(f"{where} has no reference under 'answer'; give one")
    key = _response_key(record)
    if key is None:
        raise BadInput(f"{where} has no response; put it under 'response', or a key that ends in '_ans'")
    return VerifyItem(
        id=str(record.get("id", number)),
        question=str(record.get("question") or ""),
        reference=str(reference),
        response=str(record[key] if record[key] is not None else ""),
        gold=_gold(record.get("gold_ans", record.get("gold_correct")), where),
        kind=str(record.get("question_type") or "all"),
    )


def _response_key(record: Mapping[str, JsonValue]) -> str | None:
    if "response" in record:
        return "response"
    # As the authors' script does; and the label is no response.
    return next((key for key in record if "_ans" in key and "verify" not in key and key != "gold_ans"), None)


def _gold(value: JsonValue, where: str) -> Label | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "Correct" if value else "Incorrect"
    text = str(value).strip()
    label = verdict(text if text.startswith("[") else f"[{text}]")
    if label is None:
        raise BadInput(f"{where} has the label {text[:40]!r}; write [Correct] or [Incorrect]")
    return label


def verify_file(
    items: str | Path | Sequence[VerifyItem],
    *,
    model: str | Model = "",
    method: str = "tools",
    out: str | Path,
    votes: int = 1,
    max_turns: int = 5,
    sampling: Sampling | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **model_options: Any,
) -> VerifyReport:
    """Judge every item, `votes` times each, and compare with the labels.

    items: a file (`read_items`) or the items. method: "tools", "think" or "label" with a `model`; "rule", "numeric" or
    "exact" without. sampling: default as of `ModelVerifier`. on_progress: told of items judged, of how many; from
    another thread.

    An interrupted run goes on where it stopped when called again with the same arguments, and tries failed judgements
    again. Raises `BadInput` before anything is asked or written when the arguments cannot work; `ModelError` when the
    model does not answer.
    """
    if method not in METHODS:
        raise BadInput(f"there is no way {method!r} to verify; choose from {', '.join(METHODS)}")
    if (method in RULES) == bool(model):
        wanted = "needs no model; leave it out" if method in RULES else "needs a model; name one with --model"
        raise BadInput(f"to verify by {method!r} {wanted}")
    asked = read_items(items) if isinstance(items, str | Path) else list(items)
    if not asked:
        raise BadInput("there are no items to verify; give at least one")
    if votes < 1 or (votes > 1 and method in RULES):
        raise BadInput(f"votes is {votes}; a model gives at least one, and a rule always says the same: give 1")
    loaded = load_model(model, **model_options) if isinstance(model, str) and model else model or None
    sampled = sampling or (SAMPLING if votes > 1 else SAMPLING.but(temperature=0.0, top_p=1.0))
    folder = Path(out)
    settings = VerifySettings(
        model=loaded.spec if isinstance(loaded, Model) else "",
        method=method,
        votes=votes,
        max_turns=max_turns,
        sampling=sampled,
        questions_digest=digest_of(item.model_dump(mode="json") for item in asked),
        questions_count=len(asked),
    )

    async def work() -> VerifyReport:
        asking: Asking | None = None
        verifier: Verifier | None = None
        try:
            claim(folder, settings, SETTINGS, one="judgements of answers", none="no judgements of answers")
            if isinstance(loaded, Model):
                verifier = ModelVerifier(
                    loaded, manner=MANNERS[method], votes=votes, max_turns=max_turns, sampling=sampled
                )
            else:
                verifier = RULES[method]()
            asking = Asking(settings.model or method, folder / JUDGEMENTS, on_progress, len(asked))

            judge = verifier

            async def ask(item: VerifyItem) -> dict[str, Any]:
                return _record(await _judgements(judge, item))

            found = await asking.each("verified", {item.id: item for item in asked}, ask, calls=votes)
            return _report(settings, asked, found)
        finally:
            if asking is not None:
                asking.close()
            if verifier is not None:
                await verifier.close()
            if loaded is not model and isinstance(loaded, Model):
                await loaded.close()

    report = run(work())
    save(folder / REPORT, report.model_dump_json(indent=2) + "\n")
    return report


async def _judgements(verifier: Verifier, item: VerifyItem) -> list[Verification]:
    if isinstance(verifier, ModelVerifier):
        return await verifier.each_vote(item.question, item.reference, item.response)
    return [await verifier.verify(item.question, item.reference, item.response)]


def _record(votes: Sequence[Verification]) -> dict[str, Any]:
    said = [vote for vote in votes if not vote.failed]
    whole = majority(said) if said else votes[0]
    return {
        "label": whole.label,
        "score": whole.score,
        "reason": whole.reason,
        # A judgement without a label is none of the two, and so never right (card 28, Verdict).
        "labels": ["" if vote.unread else vote.label for vote in said],
        "tokens": [vote.tokens for vote in said],
        "tools": [list(vote.tools) for vote in said],
        "trace": [[step.model_dump(mode="json") for step in vote.trace] for vote in said],
        "errors": [vote.failed for vote in votes if vote.failed],
    }


def _report(
    settings: VerifySettings, items: Sequence[VerifyItem], found: Mapping[str, Mapping[str, Any]]
) -> VerifyReport:
    labelled = [item for item in items if item.gold is not None and found[item.id]["labels"]]
    records = [found[item.id] for item in items]
    judged = [record for record in records if record["labels"]]
    labels = [label for record in judged for label in record["labels"]]
    errors = [error for record in records for error in record["errors"]]
    kinds = list(dict.fromkeys(item.kind for item in labelled))
    return VerifyReport(
        settings=settings,
        items=len(items),
        all=_scores(labelled, found) if labelled else None,
        by_type={kind: _scores([i for i in labelled if i.kind == kind], found) for kind in kinds},
        correct=fmean(record["label"] == "Correct" for record in judged) if judged else 0.0,
        tokens=fmean(n for record in judged for n in record["tokens"]) if labels else 0.0,
        calls=fmean(len(names) for record in judged for names in record["tools"]) if labels else 0.0,
        unread=fmean(label == "" for label in labels) if labels else 0.0,
        failed=len(errors),
        error=errors[0] if errors else "",
    )


def _scores(items: Sequence[VerifyItem], found: Mapping[str, Mapping[str, Any]]) -> VerifyScores:
    single = [(item.gold, label) for item in items for label in found[item.id]["labels"]]
    positive = [label == "Correct" for gold, label in single if gold == "Correct"]
    negative = [label == "Correct" for gold, label in single if gold == "Incorrect"]
    return VerifyScores(
        n=len(items),
        accuracy=fmean(gold == label for gold, label in single),
        voted=fmean(item.gold == found[item.id]["label"] and any(found[item.id]["labels"]) for item in items),
        recall=fmean(positive) if positive else None,
        false_positives=fmean(negative) if negative else None,
        false_negatives=1 - fmean(positive) if positive else None,
    )
