"""A world of tools: 40 in 8 categories, and questions that take none, one or several of them (card 49, Arm B).

A category has three tools that questions need and two near-duplicates that none does: their words are the same, their
values others ("former employer"). Look-ups read tables that are drawn anew for every split, so that memory cannot
answer; countries never change and single digits add up as ever, so that no tool is needed for these.

A question is a phrase around a phrase, "the price of the product of Kavelo": who answers it begins inside, and every
phrase is a call. A tool goes by three words, of which its description has two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ken.core import BadInput, Question
from ken.core.explained import Explained
from ken.core.seeding import derive_seed
from ken.lab.names import invented_names

Kind = Literal["person", "firm", "good", "city", "country", "currency", "number", "weekday", "owner"]
NAMED: tuple[Kind, ...] = ("person", "firm", "good", "city", "country", "currency")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SMALL = 24  # largest number in a table; a calculation on one stays below 100
LARGEST = 99


@dataclass(frozen=True, slots=True)
class Api:
    """A tool of the world. takes: the kind of each argument, by its name; the last is what a phrase is about. gives:
    the kind of its result, which stands in the field `result`. words: how questions call it; the first two are in its
    description. factor: of conversions. twin: of a near-duplicate, the tool that it resembles.
    """

    name: str
    category: str
    takes: Mapping[str, Kind]
    gives: Kind
    words: tuple[str, ...]
    factor: int = 0
    twin: str = ""

    @property
    def result(self) -> str:
        return self.twin or self.name

    @property
    def description(self) -> str:
        said = f"{self.words[0]} or {self.words[1]} of a {list(self.takes.values())[-1]}"
        return f"former {said}" if self.twin else said

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        kinds = {name: {"type": "integer" if kind == "number" else "string"} for name, kind in self.takes.items()}
        return {"type": "object", "properties": kinds, "required": [*kinds], "additionalProperties": False}

    @property
    def returns(self) -> dict[str, Any]:
        """The JSON schema of its result: what is `required` matters, the rest is about the record."""
        kind = "integer" if self.gives == "number" else "string"
        matters = {self.result: {"type": kind}, **({"kind": {"type": "string"}} if self.gives == "owner" else {})}
        about = {"record": {"type": "integer"}, "status": {"type": "string"}}
        return {"type": "object", "properties": {**matters, **about}, "required": [*matters]}

    @property
    def looks_up(self) -> bool:
        """Whether its result stands in a table, and is not computed from its arguments."""
        return len(self.takes) == 1 and not self.factor and self.gives != "weekday"

    @property
    def pair(self) -> bool:
        """Whether it takes something beside what a phrase is about."""
        return len(self.takes) == 2


def _category(name: str, *, twins: tuple[int, int] = (0, 1), tools: Sequence[Api]) -> list[Api]:
    former = [
        Api(f"former{t.name.capitalize()}", name, t.takes, t.gives, t.words, t.factor - 1 if t.factor else 0, t.name)
        for t in (tools[i] for i in twins)
    ]
    return [*tools, *former]


def _look(category: str, name: str, about: Kind, gives: Kind, *words: str) -> Api:
    return Api(name, category, {about: about}, gives, (name, *words))


def _convert(name: str, factor: int, *words: str) -> Api:
    return Api(name, "units", {"amount": "number"}, "number", (name, *words), factor)


def _money(name: str, *words: str) -> Api:
    return Api(name, "currency", {"currency": "currency", "amount": "number"}, "number", (name, *words))


def _reckon(category: str, name: str, *words: str) -> Api:
    return Api(name, category, {"first": "number", "second": "number"}, "number", (name, *words))


CATALOGUE: tuple[Api, ...] = (
    *_category(
        "people",
        tools=[
            _look("people", "employer", "person", "firm", "workplace", "paymaster"),
            _look("people", "residence", "person", "city", "home", "domicile"),
            _look("people", "age", "person", "number", "years", "seniority"),
        ],
    ),
    *_category(
        "firms",
        tools=[
            _look("firms", "seat", "firm", "city", "headquarters", "base"),
            _look("firms", "owner", "firm", "owner", "proprietor", "holder"),
            _look("firms", "staff", "firm", "number", "workforce", "headcount"),
        ],
    ),
    *_category(
        "goods",
        tools=[
            _look("goods", "maker", "good", "firm", "manufacturer", "producer"),
            _look("goods", "price", "good", "number", "cost", "charge"),
            _look("goods", "weight", "good", "number", "mass", "heaviness"),
        ],
    ),
    *_category(
        "cities",
        tools=[
            _look("cities", "mayor", "city", "person", "governor", "provost"),
            _look("cities", "size", "city", "number", "population", "inhabitants"),
            _look("cities", "country", "city", "country", "state", "nation"),
        ],
    ),
    *_category(
        "units",
        tools=[
            _convert("seasons", 4, "quarters", "trimesters"),
            _convert("shoes", 2, "pairs", "boots"),
            _convert("feet", 3, "soles", "footage"),
        ],
    ),
    *_category(
        "currency",
        tools=[
            _money("euros", "eurocash", "continentals"),
            _money("crowns", "kronor", "coronas"),
            _money("pounds", "quid", "sterling"),
        ],
    ),
    *_category(
        "dates",
        tools=[
            _reckon("dates", "later", "after", "onward"),
            _reckon("dates", "interval", "distance", "gap"),
            Api("weekday", "dates", {"day": "number"}, "weekday", ("weekday", "dayname", "weekdate")),
        ],
    ),
    *_category(
        "calculator",
        tools=[
            _reckon("calculator", "sum", "total", "addition"),
            _reckon("calculator", "product", "multiple", "times"),
            _reckon("calculator", "remainder", "modulo", "rest"),
        ],
    ),
)
APIS: dict[str, Api] = {api.name: api for api in CATALOGUE}
REAL = tuple(api for api in CATALOGUE if not api.twin)
_HOME = {"person": "residence", "firm": "seat"}
HOME = "whereabouts"  # of an owner: where a person lives, or where a firm has its seat


class ApiWorldConfig(Explained):
    """names: of each kind (people, firms, goods, cities), and a fifth of that of countries and currencies. train, test:
    questions of each split; dev: others, for choosing settings. shares: of questions without tools; with calls that
    depend on each other; with several results; and with a second tool that depends on the first result.

    Raises `BadInput` for a value out of range, and for shares that do not add up to 1.
    """

    called = "an ApiWorld"

    names: int = Field(default=30, ge=10)
    train: int = Field(default=1500, ge=1)
    test: int = Field(default=300, ge=1)
    shares: tuple[float, float, float, float] = (0.2, 0.45, 0.25, 0.1)
    seed: int = 0

    def model_post_init(self, context: Any) -> None:
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise BadInput(f"the shares of an ApiWorld must add up to 1, not {sum(self.shares):g}")


Value = str | int


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a question takes: the phrase that asks for it (with #1, #2 … for the results of earlier calls), the
    tool, and its arguments as far as the question gives them ("#1" else)."""

    text: str
    api: Api
    arguments: dict[str, Value]


