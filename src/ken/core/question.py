"""A question and the answers that count as right."""

from __future__ import annotations

from pydantic import Field, JsonValue, field_validator

from ken.core.frozen import Frozen


class Question(Frozen):
    """A question.

    `answers` are the accepted golds (any one of them is right); empty when they are not known, in which case nothing
    that needs correctness can be measured. `meta` holds whatever else the data set says; Ken reads
    `meta["supporting_ids"]` (ids of the documents that hold the evidence) for recall@k.
    """

    id: str = Field(min_length=1)
    text: str
    answers: tuple[str, ...] = ()
    meta: dict[str, JsonValue] = {}

    @field_validator("text")
    @classmethod
    def _not_empty(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the question is empty")
        return text.strip()

    @property
    def supporting_ids(self) -> tuple[str, ...]:
        """Ids of the gold documents, or () when the data set does not name them."""
        ids = self.meta.get("supporting_ids")
        return tuple(str(i) for i in ids) if isinstance(ids, list) else ()
