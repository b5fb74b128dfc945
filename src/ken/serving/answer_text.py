"""The answer inside what a model writes, as it is written: out of tags that may be cut anywhere.

A turn of the model is text like `<think>…</think><answer>…</answer>`, in pieces of any length. What `AnswerText` lets
through is never more than the beginning of the answer that the strategy will read (`ken.agents.protocol`), as far as
that can be known before the turn ends: white space at the edges is left out, and where the text could still turn out to
be something else (an action before the answer, a tag inside it) it is kept back to the end.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = "<answer>", "</answer>"
_THINK, _END_THINK = "<think>", "</think>"
# An action that was closed: the turn may be read as that action. Any tag of the protocol: the answer may be none.
_ACTION = re.compile(r"</(?:search|code)>")
_TAG = re.compile(r"</?(?:think|search|code|information|response|assessment)>|<answer>")
_LONGEST_TAG = len("</information>")


class AnswerText:
    """Reads the turns of one attempt.

    answers_from: the strategy's (`Strategy.answers_from`): the turn from which on an answer may be shown as it is
    written, or None for never. stops: strings that end what is shown, themselves left out, as `stop` of the API does.

    `shown` is what was let through so far; it only ever grows.
    """

    def __init__(self, answers_from: int | None, stops: tuple[str, ...] = ()) -> None:
        self.shown = ""
        self._from, self._stops = answers_from, tuple(stop for stop in stops if stop)
        self._turn = -1
        self._thoughts = 0
        self.turn()  # the zeroth, in which nothing is written

    def turn(self) -> None:
        """The model begins a new turn."""
        self._turn += 1
        self._text = ""
        self._answer = self._thought = -1  # where the answer begins, and what of the thought was not told yet
        self._read = self._sought = 0  # up to where neither can begin
        self._thinks, self._begun, self._acted = True, False, False

    def wrote(self, piece: str) -> str:
        """The model wrote this. Returns what can be shown of the answer now, "" for nothing."""
        self._text += piece.encode(errors="replace").decode()
        if self._from is None or self._turn < self._from:
            return ""
        if self._answer < 0:
            start = self._text.find(_OPEN, self._read)
            if start < 0:
                self._read = max(0, len(self._text) - len(_OPEN) + 1)
                return ""
            self._answer = start + len(_OPEN)
            self._acted = _ACTION.search(self._text, 0, start) is not None
        return "" if self._acted else self._grown(_beginning(self._text[self._answer :]))

    def thought(self) -> str:
        """By what the turn's first thought, `<think>…</think>`, has grown since this was asked last. Thoughts of later
        turns begin on a new line."""
        if self._thought < 0:
            start = self._text.find(_THINK, self._sought)
            if start < 0:
                self._sought = max(0, len(self._text) - len(_THINK) + 1)
                return ""
            self._thought = start + len(_THINK)
        if not self._thinks:
            return ""
        fresh = self._text[self._thought :]
        if ends := [place for tag in (_END_THINK, _OPEN) if (place := fresh.find(tag)) >= 0]:
            self._thinks, fresh = False, fresh[: min(ends)]
        else:
            fresh = _without_beginning_of(fresh, (_END_THINK, _OPEN))
        self._thought += len(fresh)
        if fresh and not self._begun:
            self._begun = True
            self._thoughts += 1
            return f"\n{fresh}" if self._thoughts > 1 else fresh
        return fresh

    def end(self, answer: str) -> str | None:
        """The rest of the answer that the strategy gave. None when what was shown is not its beginning: the model
        answered again, because its first answer was cut off or was none."""
        whole = cut(answer, self._stops)
        if not whole.startswith(self.shown):
            return None
        fresh, self.shown = whole[len(self.shown) :], whole
        return fresh

    def _grown(self, whole: str) -> str:
        ended = cut(whole, self._stops)
        if ended == whole:
            ended = _without_beginning_of(whole, self._stops)
        if not ended.startswith(self.shown):
            return ""
        fresh, self.shown = ended[len(self.shown) :], ended
        return fresh


def cut(text: str, stops: tuple[str, ...]) -> str:
    """`text` up to the first of `stops`.

    >>> cut("Lisbon. It lies", (". ", "lies"))
    'Lisbon'
    """
    return text[: min((place for stop in stops if stop and (place := text.find(stop)) >= 0), default=len(text))]


def _beginning(inside: str) -> str:
    """What is sure of an answer of which `inside` was written after its tag."""
    end = inside.find(_CLOSE)
    if end >= 0:
        return inside[:end].strip()
    if tag := _TAG.search(inside):
        return inside[: tag.start()].strip()
    # Anything from the last bracket on that could become a tag.
    bracket = inside.rfind("<")
    if bracket >= 0 and len(inside) - bracket <= _LONGEST_TAG and ">" not in inside[bracket:]:
        inside = inside[:bracket]
    return inside.strip()


def _without_beginning_of(text: str, marks: tuple[str, ...]) -> str:
    """`text` without an end that could be the beginning of one of `marks`."""
    held = max((length for mark in marks for length in range(1, len(mark)) if text.endswith(mark[:length])), default=0)
    return text[: len(text) - held]
