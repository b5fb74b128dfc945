"""Documents that do not help, to be put beside those that do (card 57, Layer analysis).

Noise in the prompt makes the middle layers lean on the right document more; that is what layer-fused decoding wants to
have without noise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Literal

from ken.core import BadInput

Kind = Literal["documents", "words", "topic"]
_WORD = re.compile(r"\w+")


def noise_documents(
    count: int, pool: Sequence[str], rng: Random, *, kind: Kind = "documents", question: str = "", answer: str = ""
) -> list[str]:
    """`count` texts made of the documents in `pool`, none of which holds `answer`.

    kind: "documents" draws them at random; "words" makes each as long as one of them, of random words of all; "topic"
    takes those that share most words with the question. Raises `BadInput` when the pool has too few.
    """
    apart = [text for text in pool if not answer or answer.lower() not in text.lower()]
    if count < 0 or (count and not apart) or (kind != "words" and count > len(apart)):
        raise BadInput(
            f"{count} noise documents cannot be made of {len(apart)} without the answer; give more documents"
        )
    if kind == "words":
        words = [word for text in apart for word in text.split()]
        return [" ".join(rng.choices(words, k=max(1, len(rng.choice(apart).split())))) for _ in range(count)]
    if kind == "documents":
        return rng.sample(apart, count)
    asked = _words(question)
    # Of equals, the earlier one first.
    return sorted(apart, key=lambda text: -len(asked & _words(text)) / max(1, len(_words(text))))[:count]


def _words(text: str) -> set[str]:
    return set(map(str.lower, _WORD.findall(text)))