@dataclass(slots=True)
class Job:
    """A question and how it is answered. kind: "none", "chain", "several" or "switch". compose: what becomes of the
    results: "last" is the answer, "and" joins two, "greater" names who has more, "same" says whether two are equal.
    sinks: the calls (from 0) whose results are composed. about: the names that "greater" chooses from.
    """

    kind: Literal["none", "chain", "several", "switch"]
    text: str
    calls: list[Call]
    compose: Literal["last", "and", "greater", "same"] = "last"
    sinks: tuple[int, ...] = ()
    about: tuple[str, ...] = ()
    results: list[dict[str, Value]] = field(default_factory=list)
    answer: str = ""


class Tables:
    """What the look-ups tell, drawn when first asked for. The values of one seed, asked for in any order, are the same:
    each is seeded by what it is about. imagined: anew for each `Tables`, from this generator."""

    def __init__(self, world: ApiWorld, seed: object = 0, *, imagined: np.random.Generator | None = None) -> None:
        self.world, self.seed, self.imagined = world, seed, imagined
        self._drawn: dict[tuple[str, str], Value] = {}

    def value(self, api: Api, about: str) -> Value:
        if api.name == "country":
            return self.world.countries[about]
        if (api.name, about) not in self._drawn:
            own = np.random.default_rng(derive_seed("apiworld", self.world.config.seed, self.seed, api.name, about))
            rng = self.imagined or own
            kind = ("person", "firm")[int(rng.integers(2))] if api.gives == "owner" else api.gives
            names = self.world.names.get(kind, ())
            drawn = names[int(rng.integers(len(names)))] if names else int(rng.integers(1, SMALL + 1))
            self._drawn[api.name, about] = drawn
        return self._drawn[api.name, about]

    def rate(self, api: Api, currency: str) -> int:
        """How much of a money one unit of `currency` is, from 2 to 4; formerly another."""
        if api.twin:
            return (self.rate(APIS[api.twin], currency) - 1) % 3 + 2
        own = np.random.default_rng(derive_seed("apiworld", self.world.config.seed, self.seed, api.name, currency))
        return int(self._drawn.setdefault((api.name, currency), int((self.imagined or own).integers(2, 5))))

    def call(self, api: Api, arguments: Mapping[str, Any]) -> dict[str, Value]:
        """What the tool returns. Raises `BadInput` for a name that is none of the kind that it takes."""
        given: dict[str, Any] = {}
        for name, kind in api.takes.items():
            value = arguments[name]
            given[name] = int(value) if kind == "number" else str(value).strip()
            if kind != "number" and given[name] not in self.world.known[kind]:
                raise BadInput(f"there is no {kind} {given[name]!r}")
        last = list(given.values())[-1]
        result: dict[str, Value] = {}
        if api.looks_up:
            result[api.result] = value = self.value(api, last)
            if api.gives == "owner":
                result["kind"] = "person" if value in self.world.known["person"] else "firm"
        else:
            result[api.result] = self._computed(api, given, last)
        record = derive_seed(api.name, *given.values()) % 100
        return {**result, "record": record, "status": "ok"}

    def _computed(self, api: Api, given: Mapping[str, Any], last: int) -> Value:
        if api.category == "currency":
            return self.rate(api, given["currency"]) * last
        if api.factor:
            return api.factor * last
        if api.gives == "weekday":
            return WEEKDAYS[(last + (3 if api.twin else 0)) % 7]
        a, former = int(given["first"]), 3 if api.twin else 0
        match api.result:
            case "later" | "sum":
                return a + last + former
            case "interval":
                return abs(last - a) + former
            case "product":
                return a * last + former
            case _:
                return last % a if a else 0


