"""Questions about two texts: do they describe the same thing?"""

from __future__ import annotations

from ken.core.question import Question

SAME, DIFFERENT = "same", "different"
ASKED = f"Do these two texts describe the same invention? Answer {SAME!r} or {DIFFERENT!r}."


def pair_question(name: str, first: str, second: str, *, same: bool | None, **meta: str | float | bool) -> Question:
    """The question whether two texts describe the same; `meta["texts"]` holds them. same: None where it is unknown."""
    golds = () if same is None else (SAME if same else DIFFERENT,)
    text = f"{ASKED}\nText 1: {first}\nText 2: {second}"  # for strategies that know nothing of pairs
    return Question(id=name, text=text, answers=golds, meta={"texts": [first, second], **meta})
