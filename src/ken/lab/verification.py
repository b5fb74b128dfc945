"""A world of answers to be checked: is an answer the same as the reference (card 28, Miniature claim check)?

An item is a question, a reference and a response that ends in an answer: the reference written in another way, or one
that is wrong by as little as can be. Which it is, is known exactly: every answer is made from rational numbers. Also
known is how tools would show it, which is what a verifier learns to ask them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from ken.core import Question
from ken.core.explained import Explained
from ken.core.seeding import derive_seed

Split = Literal["train", "dev", "test", "tail"]

COMPUTED = ("algebra", "number", "unit", "constant", "set")
"""Kinds that take a tool, or a good head."""
KINDS = (*COMPUTED, "text")
TAIL = ("temperature", "matrix")
"""Kinds that are rare in training."""

CODE, CONVERT = "code", "convert"
CORRECT, INCORRECT = "Correct", "Incorrect"

DIFFERENCE = Fraction(3, 100)
"""Wrong numbers are at least this much off, relative to the reference: beyond every tolerance of the policy (1e-3, and
1e-2 for rounded references)."""


class VerificationWorldConfig(Explained):
    """Sizes of a world. train, dev, test: items; those of test have equal shares of the kinds. tail: test items of the
    rare kinds. rare: share of each rare kind in training; augmented: the same after long-tail augmentation, with which
    rare kinds are made more often. distractors: most sentences before an answer. tempting: probability that one of them
    names an answer of the other label.

    Raises `BadInput` for a value out of range.
    """

    called = "a VerificationWorld"

    train: int = Field(default=12_000, ge=16)
    dev: int = Field(default=300, ge=6)
    test: int = Field(default=600, ge=6)
    tail: int = Field(default=200, ge=2)
    rare: float = Field(default=0.02, ge=0, le=0.3)
    augmented: float = Field(default=0.1, ge=0, le=0.3)
    distractors: int = Field(default=2, ge=0, le=4)
    tempting: float = Field(default=0.3, ge=0, le=1)
    seed: int = 0


Call = tuple[str, str]  # the tool, and what it is asked


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be judged. answer: the end of the response. worked: both sides in one form, as somebody without
    tools would write them down. converted: what a conversion brings, "" without one; calls: that decide, in order, the
    last of which says 0 or True exactly when the answer is right."""

    kind: str
    question: str
    reference: str
    answer: str
    response: str
    right: bool
    worked: tuple[str, str]
    calls: tuple[Call, ...] = ()
    converted: str = ""

    @property
    def label(self) -> str:
        return CORRECT if self.right else INCORRECT

    def as_question(self, identifier: str) -> Question:
        """What a verifier is asked; its answer is the label. `meta`: reference, response, kind, computed, and `id` of
        what is verified."""
        return Question(
            id=identifier,
            text=self.question,
            answers=(self.label,),
            meta={
                "reference": self.reference,
                "response": self.response,
                "kind": self.kind,
                "computed": self.kind != "text",
            },
        )


class VerificationWorld:
    """Items of each split, all fixed by the config and its seed; no item of a test split is in training."""

    def __init__(self, config: VerificationWorldConfig | None = None) -> None:
        self.config = config or VerificationWorldConfig()

    @cached_property
    def test(self) -> tuple[Item, ...]:
        return self._drawn("test", [KINDS[i % len(KINDS)] for i in range(self.config.test)], frozenset())

    @cached_property
    def tail(self) -> tuple[Item, ...]:
        """Held-out items of the rare kinds."""
        return self._drawn("tail", [TAIL[i % len(TAIL)] for i in range(self.config.tail)], frozenset())

    @cached_property
    def dev(self) -> tuple[Item, ...]:
        """Items to choose settings by."""
        return self._drawn("dev", [KINDS[i % len(KINDS)] for i in range(self.config.dev)], self._held)

    def training(self, *, augmented: bool = True, items: int | None = None) -> tuple[Item, ...]:
        """`items` items (default: the config's), rare kinds at their share, or at the augmented one."""
        c = self.config
        size = c.train if items is None else items
        share = c.augmented if augmented else c.rare
        rng = np.random.default_rng(derive_seed("verification kinds", c.seed, augmented))
        odds = [(1 - share * len(TAIL)) / len(KINDS)] * len(KINDS) + [share] * len(TAIL)
        kinds = [str(kind) for kind in rng.choice([*KINDS, *TAIL], size=size, p=odds)]
        return self._drawn(f"train {augmented}", kinds, self._kept_away)

    def of_kind(self, kind: str, items: int) -> tuple[Item, ...]:
        """More items for training, all of one kind."""
        return self._drawn(f"train {kind}", [kind] * items, self._kept_away)

    @cached_property
    def _held(self) -> frozenset[tuple[str, ...]]:
        return frozenset(_key(item) for item in (*self.test, *self.tail))

    @cached_property
    def _kept_away(self) -> frozenset[tuple[str, ...]]:
        return self._held | {_key(item) for item in self.dev}

    def _drawn(self, name: str, kinds: Sequence[str], without: frozenset[tuple[str, ...]]) -> tuple[Item, ...]:
        c = self.config
        rng = np.random.default_rng(derive_seed("verification", c.seed, name))
        made: Counter[str] = Counter()
        items = []
        for kind in kinds:
            made[kind] += 1
            items.append(_new(kind, made[kind] % 2 == 0, c, rng, without))
        return tuple(items)


