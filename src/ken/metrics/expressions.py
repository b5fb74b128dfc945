"""Exact arithmetic on written expressions: numbers, names, + - * / ^ and what is gathered in brackets.

A strict reader: nothing is evaluated but sums, products and quotients of polynomials with rational coefficients, each
with a bound on its size, so that any text can be given to it. Equality is exact: two quotients are equal when their
cross products are. What needs more (roots, functions) is for a computer algebra system in a sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ken.core import BadInput

LONGEST = 400  # characters
DEEPEST = 40  # brackets and signs within each other
MOST_TERMS = 400
LARGEST_POWER = 40
LARGEST_DIGITS = 60  # of a coefficient

Monomial = tuple[tuple[str, int], ...]  # names and powers, sorted
Polynomial = Mapping[Monomial, Fraction]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d_](?:_?\w)*)|(?P<sign>\*\*|==|[-+*/^%(){}\[\],]))"
)
_CLOSING = {"(": ")", "{": "}", "[": "]"}
ONE: Polynomial = {(): Fraction(1)}


@dataclass(frozen=True, slots=True)
class Rational:
    """A quotient of polynomials; the lower one is not 0."""

    top: Polynomial
    bottom: Polynomial

    @property
    def number(self) -> Fraction | None:
        """Its value when no name matters; else None."""
        if not self.top:
            return Fraction(0)
        if set(self.top) == {()} and set(self.bottom) == {()}:
            return self.top[()] / self.bottom[()]
        return None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for side in (self.top, self.bottom) for monomial in side for name, _ in monomial)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rational) and not _plus(self, other, -1).top

    __hash__ = None  # type: ignore[assignment]  # equal quotients are written in many ways

    def __str__(self) -> str:
        if (number := self.number) is not None:
            return _decimal(number)
        top = _written(self.top)
        return top if self.bottom == ONE else f"({top})/({_written(self.bottom)})"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What stands in brackets with commas between: a tuple (round), a set (curly) or a list (square)."""

    bracket: str
    values: tuple[Value, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gathered) or other.bracket != self.bracket:
            return False
        if self.bracket != "{":
            return self.values == other.values
        return all(value in other.values for value in self.values) and all(
            value in self.values for value in other.values
        )

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.bracket}{', '.join(map(str, self.values))}{_CLOSING[self.bracket]}"


Value = Rational | Gathered


