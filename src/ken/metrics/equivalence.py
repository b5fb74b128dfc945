r"""Is an answer the same as the reference? By rules, for what can be read strictly (card 28, Tolerance policy).

Numbers in any notation, percentages, lists, sets, tuples, intervals, matrices, choices, algebra of polynomials and
their quotients, constants whose value the question gives; last of all, text. Nothing here evaluates what was written:
what needs units or a computer algebra system is left undecided for `ken.agents.equivalence`, which has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ken.core import BadInput
from ken.core.frozen import Frozen
from ken.metrics.expressions import LONGEST, Gathered, Rational, Value, read_expression
from ken.metrics.text import normalize_answer, token_f1


class Tolerance(Frozen):
    """How far numbers may be apart, relative to the reference. computed: as a rule. rounded: when the reference is a
    decimal of at most `digits` significant digits. Two whole numbers must be equal.
    """

    computed: float = 1e-3
    rounded: float = 1e-2
    digits: int = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing. score: in [0, 1], how near the answer is to being the same; 0.5 and more is the same, and
    a number just at the tolerance has 0.5. how: by which rule. decided: False when the rules at hand cannot tell."""

    score: float
    how: str
    decided: bool = True

    @property
    def same(self) -> bool:
        return self.decided and self.score >= 0.5


UNDECIDED = Comparison(0.0, "undecided", decided=False)

Convert = Callable[[float, str, str], float | None]
"""An amount in a unit to another unit: nan when the units do not fit together, None when either is no unit."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question says about the form of its answer. constants: values that it gives, "g = 9.8". ordered: whether
    it asks for an order. options: texts by letter."""

    text: str
    constants: dict[str, Fraction]
    ordered: bool
    options: dict[str, str]

    @classmethod
    def of(cls, question: str) -> Asked:
        constants = {name: Fraction(value) for name, value in _GIVEN.findall(question[:_MOST])}
        options = {letter: plain_math(text) for letter, text in _OPTION.findall(question[:_MOST])}
        return cls(question[:_MOST], constants, bool(_ORDERED.search(question[:_MOST])), options)

    def wants(self, unit: str) -> bool:
        """Whether it asks for a unit, or for this one."""
        return bool(re.search(r"\bunits?\b", self.text)) or (
            re.search(rf"(?<![\w/]){re.escape(unit)}(?![\w/])", self.text) is not None
        )


def without_constants(question: str) -> str:
    """The question without the values that it gives: "Take g = 9.8." says nothing about g any more."""
    return _GIVEN.sub(r"\1", question[:_MOST])


_MOST = 20_000  # characters of a question
_GIVEN = re.compile(r"(?<!\w)([A-Za-z])\s*=\s*(-?\d{1,12}(?:\.\d{1,12})?)(?![\w^*]|\.\d)")
_ORDERED = re.compile(
    r"\b(?:this order|in order|ordered|(?:in|de)creasing|ascending|descending|ordering)\b", re.IGNORECASE
)
_OPTION = re.compile(r"(?:^|[\s(])([A-J])[.):]\s*(.{1,200}?)(?=\s+\(?[A-J][.):]\s|\n|$)")


