"""Right answers with any tools, none of which earns anything by itself.

Source: TAPO (arXiv 2510.07038; card 22, Reward). Two departures from the released code, both towards the paper: text
between tags breaks the format (there it is skipped), and the answer of a "complex" question is its first number (there
all other characters are deleted, which reads "5 km2" as 52).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from ken.core import BadInput, Question, Trajectory
from ken.training.rewards.completion import completion, golds, written, written_tokens

TOOLS = ("search", "code")
OBSERVATIONS = ("response", "information")  # the tags that only the environment writes
TAIL = 100  # characters of the answer that are compared, from its end

_BLOCK = re.compile(r"\s*<(\w+)>(.*?)</\1>\s*", re.DOTALL)
_OPENING = re.compile(r"\s*<(\w+)>")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![\d,.])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?")
_NUMERALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_WORDS = {word: str(number) for number, word in enumerate(_NUMERALS, start=1)}


def format_problem(text: str, tools: Sequence[str] = TOOLS) -> str | None:
    """What is wrong with a whole response, or None: it must be blocks of `<think>`, observations and the enabled tools,
    with only white space between, and end with an `<answer>`."""
    allowed = {"think", "answer", *OBSERVATIONS, *tools}
    place, last = 0, ""
    end = len(text.rstrip())
    while place < end:
        opening = _OPENING.match(text, place)
        if opening is None:
            return "text outside of tags"
        if opening[1] not in allowed:
            return f"an unknown tag <{opening[1]}>"
        block = _BLOCK.match(text, place)
        if block is None:
            return f"<{opening[1]}> is not closed"
        place, last = block.end(), block[1]
    return None if last == "answer" else "no <answer> at the end"


def normalize(text: str) -> str:
    """Strip, lower-case, write one … twelve in digits and drop thousands commas.

    >>> normalize(" 1,234 "), normalize("Twelve")
    ('1234', '12')
    """
    text = text.strip().lower().replace("−", "-")
    return _THOUSANDS.sub(lambda match: match[1].replace(",", ""), _WORDS.get(text, text))


Scorer = Callable[[str, str], float]
"""From a normalised answer and gold to a score in [0, 1]."""


def same_text(answer: str, gold: str) -> float:
    """1 if they are the same string, else 0."""
    return float(bool(gold) and answer == gold)


def similar_text(answer: str, gold: str) -> float:
    """1 if the gold is a substring of the answer; else 1 − d when d, their Levenshtein distance over the length of the
    longer one, is below 0.5; else 0."""
    if not gold or not answer:
        return 0.0
    if gold in answer:
        return 1.0
    distance = _levenshtein(answer, gold) / max(len(answer), len(gold))
    return 1.0 - distance if distance < 0.5 else 0.0


def same_number(answer: str, gold: str) -> float:
    """1 if the numbers, which may be complex, differ by less than 0.001. Raises `BadInput` when the gold is none."""
    wanted, said = _gold_number(gold), _complex(answer)
    return float(said is not None and _distance(said, wanted) < 1e-3)


def close_number(answer: str, gold: str) -> float:
    """1 if the first number of the answer is less than 5% off (less than 0.001 when the gold is 0).

    Raises `BadInput` when the gold is not a number.
    """
    wanted, found = _gold_number(gold), _NUMBER.search(answer)
    said = _complex(found[0]) if found else None
    if said is None:
        return 0.0
    size = _distance(wanted, 0)
    return float(_distance(said, wanted) < (0.05 * size if size else 1e-3))


SCORERS: Mapping[str, Scorer] = {
    "default": same_text,
    "gsm8k": same_text,
    "dapo_math": same_text,
    "deep_math": same_text,
    "nq": similar_text,
    "calculator": same_number,
    "complex": close_number,
}


def scorer_of(source: str, scorers: Mapping[str, Scorer] = SCORERS) -> Scorer:
    """The scorer of a source of questions; any "aime…" is scored as the other mathematics. Raises `BadInput` naming the
    sources there are."""
    if source in scorers:
        return scorers[source]
    if source.startswith("aime"):
        return same_text
    raise BadInput(f"there is no scorer for questions from {source!r}; there are {', '.join(scorers)} and aime…")


def score_answer(question: Question, answer: str, scorers: Mapping[str, Scorer] = SCORERS) -> float:
    """How right an answer is, in [0, 1], the best over the golds; only its last 100 characters count.

    The scorer is that of `question.meta["source"]`, or "default". Raises `BadInput` for an unknown source, and for a
    gold that should be a number and is none.
    """
    score = scorer_of(str(question.meta.get("source", "default")), scorers)
    said = normalize(answer.strip()[-TAIL:])
    return max(score(said, normalize(gold)) for gold in question.answers)


def answer_score(
    trajectory: Trajectory, *, tools: Sequence[str] = TOOLS, scorers: Mapping[str, Scorer] = SCORERS
) -> float:
    """−1 for a broken format, else how right the answer is in [0, 1], the best over the golds.

    A policy that writes an observation itself breaks the format. 0 after an error. Raises `BadInput` without golds, and
    as `score_answer`.
    """
    golds(trajectory)
    if trajectory.error is not None:
        return 0.0
    text = completion(trajectory)
    forged = any(f"<{tag}>" in written(trajectory) for tag in OBSERVATIONS)
    if forged or format_problem(text, tools) is not None:
        return -1.0
    return score_answer(trajectory.question, _ANSWER.findall(text)[-1], scorers)


def accuracy(score: float) -> bool:
    """Whether a score counts as right: above 0.9. Groups are filtered by this and not by the shaped reward, whose
    length penalty would make every group look mixed (card 22, Pitfalls)."""
    return score > 0.9


def overlong(tokens: int, *, length: int, buffer: int = 1024, weight: float = 1.0) -> float:
    """DAPO's penalty of length, ≤ 0: nothing up to length − buffer tokens, then linearly to −weight at `length`, and on
    beyond it.

    tokens: written by the model; what tools returned does not count. Raises `BadInput` unless 1 ≤ buffer ≤ length.
    """
    if not 1 <= buffer <= length:
        raise BadInput(f"the buffer of the length penalty is {buffer} tokens; it must be from 1 to length ({length})")
    return min(0.0, -(tokens - (length - buffer)) / buffer * weight)


def tool_use(
    trajectory: Trajectory,
    *,
    tools: Sequence[str] = TOOLS,
    scorers: Mapping[str, Scorer] = SCORERS,
    length: int | None = None,
    buffer: int = 1024,
) -> float:
    """`answer_score`, plus the `overlong` penalty when `length` (the most tokens of a response) is given."""
    score = answer_score(trajectory, tools=tools, scorers=scorers)
    if length is None or trajectory.error is not None:
        return score
    return score + overlong(written_tokens(trajectory), length=length, buffer=buffer)


def _gold_number(gold: str) -> complex:
    number = _complex(gold)
    if number is None:
        raise BadInput(f"the gold answer {gold!r} is not a number; correct it, or give the question another source")
    return number


def _complex(text: str) -> complex | None:
    """The finite number that is written in `text`, or None. "i" may stand for "j"."""
    text = "".join(text.split())
    try:
        number = complex(text[:-1] + "j" if text.endswith("i") else text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number.real) and math.isfinite(number.imag) else None


def _distance(a: complex, b: complex) -> float:
    return math.hypot(a.real - b.real, a.imag - b.imag)  # abs() of a complex number raises where this is infinite


def _levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements of one character that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            above, row[j] = row[j], min(above + (left != right), row[j] + 1, row[j - 1] + 1)
    return row[-1]