def read_expression(text: str, names: Mapping[str, Fraction] | None = None) -> Value | bool:
    """The value of an expression; of a comparison with ==, whether it holds.

    names: values of names that have one. "^" is a power as "**" is, "2x" a product, "5%" is 5/100.

    >>> str(read_expression("(2(x+3)) - (2x+6)")), read_expression("{3, 1, 2} == {1, 2, 3}")
    ('0', True)

    Raises `BadInput` for anything else, for a division by zero, and for what becomes too large.
    """
    if len(text) > LONGEST:
        raise BadInput(f"the expression is longer than {LONGEST} characters")
    return _Reader(_tokens(text), dict(names or {})).whole()


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, place, end = [], 0, len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            raise BadInput(f"{text[place:].strip()[:10]!r} cannot be read here")
        tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
        place = found.end()
    return tokens


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[tuple[str, str]], names: dict[str, Fraction]) -> None:
        self.tokens, self.names = tokens, names
        self.place = self.depth = 0

    @property
    def next(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def take(self, *texts: str) -> str | None:
        kind, text = self.next
        if kind == "sign" and text in texts:
            self.place += 1
            return text
        return None

    def whole(self) -> Value | bool:
        value: Value | bool = self.sum()
        if self.take("=="):
            value = value == self.sum()
        if self.place < len(self.tokens):
            raise BadInput(f"{self.next[1]!r} is not expected here")
        return value

    def sum(self) -> Value:
        value = self.product()
        while sign := self.take("+", "-"):
            value = _plus(_rational(value), _rational(self.product()), -1 if sign == "-" else 1)
        return value

    def product(self) -> Value:
        value = self.signed()
        while True:
            kind, text = self.next
            if self.take("*"):
                value = _times(_rational(value), _rational(self.signed()))
            elif self.take("/"):
                value = _over(_rational(value), _rational(self.signed()))
            elif kind == "name" or (kind == "sign" and text == "("):
                value = _times(_rational(value), _rational(self.power()))
            else:
                return value

    def signed(self) -> Value:
        self.depth += 1
        if self.depth > DEEPEST:
            raise BadInput("the expression is too deep")
        try:
            if self.take("-"):
                return _times(_constant(Fraction(-1)), _rational(self.signed()))
            return self.signed() if self.take("+") else self.power()
        finally:
            self.depth -= 1

    def power(self) -> Value:
        value = self.atom()
        if not self.take("^", "**"):
            return value
        exponent = _rational(self.signed()).number
        if exponent is None or exponent.denominator != 1 or abs(exponent) > LARGEST_POWER:
            raise BadInput(f"only whole powers up to {LARGEST_POWER} can be worked out")
        result, base = _constant(Fraction(1)), _rational(value)
        for _ in range(abs(int(exponent))):
            result = _times(result, base)
        return _over(_constant(Fraction(1)), result) if exponent < 0 else result

    def atom(self) -> Value:
        kind, text = self.next
        self.place += 1
        if kind == "number":
            value = _constant(_read_number(text))
            return _over(value, _constant(Fraction(100))) if self.take("%") else value
        if kind == "name":
            return _constant(self.names[text]) if text in self.names else Rational({((text, 1),): Fraction(1)}, ONE)
        if kind == "sign" and text in _CLOSING:
            values: list[Value] = []
            comma = False
            while not self.take(_CLOSING[text]):
                if values and not (comma := self.take(",") is not None):
                    raise BadInput(f"{_CLOSING[text]!r} is missing")
                if self.take(_CLOSING[text]):
                    break
                values.append(self.sum())
            if text == "(" and len(values) == 1 and not comma:
                return values[0]
            return Gathered(text, tuple(values))
        raise BadInput(f"{text!r} is not expected here" if text else "the expression ends too early")


def _read_number(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > LARGEST_DIGITS or len(exponent) > 3 or abs(int(exponent or 0)) > LARGEST_DIGITS:
        raise BadInput("the number is too large")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _constant(value: Fraction) -> Rational:
    return Rational({(): value} if value else {}, ONE)


def _rational(value: Value) -> Rational:
    if isinstance(value, Gathered):
        raise BadInput("what stands in brackets with commas can only be compared")
    return value


def _plus(one: Rational, other: Rational, sign: int) -> Rational:
    if one.bottom == other.bottom:
        return Rational(_sum(one.top, other.top, sign), one.bottom)
    top = _sum(_product(one.top, other.bottom), _product(other.top, one.bottom), sign)
    return _small(top, _product(one.bottom, other.bottom))


def _times(one: Rational, other: Rational) -> Rational:
    return _small(_product(one.top, other.top), _product(one.bottom, other.bottom))


def _over(one: Rational, other: Rational) -> Rational:
    if not other.top:
        raise BadInput("division by zero")
    return _small(_product(one.top, other.bottom), _product(one.bottom, other.top))


def _small(top: Polynomial, bottom: Polynomial) -> Rational:
    """With a constant below divided through."""
    if set(bottom) == {()}:
        top, bottom = {monomial: value / bottom[()] for monomial, value in top.items()}, ONE
    return Rational(top, bottom)


def _sum(one: Polynomial, other: Polynomial, sign: int) -> Polynomial:
    result = dict(one)
    for monomial, value in other.items():
        result[monomial] = result.get(monomial, Fraction(0)) + sign * value
    return _bounded({monomial: value for monomial, value in result.items() if value})


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    if len(one) * len(other) > MOST_TERMS:
        raise BadInput("the expression has too many terms")
    result: dict[Monomial, Fraction] = {}
    for left, a in one.items():
        for right, b in other.items():
            powers = dict(left)
            for name, power in right:
                powers[name] = powers.get(name, 0) + power
            monomial = tuple(sorted(powers.items()))
            result[monomial] = result.get(monomial, Fraction(0)) + a * b
    return _bounded({monomial: value for monomial, value in result.items() if value})


def _bounded(polynomial: Polynomial) -> Polynomial:
    limit = 10**LARGEST_DIGITS
    for monomial, value in polynomial.items():
        if max(abs(value.numerator), value.denominator) > limit or sum(power for _, power in monomial) > 200:
            raise BadInput("the value is too large")
    return polynomial


def _decimal(value: Fraction) -> str:
    """As a decimal where it ends within 12 places, else as a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**12
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(scaled.numerator):013d}"
    return f"{'-' if value < 0 else ''}{digits[:-12]}.{digits[-12:].rstrip('0')}"


def _written(polynomial: Polynomial) -> str:
    parts = []
    for monomial, value in sorted(polynomial.items(), key=lambda term: (-sum(p for _, p in term[0]), term[0])):
        names = "*".join(name if power == 1 else f"{name}^{power}" for name, power in monomial)
        size = _decimal(abs(value))
        body = size if not names else names if size == "1" else f"{size}*{names}"
        parts.append(("-" if value < 0 else "+") + body)
    return "".join(parts).removeprefix("+") or "0"