def compare(
    answer: str,
    reference: str,
    question: str = "",
    *,
    tolerance: Tolerance = Tolerance(),  # noqa: B008
    convert: Convert | None = None,
) -> Comparison:
    r"""Compare an answer with a reference.

    question: is read for constants, options, and whether order or a unit matters. convert: for units, which are
    undecided without.

    >>> compare(r"\frac{3}{8}", "37.5%").same, compare("2(x+3)", "2x+6").same
    (True, True)
    >>> compare("29.4", "3g", "Take g = 9.8.").same
    True
    >>> compare("{3, 1, 2}", r"\{1,2,3\}").same, compare("(3, 1, 2)", "(1, 2, 3)").same
    (True, False)

    Raises `BadInput` without a reference.
    """
    if not reference.strip():
        raise BadInput("there is no reference answer to compare with; give one")
    if not answer.strip():
        return Comparison(0.0, "no answer")
    asked = Asked.of(question)
    said, gold = plain_math(answer), plain_math(reference)
    if said == gold:
        return Comparison(1.0, "same text")
    if (chosen := _choice(gold)) is not None and len(gold) <= 3:
        letter = _choice(said) or next((k for k, text in asked.options.items() if text and text == said), None)
        return Comparison(float(letter == chosen), "choice")
    if len(said) > LONGEST or len(gold) > LONGEST:
        return _text(said, gold)
    said, gold = _without_name(said, gold)
    if (found := _parts(said, gold, asked, tolerance, convert)) is not None:
        return found
    found = _values(said, gold, asked, tolerance)
    if found.same:
        return found
    by_unit = _units(said, gold, asked, tolerance, convert)
    if by_unit is not None:
        return by_unit
    if found.decided:
        return found
    return UNDECIDED if _mathematical(said) and _mathematical(gold) else _text(said, gold)


def as_text(answer: str, reference: str) -> Comparison:
    """The last resort: equal after normalisation; else at most 0.5, exclusive, by the words they share."""
    return _text(plain_math(answer), plain_math(reference))


def near(said: float, gold: float, tolerance: float) -> float:
    """The score of a number: 1 when equal, 0.5 at the tolerance (relative to the gold, absolute for 0), falling to 0.
    0 for what is not finite."""
    if not (math.isfinite(said) and math.isfinite(gold)):
        return 0.0
    error = abs(said - gold)
    allowed = tolerance * (abs(gold) if gold else 1.0)
    return 1.0 if not error else 1.0 / (1.0 + error / (allowed * (1 + 1e-9))) if allowed else 0.0


def tolerance_for(reference: str, tolerance: Tolerance) -> float:
    """What applies to a number written so."""
    written = re.fullmatch(r"[-+]?0*(\d*)\.(\d+)(?:[eE*].*)?", reference.strip().rstrip("%").strip())
    if written is None:
        return tolerance.computed
    digits = len((written[1] + written[2]).lstrip("0"))
    return tolerance.rounded if digits <= tolerance.digits else tolerance.computed


# --- reading ---------------------------------------------------------------------------------------------------------

