"""Conversations as search sees them: a turn is a question that leans on what was said before it.

Readers take the files of the field as they are, one JSON object a line or one array:

- TopiOCQA (Adlakha et al. 2022): turns `{Conversation_no, Turn_no, Question, Answer, Context}`, and the file of their
  gold passages `{conv_id, turn_id, positive_ctxs: [{passage_id}]}`, which is given as `gold`;
- QReCC as of SCAI-QReCC 2021: `{Conversation_no, Turn_no, Question, Truth_answer, Truth_rewrite, Truth_passages}`;
- both as ConvSearch-R1 (arXiv 2505.15776, card 17) stores them: `{qid, question, context, positive_ctxs}` and
  `{qid, question, context, truth_rewrite, truth_passages}`;
- both as ConvGQR and CHIQ store them: `{sample_id, cur_utt_text, ctx_utts_text, oracle_utt_text, pos_docs_pids}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator

from ken.core.errors import BadInput, DataError
from ken.core.frozen import Frozen
from ken.core.question import Question
from ken.core.readers import Record, _kind, _list, _Problem, _records, _Reporting, _take

UNANSWERABLE = "UNANSWERABLE"  # how the data sets' own code writes an answer that is missing


class Exchange(Frozen):
    """A question of the user and the answer it was given."""

    query: str
    answer: str


class ConversationTurn(Frozen):
    """One turn: the exchanges before it, oldest first, and the query that is asked now.

    gold: ids of the passages that answer it; a search is as good as the best of their ranks. Empty when not known.
    rewrite: the query as a person would ask it out of context; empty when nobody wrote one. It is a baseline and a
        measure, never a training signal of ConvSearch-R1.
    """

    id: str = Field(min_length=1)
    query: str
    history: tuple[Exchange, ...] = ()
    gold: tuple[str, ...] = ()
    rewrite: str = ""
    meta: dict[str, JsonValue] = {}

    @field_validator("query")
    @classmethod
    def _not_empty(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("the query is empty")
        return query.strip()

    @property
    def depth(self) -> int:
        """Which turn of its conversation this is; the first is 1."""
        return len(self.history) + 1

    @property
    def said(self) -> str:
        """All that was said, oldest first, and the query, as one text: the baseline of history concatenation. Answers
        that are missing are left out."""
        texts = (text for exchange in self.history for text in (exchange.query, exchange.answer))
        return " ".join([*(text for text in texts if text != UNANSWERABLE), self.query])

    def question(self) -> Question:
        """The turn as a strategy takes it: the query, with history, depth and gold passages (`supporting_ids`) in
        `meta`."""
        exchanges: list[JsonValue] = [[exchange.query, exchange.answer] for exchange in self.history]
        gold: list[JsonValue] = list(self.gold)
        meta = {**self.meta, "history": exchanges, "depth": self.depth, "supporting_ids": gold}
        return Question(id=self.id, text=self.query, meta=meta)

    @classmethod
    def of(cls, question: Question) -> ConversationTurn:
        """The inverse of `question`. Raises `BadInput` when the history is none."""
        own = {key: value for key, value in question.meta.items() if key not in {"history", "depth", "supporting_ids"}}
        history = history_of(question)
        return cls(id=question.id, query=question.text, history=history, gold=question.supporting_ids, meta=own)


class Demonstration(Frozen):
    """A turn and a response to it, to be shown to a rewriter as an example."""

    turn: ConversationTurn
    response: str


def history_of(question: Question) -> tuple[Exchange, ...]:
    """The exchanges before a question, from `meta["history"]`: [query, answer] pairs, oldest first.

    None for a question that stands alone. Raises `BadInput` when they are something else.
    """
    found = question.meta.get("history") or []
    if not isinstance(found, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in found
    ):
        raise BadInput(f"the history of question {question.id!r} is no list of [query, answer] pairs; give it as one")
    return tuple(Exchange(query=str(pair[0]), answer=str(pair[1])) for pair in found if isinstance(pair, list))


def read_turns(
    path: str | Path, *, gold: str | Path | None = None, bad: list[DataError] | None = None
) -> Iterator[ConversationTurn]:
    """Yield the turns of a TopiOCQA or QReCC file, in order, whichever of the forms above it has.

    gold: the file with the passages of TopiOCQA's turns. Turns without gold passages are given too (QReCC has many),
    because later turns lean on them; `BadInput` is raised for a missing or empty file, `DataError` for a broken line
    unless `bad` is given.
    """
    passages = _gold_passages(Path(gold), bad) if gold else {}
    seen: dict[str, int] = {}
    said: dict[str, list[Exchange]] = {}  # by conversation, for forms that do not repeat what went before
    count, broken = 0, len(bad or ())
    for line, record in _records(Path(path), bad):
        count += 1
        with _Reporting(Path(path), line, bad):
            turn = _turn(record, passages, said)
            if turn.id in seen:
                raise _Problem(f"the turn {turn.id!r} was there before, on line {seen[turn.id]}; ids must be unique")
            seen[turn.id] = line
            yield turn
    if not count and len(bad or ()) == broken:
        raise BadInput(f"{path} holds no turns; expected TopiOCQA or QReCC, a JSON array or one object a line")


def read_demonstrations(path: str | Path) -> tuple[Demonstration, ...]:
    """Turns in one of the forms that `read_turns` takes, each with the key `response` besides: what a rewriter should
    have written. Raises `BadInput` for a missing or empty file, `DataError` for a broken line."""
    said: dict[str, list[Exchange]] = {}
    found = []
    for line, record in _records(Path(path), None):
        with _Reporting(Path(path), line, None):
            found.append(Demonstration(turn=_turn(record, {}, said), response=_take(record, "response", str)))
    if not found:
        raise BadInput(f"{path} holds no demonstrations; expected turns with the key 'response', one object a line")
    return tuple(found)


def _turn(
    record: Record, passages: Mapping[tuple[str, str], list[str]], said: dict[str, list[Exchange]]
) -> ConversationTurn:
    if "Question" in record:
        return _original(record, passages, said)
    if "cur_utt_text" in record:
        return ConversationTurn(
            id=_named(record, "sample_id"),
            query=_take(record, "cur_utt_text", str),
            history=_exchanges(_take(record, "ctx_utts_text", list)),
            gold=_ids(_take(record, "pos_docs_pids", list)),
            rewrite=_text(record, "oracle_utt_text"),
        )
    contexts = _list(record, "positive_ctxs")
    return ConversationTurn(
        id=_named(record, "qid"),
        query=_take(record, "question", str),
        history=_exchanges(_take(record, "context", list)),
        gold=_ids(_passage_ids(contexts) or _list(record, "truth_passages")),
        rewrite=_text(record, "truth_rewrite"),
        meta={key: record[key] for key in ("topic", "topic_section", "source") if key in record},
    )


def _original(
    record: Record, passages: Mapping[tuple[str, str], list[str]], said: dict[str, list[Exchange]]
) -> ConversationTurn:
    """A turn of the data sets' own files. The history of QReCC is what earlier records of the conversation asked and
    were answered, and not its `Context`, as in the preprocessing of CHIQ and ConvSearch-R1."""
    conversation, number = _named(record, "Conversation_no"), _named(record, "Turn_no")
    query = _take(record, "Question", str)
    before = said.setdefault(conversation, [])
    qrecc = "Truth_passages" in record
    history = tuple(before) if qrecc else _exchanges(_take(record, "Context", list))
    before.append(Exchange(query=query.strip(), answer=_text(record, "Truth_answer") or UNANSWERABLE))
    return ConversationTurn(
        id=f"{conversation}_{number}",
        query=query,
        history=history,
        gold=_ids(_take(record, "Truth_passages", list) if qrecc else passages.get((conversation, number), [])),
        rewrite=_text(record, "Truth_rewrite"),
        meta={key.lower(): record[key] for key in ("Topic", "Topic_section", "Conversation_source") if key in record},
    )


def _gold_passages(path: Path, bad: list[DataError] | None) -> dict[tuple[str, str], list[str]]:
    """Gold passage ids by (conversation, turn)."""
    found: dict[tuple[str, str], list[str]] = {}
    for line, record in _records(path, bad):
        with _Reporting(path, line, bad):
            key = _named(record, "conv_id"), _named(record, "turn_id")
            found[key] = _passage_ids(_take(record, "positive_ctxs", list))
    return found


def _passage_ids(contexts: list[Any]) -> list[str]:
    if not all(isinstance(context, dict) and "passage_id" in context for context in contexts):
        raise _Problem("expected each of 'positive_ctxs' to be an object with 'passage_id'")
    return [str(context["passage_id"]) for context in contexts]


def _exchanges(texts: list[Any]) -> tuple[Exchange, ...]:
    """Pairs from [query, answer, query, answer, …]."""
    if len(texts) % 2 or not all(isinstance(text, str | None) for text in texts):
        raise _Problem("expected what was said before to be a list of query, answer, query, answer, …")
    return tuple(
        Exchange(query=(query or "").strip(), answer=(answer or "").strip() or UNANSWERABLE)
        for query, answer in zip(texts[::2], texts[1::2], strict=True)
    )


def _ids(found: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(identifier, str | int) for identifier in found):
        raise _Problem("expected the gold passages to be ids, strings or numbers")
    return tuple(dict.fromkeys(map(str, found)))


def _named(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str | int) or value == "":
        raise _Problem(f"expected {key!r} to be a string or a number, found {_kind(value)}")
    return str(value)


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str | None):
        raise _Problem(f"expected {key!r} to be a string, found {_kind(value)}")
    return (value or "").strip()