class ApiWorld:
    """Names of every kind and the countries of cities, fixed by the config and its seed; questions of any split."""

    def __init__(self, config: ApiWorldConfig | None = None) -> None:
        self.config = config or ApiWorldConfig()
        rng = np.random.default_rng(derive_seed("apiworld names", self.config.seed))
        names = invented_names(rng)
        few = max(4, self.config.names // 5)
        self.names: dict[Kind, tuple[str, ...]] = {
            kind: tuple(islice(names, few if kind in {"country", "currency"} else self.config.names)) for kind in NAMED
        }
        self.known = {kind: frozenset(of) for kind, of in self.names.items()}
        countries = self.names["country"]
        self.countries = {city: countries[int(rng.integers(len(countries)))] for city in self.names["city"]}

    def tables(self, seed: object) -> Tables:
        """The tables of a split, or of a seed."""
        return Tables(self, seed)

    def imagined(self, rng: np.random.Generator) -> Tables:
        """Tables that nobody will see again: for examples whose values can only be read."""
        return Tables(self, imagined=rng)

    def questions(self, split: str, count: int | None = None, *, seed: int = 0) -> list[Question]:
        """`count` distinct questions of a split (by default as many as the config says), over tables of their own. Of
        each kind its share. `meta`: kind, compose, tools, calls (text, tool, arguments), results, sinks, about, tables
        (the seed to give to `tables`)."""
        n = count if count is not None else self.config.train if split == "train" else self.config.test
        key = f"{split}-{seed}"
        rng = np.random.default_rng(derive_seed("apiworld questions", self.config.seed, key))
        tables = self.tables(key)
        made: dict[str, Question] = {}
        kinds = ("none", "chain", "several", "switch")
        wanted = {kind: round(n * share) for kind, share in zip(kinds, self.config.shares, strict=True)}
        for kind, of in wanted.items():
            before, tries = len(made), 0
            while len(made) < before + of and tries < 50 * of + 100:
                tries += 1
                question = as_question(self.job(rng, tables, kind), key)
                made.setdefault(question.text, question)
        return list(made.values())

    def job(self, rng: np.random.Generator, tables: Tables, kind: str | None = None) -> Job:
        """A random question with its calls, results and answer. kind: one of the four, else by their shares."""
        if kind is None:
            kind = str(rng.choice(("none", "chain", "several", "switch"), p=self.config.shares))
        match kind:
            case "none":
                job = self._none(rng)
            case "chain":
                job = self._chain(rng, int(rng.choice((1, 2, 3, 4), p=(0.3, 0.3, 0.2, 0.2))))
            case "several":
                job = self._several(rng, tables)
            case _:
                return self._switch(rng, tables)
        return solved(job, tables)

    def call(self, rng: np.random.Generator, api: Api) -> Call:
        """A sub-question for a tool, with all that it needs."""
        about = list(api.takes.values())[-1]
        phrase: Value = int(rng.integers(1, SMALL + 1)) if about == "number" else self._name(rng, about)
        if api.name in _HOME.values() and rng.random() < 0.2:
            return Call(f"the {HOME} of {phrase}", api, {about: phrase})
        return self._phrase(rng, api, phrase, self._beside(rng, api))

    # --- the kinds ---

    def _none(self, rng: np.random.Generator) -> Job:
        if rng.random() < 0.5:
            call = self._phrase(rng, APIS["country"], self._name(rng, "city"), 1)
        else:
            a, b = (int(x) for x in rng.integers(1, 10, size=2))
            call = self._phrase(rng, APIS["sum"], b, a)
        return Job("none", f"What is {call.text} ?", [call], sinks=(0,))

    def _chain(self, rng: np.random.Generator, length: int) -> Job:
        """From the outside in: the last call, then what gives it its argument, and so on."""
        apis: list[Api] = []
        needed: Kind | None = None
        while len(apis) < length:
            left = length - len(apis)
            options = [api for api in REAL if self._fits(api, needed, outermost=not apis, left=left)]
            api = options[int(rng.integers(len(options)))]
            apis.append(api)
            needed = list(api.takes.values())[-1]
        calls: list[Call] = []
        phrase: Value = ""
        text = ""
        for api in reversed(apis):
            if not calls:
                about = list(api.takes.values())[-1]
                phrase = int(rng.integers(10, SMALL + 1)) if about == "number" else self._name(rng, about)
                text = str(phrase)
            else:
                phrase = f"#{len(calls)}"
            call = self._phrase(rng, api, phrase, self._beside(rng, api))
            calls.append(call)
            text = call.text.replace(str(phrase), text) if len(calls) > 1 else call.text
        return Job("chain", f"What is {text} ?", calls, sinks=(len(calls) - 1,))

    def _fits(self, api: Api, needed: Kind | None, *, outermost: bool, left: int) -> bool:
        """Whether a chain may go on inwards with `api`, which must give `needed`, with `left` calls to make."""
        if api.name == "owner" or (needed is not None and api.gives != needed):
            return False
        if not api.looks_up and not outermost:
            return False  # calculations stand outside, so that numbers stay small
        if left == 1 and outermost and api.name == "country":
            return False  # needs no tool
        return left == 1 or list(api.takes.values())[-1] in {"person", "firm", "city", "number"}

    def _several(self, rng: np.random.Generator, tables: Tables) -> Job:
        compose = ("and", "greater", "same")[int(rng.integers(3))]
        if compose == "and":
            first, second = (self._chain(rng, int(rng.integers(1, 3))) for _ in range(2))
            shifted = [_shifted(call, len(first.calls)) for call in second.calls]
            texts = [job.text.removeprefix("What is ").removesuffix(" ?") for job in (first, second)]
            ends = (len(first.calls) - 1, len(first.calls) + len(shifted) - 1)
            return Job("several", f"What is {texts[0]} and what is {texts[1]} ?", [*first.calls, *shifted], "and", ends)
        numeric = compose == "greater"
        options = [a for a in REAL if a.looks_up and a.name != "owner" and (a.gives == "number") == numeric]
        options = [a for a in options if a.name != "country"]
        api = options[int(rng.integers(len(options)))]
        kind = next(iter(api.takes.values()))
        wish_same = bool(rng.random() < 0.5)
        one, other = self._name(rng, kind), self._name(rng, kind)
        for _ in range(400):
            same = tables.value(api, one) == tables.value(api, other)
            if one != other and (not same if numeric else same == wish_same):
                break
            one, other = self._name(rng, kind), self._name(rng, kind)
        word = api.words[int(rng.integers(len(api.words)))]
        calls = [Call(f"the {word} of {name}", api, {kind: name}) for name in (one, other)]
        if numeric:
            text = f"Which has the greater {word} , {one} or {other} ?"
            return Job("several", text, calls, "greater", (0, 1), (one, other))
        return Job("several", f"Is the {word} of {one} the {word} of {other} ?", calls, "same", (0, 1))

    def _switch(self, rng: np.random.Generator, tables: Tables) -> Job:
        first = self._phrase(rng, APIS["owner"], self._name(rng, "firm"), 1)
        found = tables.call(first.api, first.arguments)
        home = APIS[_HOME[str(found["kind"])]]
        second = Call(f"the {HOME} of #1", home, {next(iter(home.takes)): "#1"})
        job = Job("switch", f"What is the {HOME} of {first.text} ?", [first, second], sinks=(1,))
        return solved(job, tables)

    def _phrase(self, rng: np.random.Generator, api: Api, about: Value, beside: Value) -> Call:
        word = api.words[int(rng.integers(len(api.words)))]
        names = list(api.takes)
        if not api.pair:
            return Call(f"the {word} of {about}", api, {names[0]: about})
        return Call(f"the {word} of {beside} and {about}", api, {names[0]: beside, names[1]: about})

    def _beside(self, rng: np.random.Generator, api: Api) -> Value:
        if api.category == "currency":
            return self._name(rng, "currency")
        return int(rng.integers(2, 5)) if api.name in {"product", "remainder"} else int(rng.integers(10, SMALL + 1))

    def _name(self, rng: np.random.Generator, kind: Kind) -> str:
        names = self.names[kind]
        return names[int(rng.integers(len(names)))]


def _shifted(call: Call, by: int) -> Call:
    """The call, after `by` others."""
    if by == 0 or "#" not in call.text:
        return call
    before = int(call.text.rpartition("#")[2])
    old, new = f"#{before}", f"#{before + by}"
    arguments = {name: new if value == old else value for name, value in call.arguments.items()}
    return Call(call.text.replace(old, new), call.api, arguments)


def resolved(
    arguments: Mapping[str, Value], results: Sequence[Mapping[str, Value]], calls: Sequence[Call]
) -> dict[str, Value]:
    """The arguments with the results of earlier calls in place of #1, #2 …"""
    values = [result[call.api.result] for call, result in zip(calls, results, strict=False)]
    return {
        name: values[int(value[1:]) - 1] if isinstance(value, str) and value.startswith("#") else value
        for name, value in arguments.items()
    }


def solved(job: Job, tables: Tables) -> Job:
    """The job with its results and its answer."""
    job.results = []
    for call in job.calls:
        job.results.append(tables.call(call.api, resolved(call.arguments, job.results, job.calls)))
    values = [str(job.results[i][job.calls[i].api.result]) for i in job.sinks]
    job.answer = composed(job.compose, values, job.about)
    return job


def composed(compose: str, values: Sequence[str], about: Sequence[str] = ()) -> str:
    """What the results come to; "" where they do not fit.

    >>> composed("greater", ["12", "7"], ["Kavelo", "Moru"])
    'Kavelo'
    """
    match compose:
        case "and" if len(values) == 2:
            return f"{values[0]} and {values[1]}"
        case "same" if len(values) == 2:
            return "yes" if values[0] == values[1] else "no"
        case "greater" if len(values) == 2 and len(about) == 2 and all(v.isdecimal() for v in values):
            return about[0] if int(values[0]) > int(values[1]) else about[1]
        case "last" if values:
            return values[-1]
    return ""


def as_question(job: Job, tables: str) -> Question:
    """The job as a question; `tables` is the seed of the tables that hold its values."""
    calls = [{"text": c.text, "tool": c.api.name, "arguments": dict(c.arguments)} for c in job.calls]
    meta: dict[str, Any] = {
        "kind": job.kind,
        "compose": job.compose,
        "tools": [] if job.kind == "none" else sorted({c.api.name for c in job.calls}),
        "calls": calls,
        "results": [dict(result) for result in job.results],
        "sinks": list(job.sinks),
        "about": list(job.about),
        "tables": tables,
    }
    return Question(id=f"{tables}.{job.text}", text=job.text, answers=(job.answer,), meta=meta)


def vocabulary(world: ApiWorld) -> Iterable[str]:
    """Every word that tools, questions and results of the world are made of."""
    for kind in NAMED:
        yield from world.names[kind]
        yield kind
    for api in CATALOGUE:
        yield from (api.name, api.category, *api.takes, *api.words)
    yield from (*map(str, range(LARGEST + 1)), *WEEKDAYS, HOME, "record", "status", "ok", "kind", "yes", "no")
    yield from ("What", "Which", "Is", "is", "the", "of", "and", "what", "has", "greater", "or", "former", "a")
    yield from (",", "?", ".", "owner", "day", "number")


def as_json(result: Mapping[str, Value]) -> str:
    """A result as a tool returns it."""
    return json.dumps(result)