_REPLACED = (
    (re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])"), ""),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\\\$|(?<!\\)\$"), ""),
    (re.compile(r"\\[()\[\]](?!\w)"), ""),
    (re.compile(r"\\begin\{[a-z]*matrix\}(.*?)\\end\{[a-z]*matrix\}", re.DOTALL), lambda m: _matrix(m[1])),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)\s*(?=[CF](?![A-Za-z]))"), " deg"),
    (re.compile(r"\\(?:cdot|times|ast)(?![A-Za-z])|×|·"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\(?:le|leq|leqslant)(?![A-Za-z])|≤"), "<="),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![A-Za-z])|≥"), ">="),
    (re.compile(r"\\cup(?![A-Za-z])|∪"), " u "),
    (re.compile(r"\\infty(?![A-Za-z])|∞"), "oo"),
    (re.compile(r"π"), "pi"),
    (re.compile(r"√"), "sqrt"),
    (re.compile(r"−|–"), "-"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\([{}])"), r"\1"),
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*")
_THOUSANDS = re.compile(r"(?<![\d.,])([-+]?\d{1,3}(?:,\d{3})+)(?=(?:\.\d+)?(?:[^\d,].*)?$)")
_MIXED = re.compile(r"([-+]?\d+)\s+(\d+)/(\d+)")


def plain_math(text: str) -> str:
    r"""LaTeX and signs of print as plain text, without dollars, boxes, a full stop at the end, thousands commas.

    >>> plain_math(r"$\dfrac{1}{2}\,\text{m/s}$."), plain_math("1,234")
    ('(1)/(2) m/s', '1234')
    """
    text = text.strip().removesuffix(".").strip()[: 4 * LONGEST]
    sets = text.replace("\\{", "\x01").replace("\\}", "\x02")
    for pattern, by in _REPLACED:
        sets = pattern.sub(by, sets)
    text = _brackets(_roots(_fractions(sets)))
    text = re.sub(r"\\([A-Za-z]+)", r"\1", text).replace("\x01", "{").replace("\x02", "}")
    if mixed := _MIXED.fullmatch(text.strip()):
        sign = "-" if mixed[1].startswith("-") else "+"
        text = f"{mixed[1]}{sign}{mixed[2]}/{mixed[3]}"
    whole = _THOUSANDS.match(text.strip())
    if whole is not None:
        text = text.strip()
        text = whole[1].replace(",", "") + text[whole.end() :]
    return " ".join(text.split())


def _matrix(body: str) -> str:
    rows = [row for row in re.split(r"\\\\", body) if row.strip()]
    return "[" + ",".join("[" + ",".join(cell.strip() for cell in row.split("&")) + "]" for row in rows) + "]"


def _group(text: str, place: int) -> tuple[str, int] | None:
    """The content of the braces that open at `place`, or the one character there; and where it ends."""
    if place >= len(text):
        return None
    if text[place] != "{":
        return (text[place], place + 1) if text[place].isalnum() else None
    depth = 0
    for end in range(place, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[place + 1 : end], end + 1
    return None


def _fractions(text: str) -> str:
    while (found := _FRACTION.search(text)) is not None:
        top = _group(text, found.end())
        bottom = _group(text, top[1] + len(text[top[1] :]) - len(text[top[1] :].lstrip())) if top else None
        if top is None or bottom is None:
            return text[: found.start()] + text[found.end() :]
        text = f"{text[: found.start()]}({top[0]})/({bottom[0]}){text[bottom[1] :]}"
    return text


def _roots(text: str) -> str:
    while (found := re.search(r"\\sqrt\s*(?:\[(\d{1,3})\])?\s*", text)) is not None:
        under = _group(text, found.end())
        if under is None:
            return text[: found.start()] + "sqrt" + text[found.end() :]
        root = f"({under[0]})^(1/{found[1]})" if found[1] else f"sqrt({under[0]})"
        text = f"{text[: found.start()]}{root}{text[under[1] :]}"
    return text


def _brackets(text: str) -> str:
    """x^{12} as x^(12), x_{1} as x_1."""
    while (found := re.search(r"([_^])\s*\{", text)) is not None:
        inner = _group(text, found.end() - 1)
        if inner is None:
            return text[: found.end() - 1] + text[found.end() :]
        content = f"({inner[0]})" if found[1] == "^" else inner[0].strip()
        text = f"{text[: found.start()]}{found[1]}{content}{text[inner[1] :]}"
    return text


_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:option|choice|answer)\s+)?[(\[]?([A-Ja-j])[)\]]?(?:[.):].*)?", re.IGNORECASE | re.DOTALL
)


def _choice(text: str) -> str | None:
    found = _LETTER.fullmatch(text)
    return found[1].upper() if found else None


def _without_name(said: str, gold: str) -> tuple[str, str]:
    """Both without the "x =" that one of them, or both alike, begin with."""
    pattern = re.compile(r"\s*([A-Za-z]\w*(?:\(\w\))?)\s*=(?![=])\s*([^=<>]+)")
    one, other = pattern.fullmatch(said), pattern.fullmatch(gold)
    if one and other:
        return (one[2], other[2]) if one[1] == other[1] else (said, gold)
    return (one[2] if one and "=" not in gold else said), (other[2] if other and "=" not in said else gold)


_BOUNDED = re.compile(r"\s*([^<>=,]+)(<=?)\s*[A-Za-z]\w*\s*(<=?)([^<>=,]+)")
_OPENINGS = {"(": ")", "[": "]", "{": "}"}