def _new(
    kind: str,
    right: bool,
    config: VerificationWorldConfig,
    rng: np.random.Generator,
    without: frozenset[tuple[str, ...]],
) -> Item:
    while True:
        item = draw(kind, right, config, rng)
        # Of texts there are few, and what is learnt from them is to compare; so they may repeat with other distractors.
        if _key(item) not in without:
            return item


def _key(item: Item) -> tuple[str, ...]:
    return (item.question, item.reference, item.answer, *((item.response,) if item.kind == "text" else ()))


def draw(kind: str, right: bool, config: VerificationWorldConfig, rng: np.random.Generator) -> Item:
    """A random item of a kind, right or wrong. Raises `KeyError` for a kind that there is not."""
    made = _MAKERS[kind](rng, right)
    sentences = [_distractor(rng) for _ in range(int(rng.integers(config.distractors + 1)))]
    if sentences and rng.random() < config.tempting:
        other = made.reference if not right else _MAKERS[kind](rng, False).answer
        sentences[-1] = f"I first tried {other}."
    response = " ".join([*sentences, f"The answer is {made.answer}."])
    return Item(
        kind,
        made.question,
        made.reference,
        made.answer,
        response,
        right,
        made.worked,
        made.calls,
        made.converted,
    )


_REMARKS = ("Note that {0} is not needed.", "The value {0} looks close.", "We check {0} later.", "Step {0} is done.")


def _distractor(rng: np.random.Generator) -> str:
    return str(rng.choice(_REMARKS)).format(int(rng.integers(2, 100)))


# --- kinds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Made:
    question: str
    reference: str
    answer: str
    worked: tuple[str, str]
    calls: tuple[Call, ...]
    converted: str = ""


def _algebra(rng: np.random.Generator, right: bool) -> _Made:
    """A factored polynomial and its expansion, either way round; wrong by one coefficient or sign."""
    b = _nonzero(rng, 9)
    if rng.random() < 0.5:
        a = int(rng.integers(2, 10))
        factored, expanded = f"{a}(x{b:+d})", [0, a, a * b]
    else:
        c = _nonzero(rng, 9)
        factored, expanded = f"(x{b:+d})(x{c:+d})", [1, b + c, b * c]
    truth = list(expanded)
    said, other = polynomial(expanded), factored
    if not right:
        place = int(rng.choice([i for i in (1, 2) if expanded[i]]))
        wrong = -expanded[place] if rng.random() < 0.5 else expanded[place] + int(rng.choice([-2, -1, 1, 2]))
        expanded[place] = wrong
        said = polynomial(expanded)
    reference, answer = (other, said) if rng.random() < 0.5 else (said, other)
    canonical = (polynomial(truth), polynomial(expanded))
    worked = canonical if reference == other else canonical[::-1]
    return _Made("Expand or factor it.", reference, answer, worked, (_minus(answer, reference),))


def polynomial(coefficients: Sequence[int]) -> str:
    """Coefficients, the highest power first, as text.

    >>> polynomial([1, -2, 6]), polynomial([0, 2, 0])
    ('x^2-2x+6', '2x')
    """
    parts = []
    for power, value in zip(range(len(coefficients) - 1, -1, -1), coefficients, strict=True):
        if value:
            size = "" if abs(value) == 1 and power else str(abs(value))
            name = "" if power == 0 else "x" if power == 1 else f"x^{power}"
            parts.append(("-" if value < 0 else "+") + size + name)
    return "".join(parts).removeprefix("+") or "0"


def _number(rng: np.random.Generator, right: bool) -> _Made:
    """A fraction, decimal or percentage in another of these forms."""
    bottom = int(rng.choice([2, 4, 5, 8, 10, 20, 25, 40, 50]))
    value = Fraction(int(rng.integers(1, 2 * bottom)), bottom)
    forms: list[Callable[[Fraction], str]] = [_fraction, decimal, _percent]
    first, second = (forms[int(i)] for i in rng.choice(3, size=2, replace=False))
    said = value if right else _off(value, rng)
    reference, answer = first(value), second(said)
    return _Made("Give the value.", reference, answer, (decimal(value), decimal(said)), (_minus(answer, reference),))


