"""The answer within a response, and the verdict within a judgement: read by rule, whatever the text."""

from __future__ import annotations

import re
from typing import Literal

WINDOW = 8192  # characters of a response that are looked at, from its end (card 28, Input prompt)

Label = Literal["Correct", "Incorrect"]

_THOUGHT = re.compile(r"<(think|thinking|thought)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
_THOUGHT_BEGIN = re.compile(r"<(?:think|thinking|thought)>", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SAID = re.compile(
    r"(?:\b(?:final\s+)?answer\b(?:\s+(?:is|are|equals)\b|\s*[:=])+|^\s*(?:####))\s*:?\s*(?P<rest>[^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_VERDICT = re.compile(r"\[\s*(correct|incorrect)\s*\]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<![A-Z\d])\.(?=\s+[A-Z])|(?<=\d)\.(?=\s+[A-Z])")


def without_thinking(text: str) -> str:
    """What was said after thinking. A thought that never ends hides all that follows it; an end without a beginning
    (some chat templates write the beginning themselves) hides all before it.

    >>> without_thinking("<think>is it 3?</think> It is 4."), without_thinking("is it 3?</think>4"), \
without_thinking("<think>is it")
    (' It is 4.', '4', '')
    """
    text = _THOUGHT.sub("", text)
    ends = list(_THOUGHT_END.finditer(text))
    text = text[ends[-1].end() :] if ends else text
    begins = _THOUGHT_BEGIN.search(text)
    return text[: begins.start()] if begins else text


def window(response: str, size: int = WINDOW) -> str:
    """What a verifier is shown of a response: without its thinking, the last `size` characters."""
    return without_thinking(response)[-size:].strip()


def final_answer(response: str) -> str:
    r"""The answer that a response ends in: the last `\boxed{…}`, else the last `<answer>`, else what follows the last
    "answer is" or "answer:", else the last line. "" for an empty response.

    >>> final_answer(r"So \boxed{\frac{1}{2}}, as said."), final_answer("I tried 3. The answer is 4.")
    ('\\frac{1}{2}', '4')
    """
    text = window(response)
    if (boxed := _last_boxed(text)) is not None:
        return boxed.strip()
    if tagged := _TAGGED.findall(text):
        return str(tagged[-1]).strip()
    said = None
    for said in _SAID.finditer(text):  # the last one  # noqa: B007
        pass
    if said is not None:
        return _trimmed(_SENTENCE_END.split(said["rest"])[0])
    lines = [line for line in text.splitlines() if line.strip()]
    return _trimmed(lines[-1]) if lines else ""


def _last_boxed(text: str) -> str | None:
    """The content of the last box whose braces close."""
    for found in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for place in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[found.end() : place]
    return None


def _trimmed(text: str) -> str:
    text = text.strip().strip("*").strip()
    return text.removesuffix(".").strip() if not text.endswith("..") else text


def verdict(text: str) -> Label | None:
    """The last `[Correct]` or `[Incorrect]` of a judgement, its thinking left out; None when there is none.

    >>> verdict("At first [Correct], but the sign differs: [Incorrect]")
    'Incorrect'
    """
    found = _VERDICT.findall(without_thinking(text))
    if not found:
        return None
    return "Correct" if found[-1].lower() == "correct" else "Incorrect"