def _split(text: str) -> tuple[str, list[str], str] | None:
    """Opening, parts and closing of what is gathered with commas; "" for both where there are no brackets; None for one
    thing. An inequality on both sides is the interval it means."""
    if bounded := _BOUNDED.fullmatch(text):
        return "[" if "=" in bounded[2] else "(", [bounded[1], bounded[4]], "]" if "=" in bounded[3] else ")"
    text = text.strip()
    opening = closing = ""
    inside = text
    if text[:1] in _OPENINGS and text[-1:] in {")", "]", "}"} and _encloses(text):
        opening, closing, inside = text[0], text[-1], text[1:-1]
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(inside):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append(inside[start:place])
            start = place + 1
    parts.append(inside[start:])
    parts = [part.strip() for part in parts]
    if len(parts) == 1 and opening != "{":
        return None
    return opening, parts, closing


def _encloses(text: str) -> bool:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _parts(said: str, gold: str, asked: Asked, tolerance: Tolerance, convert: Convert | None) -> Comparison | None:
    """Compare what is gathered part by part; None when neither is gathered."""
    one, other = _union(said), _union(gold)
    if len(one) > 1 or len(other) > 1:
        return _matched(one, other, asked, tolerance, convert, "union")
    left, right = _split(said), _split(gold)
    if right is None:
        return None if left is None or left[0] != "{" else Comparison(0.0, "set")
    if left is None:
        return Comparison(0.0, "list")
    ordered = right[0] in {"(", "["} or (asked.ordered and right[0] != "{")
    if right[0] in {"(", "["} and left[0] in {"(", "["} and (left[0], left[2]) != (right[0], right[2]):
        return Comparison(0.0, "interval")  # closed is not open
    if right[0] == "{" and left[0] in {"(", "["}:
        return Comparison(0.0, "set")
    if not ordered or (left[0] == "{" and not asked.ordered):
        return _matched(left[1], right[1], asked, tolerance, convert, "set")
    if len(left[1]) != len(right[1]):
        return Comparison(0.0, "tuple")
    found = [_part(a, b, asked, tolerance, convert) for a, b in zip(left[1], right[1], strict=True)]
    return _all(found, "tuple")


def _union(text: str) -> list[str]:
    return [part for part in re.split(r"\s+u\s+", text) if part]


def _part(said: str, gold: str, asked: Asked, tolerance: Tolerance, convert: Convert | None) -> Comparison:
    if not said or not gold:
        return Comparison(float(said == gold), "empty")
    return compare(said, gold, asked.text, tolerance=tolerance, convert=convert)


def _matched(  # noqa: PLR0917
    said: Sequence[str], gold: Sequence[str], asked: Asked, tolerance: Tolerance, convert: Convert | None, how: str
) -> Comparison:
    """Without order: each part of one has its like among the other's, none twice."""
    left = list(said)
    found = []
    if len(said) != len(gold):
        return Comparison(0.0, how)
    for part in gold:
        best = max((_part(other, part, asked, tolerance, convert) for other in left), key=lambda c: c.score)
        place = next(i for i, other in enumerate(left) if _part(other, part, asked, tolerance, convert) == best)
        left.pop(place)
        found.append(best)
    return _all(found, how)


def _all(found: Sequence[Comparison], how: str) -> Comparison:
    if any(one.decided and not one.same for one in found):
        return Comparison(min(one.score for one in found if one.decided), how)
    return UNDECIDED if not all(one.decided for one in found) else Comparison(min(c.score for c in found), how)


_FUNCTIONS = {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "abs", "arcsin", "arccos", "arctan"}
_FUNCTIONS |= {"asin", "acos", "atan", "sinh", "cosh", "tanh", "min", "max", "lim", "int", "sum", "oo", "e", "i"}


def _values(said: str, gold: str, asked: Asked, tolerance: Tolerance) -> Comparison:
    """Compare as expressions: exactly, or as numbers when the names have values."""
    try:
        one, other = read_expression(said), read_expression(gold)
    except BadInput:
        return UNDECIDED
    if not isinstance(one, Rational) or not isinstance(other, Rational):
        return _gathered(one, other)
    names = one.names | other.names
    if names & _FUNCTIONS:
        return UNDECIDED
    if one == other:
        return Comparison(1.0, "algebra" if names else "number")
    if not names:
        return _numbers(one, other, said, gold, asked, tolerance)
    known = {"pi": Fraction(math.pi), **asked.constants}
    if names <= set(known):
        try:
            one, other = _rational(said, known), _rational(gold, known)
        except BadInput:
            return UNDECIDED
        return _numbers(one, other, said, gold, asked, tolerance)
    if any(len(name) > 1 for name in names):
        return UNDECIDED  # a product without a sign, a word or a unit
    return Comparison(0.0, "algebra")