def decimal(value: Fraction) -> str:
    """A terminating decimal, without an exponent. Raises `ValueError` for a fraction that has none of at most 12
    places."""
    scaled = value * 10**12
    if scaled.denominator != 1:
        raise ValueError(f"{value} has no short decimal")
    digits = f"{abs(scaled.numerator):013d}"
    whole, places = digits[:-12], digits[-12:].rstrip("0")
    return ("-" if value < 0 else "") + whole + (f".{places}" if places else "")


def _fraction(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def _percent(value: Fraction) -> str:
    return f"{decimal(value * 100)}%"


def _off(value: Fraction, rng: np.random.Generator) -> Fraction:
    """A number that is wrong by a factor or a digit, but has as short a decimal."""
    step = Fraction(1)
    while (value / step).denominator != 1:
        step /= 10
    digits = int(value / step)
    near = [digits + d for d in (-2, -1, 1, 2, 10, -10, 100, -100)]
    wrong = [*(n * step for n in near if n > 0), value * 10, value / 10, value * 2]
    far = [w for w in wrong if abs(w - value) >= DIFFERENCE * abs(value)]
    return far[int(rng.integers(len(far)))]


UNITS: tuple[tuple[str, str, Fraction], ...] = (
    ("km/h", "m/s", Fraction(5, 18)),
    ("m/s", "km/h", Fraction(18, 5)),
    ("km", "m", Fraction(1000)),
    ("m", "cm", Fraction(100)),
    ("cm", "mm", Fraction(10)),
    ("m", "km", Fraction(1, 1000)),
    ("kg", "g", Fraction(1000)),
    ("g", "kg", Fraction(1, 1000)),
    ("t", "kg", Fraction(1000)),
    ("h", "min", Fraction(60)),
    ("min", "s", Fraction(60)),
    ("h", "s", Fraction(3600)),
    ("s", "min", Fraction(1, 60)),
    ("day", "h", Fraction(24)),
    ("cal", "J", Fraction(4184, 1000)),
    ("kcal", "kJ", Fraction(4184, 1000)),
    ("kJ", "J", Fraction(1000)),
    ("L", "mL", Fraction(1000)),
    ("bar", "kPa", Fraction(100)),
    ("kN", "N", Fraction(1000)),
)
"""From a unit to another: factors. Both names are pint's, too."""


def _unit(rng: np.random.Generator, right: bool) -> _Made:
    """An amount in another unit; wrong by a digit or a factor."""
    unit, to, factor = UNITS[int(rng.integers(len(UNITS)))]
    times, one = Fraction(int(rng.integers(1, 100))), factor.denominator  # so that all decimals end
    if unit in {"cal", "kcal"}:
        one = 1
    value = times * one * factor
    said = (times if right else _off(times, rng)) * one
    answer, reference = f"{decimal(said)} {unit}", f"{decimal(value)} {to}"
    got = decimal(said * factor)
    calls = ((CONVERT, f"{answer} to {to}"), _minus(got, decimal(value)))
    return _Made(f"Give the value in {to}.", reference, answer, (decimal(value), got), calls, got)


CONSTANTS = {"g": ("9.8", "10"), "R": ("8.3", "8"), "k": ("9", "2.5")}


def _constant(rng: np.random.Generator, right: bool) -> _Made:
    """A multiple of a constant whose value the question gives, and what that comes to."""
    name = str(rng.choice(list(CONSTANTS)))
    size = str(rng.choice(CONSTANTS[name]))
    factor = int(rng.integers(2, 40))
    value = factor * Fraction(size)
    said = value if right else _off(value, rng)
    symbolic, number = f"{factor}{name}", decimal(said)
    put_in = f"{factor}({size})"
    question = f"Take {name} = {size}."
    worked = (decimal(value), number)
    if rng.random() < 0.5:
        return _Made(question, symbolic, number, worked, (_minus(number, put_in),))
    return _Made(question, number, symbolic, worked[::-1], (_minus(put_in, number),))


def _set(rng: np.random.Generator, right: bool) -> _Made:
    """Three or four numbers in any order, or in one; wrong by a number, or by the order where that matters."""
    ordered = bool(rng.random() < 0.5)
    size = int(rng.integers(3, 5))
    values = [int(v) for v in rng.choice(19, size=size, replace=False) - 9]
    said = list(values) if ordered else [values[i] for i in rng.permutation(size)]
    if not right:
        if ordered and rng.random() < 0.5:
            i, j = sorted(int(k) for k in rng.choice(size, size=2, replace=False))
            said[i], said[j] = said[j], said[i]
        else:
            free = [v for v in range(-9, 10) if v not in values]
            near = [v for v in free if any(abs(v - w) == 1 or v == -w for w in values)]
            said[int(rng.integers(size))] = int(rng.choice(near or free))
    question = "List them in this order." if ordered else "List them in any order."
    reference, answer = (",".join(map(str, v)) for v in (values, said))
    opening, closing = ("(", ")") if ordered else ("{", "}")
    call = f"{opening}{answer}{closing}=={opening}{reference}{closing}"
    arranged = [",".join(map(str, v if ordered else sorted(v))) for v in (values, said)]
    return _Made(question, reference, answer, (arranged[0], arranged[1]), ((CODE, call),))


LETTERS = "ABCDE"
NAMES = ("iron", "gold", "zinc", "neon", "lead", "tin", "oxygen", "carbon", "copper", "silver", "helium", "sulfur")


def _text(rng: np.random.Generator, right: bool) -> _Made:
    """A choice or a name, said in other words."""
    pool: Sequence[str] = LETTERS if rng.random() < 0.5 else NAMES
    gold, other = (pool[int(i)] for i in rng.choice(len(pool), size=2, replace=False))
    said = gold if right else other
    forms = ("{0}", "option {0}", "({0})") if pool is LETTERS else ("{0}", "the element {0}", "pure {0}")
    question = "Which option is right?" if pool is LETTERS else "Which element is it?"
    return _Made(question, gold, str(rng.choice(forms)).format(said), (gold, said), ())


def _temperature(rng: np.random.Generator, right: bool) -> _Made:
    """Degrees Celsius and kelvin, or degrees Fahrenheit, whose zero is elsewhere; wrong by a digit or as if it were
    not."""
    celsius = 5 * int(rng.integers(-10, 41))
    unit, value = ("K", celsius + Fraction("273.15")) if rng.random() < 0.5 else ("degF", celsius * Fraction(9, 5) + 32)
    said = Fraction(celsius)
    if not right:
        said += int(rng.choice([-30, -20, 20, 30]))
    there = said + Fraction("273.15") if unit == "K" else said * Fraction(9, 5) + 32
    answer, reference = f"{decimal(said)} degC", f"{decimal(value)} {unit}"
    calls = ((CONVERT, f"{answer} to {unit}"), _minus(decimal(there), decimal(value)))
    question = f"Give the temperature in {unit}."
    return _Made(question, reference, answer, (decimal(value), decimal(there)), calls, decimal(there))


def _matrix(rng: np.random.Generator, right: bool) -> _Made:
    """A matrix of two rows, one entry of which is written as a product; wrong by an entry, or transposed."""
    while True:
        values = [int(v) for v in rng.integers(0, 10, size=4)]
        if values[1] != values[2]:
            break
    said = list(values)
    if not right:
        if rng.random() < 0.3:
            said[1], said[2] = said[2], said[1]
        else:
            place = int(rng.integers(4))
            said[place] += 1 if said[place] < 9 else -1
    place = int(rng.integers(4))
    factor = int(rng.integers(2, 5))
    written = [str(v) if i != place else f"{v * factor}/{factor}" for i, v in enumerate(said)]
    reference, answer = _rows(list(map(str, values))), _rows(written)
    return _Made(
        "Give the matrix.",
        reference,
        answer,
        (reference, _rows(list(map(str, said)))),
        ((CODE, f"{answer}=={reference}"),),
    )


def _rows(values: Sequence[str]) -> str:
    return f"[[{values[0]},{values[1]}],[{values[2]},{values[3]}]]"


_MAKERS: dict[str, Callable[[np.random.Generator, bool], _Made]] = {
    "algebra": _algebra,
    "number": _number,
    "unit": _unit,
    "constant": _constant,
    "set": _set,
    "text": _text,
    "temperature": _temperature,
    "matrix": _matrix,
}


def _nonzero(rng: np.random.Generator, most: int) -> int:
    return int(rng.integers(1, most + 1)) * (1 if rng.random() < 0.5 else -1)


def _minus(one: str, other: str) -> Call:
    return CODE, f"({one})-({other})"


def difficult(
    items: Sequence[Item], labels: Sequence[Sequence[str]], *, low: float = 0.2, high: float = 0.8
) -> list[Item]:
    """Difficulty-oriented sampling: the items on which a verifier is inconsistent, that is right in a share of its
    `labels` (several per item) from low to high (card 28, Data construction; the thresholds are the card's).
    """
    kept = []
    for item, said in zip(items, labels, strict=True):
        share = sum(label == item.label for label in said) / len(said) if said else 0.0
        if low <= share <= high:
            kept.append(item)
    return kept