def _rational(text: str, known: dict[str, Fraction]) -> Rational:
    value = read_expression(text, known)
    if not isinstance(value, Rational):
        raise BadInput("not a number")
    return value


def _gathered(one: Value | bool, other: Value | bool) -> Comparison:
    if isinstance(one, Gathered) and isinstance(other, Gathered) and one == other:
        return Comparison(1.0, "gathered")
    return UNDECIDED


def _numbers(  # noqa: PLR0917
    one: Rational, other: Rational, said: str, gold: str, asked: Asked, tolerance: Tolerance
) -> Comparison:
    a, b = one.number, other.number
    if a is None or b is None:
        return UNDECIDED
    if "%" in gold and "%" not in said and a == b * 100 and re.search(r"percent|%", asked.text):
        a /= 100
    if a.denominator == b.denominator == 1 and not re.search(r"[.eE]", said + gold):
        return Comparison(float(a == b), "number")
    try:
        return Comparison(near(float(a), float(b), tolerance_for(gold, tolerance)), "number")
    except OverflowError:
        return Comparison(float(a == b), "number")


_AMOUNT = re.compile(
    r"(?P<amount>[-+]?[\d.][\d. ()/^*e+-]*?)\s*\*?\s*(?P<unit>(?:deg[CFK]|[^\W\d_]|µ|Ω)[\w µΩ*/^()-]{0,40})", re.ASCII
)


def _units(said: str, gold: str, asked: Asked, tolerance: Tolerance, convert: Convert | None) -> Comparison | None:
    """Compare amounts with units; None when the reference, or else the answer, is none."""
    one, other = _amount(said), _amount(gold)
    if one is None or other is None or not (one[1] or other[1]):
        return None
    if any(unit in asked.constants for _, unit in (one, other)):
        return None
    if not other[1]:  # the question has the unit, if any
        return Comparison(near(one[0], other[0], tolerance_for(gold, tolerance)), "number") if convert else None
    if not one[1]:
        if asked.wants(other[1]):
            return Comparison(0.0, "the unit is missing")
        return Comparison(near(one[0], other[0], tolerance.computed), "number")
    if one[1] == other[1]:
        return Comparison(near(one[0], other[0], tolerance_for(gold.removesuffix(other[1]), tolerance)), "unit")
    if convert is None:
        return UNDECIDED
    there = convert(one[0], one[1], other[1])
    if there is None:
        return None
    if math.isnan(there):
        return Comparison(0.0, "units do not fit")
    return Comparison(near(there, other[0], tolerance_for(gold.removesuffix(other[1]), tolerance)), "unit")


def _amount(text: str) -> tuple[float, str] | None:
    """Number and unit, "" without a unit; None when it is no amount."""
    found = _AMOUNT.fullmatch(text)
    number, unit = (found["amount"], found["unit"].strip()) if found else (text, "")
    try:
        value = read_expression(number)
        size = value.number if isinstance(value, Rational) else None
        return None if size is None else (float(size), re.sub(r"\^\((-?\d)\)", r"^\1", unit))
    except (BadInput, OverflowError):
        return None


_WORDS = re.compile(r"[^\W\d_]{4,}")


def _mathematical(text: str) -> bool:
    """Whether a computer algebra system may make something of it: no words but functions."""
    words = {word.lower() for word in _WORDS.findall(text)}
    return len(text) <= 200 and words <= _FUNCTIONS and bool(re.search(r"[\d+*/^=()]", text) or len(text) <= 3)


def _text(said: str, gold: str) -> Comparison:
    one, other = normalize_answer(said), normalize_answer(gold)
    if one and one == other:
        return Comparison(1.0, "text")
    return Comparison(0.49 * token_f1(said, (gold,)), "text")
