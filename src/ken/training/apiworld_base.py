"""The base model of an ApiWorld: one small model that plays every stage of the tool pipeline, told which by a control
token (card 49, Arm B, Model).

It is trained on what the stages are shown and what they should say, with values that nobody will see again; what it can
know by heart are the countries of cities, sums of digits, and the training questions' answers over tables of their own.
Nothing that a tool returned is learnt as if the model had written it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from ken.agents.instructions import CLOSED, DECIDE
from ken.agents.tool_stages.calling import asked_for
from ken.agents.tool_stages.grammar import (
    CALL,
    CHOOSE,
    FILL,
    NEXT,
    NONE,
    PLAN,
    RESPOND,
    history,
    listing,
    shown,
)
from ken.agents.tool_stages.trimming import trimmed
from ken.core.seeding import derive_seed
from ken.lab.apiworld import (
    APIS,
    CATALOGUE,
    HOME,
    REAL,
    SMALL,
    Api,
    ApiWorld,
    ApiWorldConfig,
    Call,
    Job,
    as_json,
    vocabulary,
)
from ken.models import Instruction
from ken.sources.tools.faults import UNAVAILABLE
from ken.sources.tools.tool import ERROR
from ken.training.apiworld_tools import TableTool, table_tools
from ken.training.factworld_base import CHAT_TEMPLATE
from ken.training.lab_checkpoint import LabBaseConfig, Recipe
from ken.training.lab_tokenizer import BOS, EOS, PAD, UNKNOWN, Piece, encode, fast_tokenizer
from ken.training.pretraining import Example, Weigh

CONTROLS = [i.token for i in (CLOSED, DECIDE, PLAN, NEXT, CHOOSE, CALL, FILL, RESPOND)]
TAGS = [
    f"<{slash}{tag}>"
    for tag in ("step", "plan", "tool", "value", "arguments", "response", "answer", "assessment", "think")
    for slash in ("", "/")
] + ["<done/>", *(f"#{number}" for number in range(1, 9))]
WORDS = [*"{}()[]:,.?-#;|", '"', "ERROR", "Question", "Parameter", "string", "integer", "none"]
WORDS += ["unknown", "needs", "which", "failed", "there", "no", "yes", "is", "abcdef"]
WORDS += ["less", "greater", "same", "different"]
FAILED = "needs #1, which failed"
ASKED = 3  # sub-questions that share what was read


class ApiWorldBaseConfig(LabBaseConfig):
    """World and number of examples of each stage. compared: rows of pairs of values, which is the greater or whether
    they are the same; plans, nexts, choices, calls, responses: of the stages; fills: of single arguments; gates: of the
    judgement whether a tool is needed; closed: how often each training question is answered closed book; known: how
    often what never changes is.

    failures: share of histories in which a response is an error. missing: share of lists without the right tool.
    """

    called = "apiworld"

    world: ApiWorldConfig = ApiWorldConfig()
    context: int = 640
    batch: int = 16
    weigh: Weigh = "token"
    compared: int = Field(default=2_000, ge=0)
    plans: int = Field(default=17_000, ge=0)
    nexts: int = Field(default=8_000, ge=0)
    choices: int = Field(default=4_000, ge=0)
    calls: int = Field(default=3_000, ge=0)
    fills: int = Field(default=2_000, ge=0)
    responses: int = Field(default=24_000, ge=0)
    gates: int = Field(default=1_500, ge=0)
    closed: int = Field(default=2, ge=0)
    known: int = Field(default=14, ge=0)
    failures: float = Field(default=0.2, ge=0, le=1)
    missing: float = Field(default=0.15, ge=0, le=1)

    def recipe(self) -> Recipe:
        """How the model is made and measured."""
        from ken.training.apiworld_gates import measure_gates

        world = ApiWorld(self.world)
        tokenizer = build_tokenizer(world)
        return Recipe(tokenizer, pretraining_stages(self, world, tokenizer), lambda model: measure_gates(model, self))


def smoke_config(*, seed: int = 0) -> ApiWorldBaseConfig:
    """A model built in seconds, which has learnt next to nothing."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2}
    examples = dict.fromkeys(("plans", "nexts", "choices", "calls", "fills", "responses", "gates"), 40)
    world = ApiWorldConfig(names=10, train=40, test=20, seed=seed)
    return ApiWorldBaseConfig(world=world, seed=seed, closed=1, known=0, gated=False, **sizes, **examples)


def build_tokenizer(world: ApiWorld) -> Any:
    """A word-level tokenizer over all that the world can say; numbers below 100 are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    errors = f"{UNAVAILABLE} {FAILED} there is no person".replace(",", " ").replace(";", " ").split()
    words = [PAD, BOS, EOS, UNKNOWN, *CONTROLS, *TAGS, *WORDS, *errors, *vocabulary(world)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    special = [PAD, BOS, EOS, UNKNOWN, *CONTROLS]
    return fast_tokenizer(backend, special=special, tags=TAGS, chat_template=CHAT_TEMPLATE)


def pretraining_stages(config: ApiWorldBaseConfig, world: ApiWorld, tokenizer: Any) -> list[list[Example]]:
    """All examples, each to be shown once: first those in which a value is copied, then everything."""
    rng = np.random.default_rng(derive_seed("apiworld base", config.seed))
    calls, responses = [*calling(config, world, rng)], [*responding(config, world, rng)]
    half, half_responses = len(calls) // 2, len(responses) // 2
    mixed = [
        *calls[half:],
        *responses[half_responses:],
        *planning(config, world, rng),
        *continuing(config, world, rng),
        *choosing(config, world, rng),
        *filling(config, world, rng),
        *judging(config, world, rng),
        *closed_book(config, world),
    ]
    first = [*calls[:half], *responses[:half_responses]]
    pairs = [comparing(world, rng) for _ in range(config.compared)]
    stages = [[*pairs[::2], *map(_pieces, first)], [*pairs[1::2], *map(_pieces, mixed)]]
    return [encode(stage, tokenizer) for stage in stages if stage]


class Said(NamedTuple):
    """What a stage is told and shown, and what it should say. more: what else it is then shown and should say: the more
    there is to learn from what was read, the cheaper it is."""

    instruction: Instruction
    text: str
    reply: str
    more: tuple[tuple[str, str], ...] = ()


def _pieces(said: Said) -> list[Piece]:
    ends = "" if said.instruction is NEXT else EOS  # where it goes on, the conversation shows no end
    pieces: list[Piece] = [(f"{BOS} {said.instruction.token} {said.text}", False), (f"{said.reply} {ends}", True)]
    for text, reply in said.more:
        pieces += [(text, False), (f"{reply} {ends}", True)]
    return pieces


# --- the stages ------------------------------------------------------------------------------------------------------


PAIRS = 20


def comparing(world: ApiWorld, rng: np.random.Generator) -> list[Piece]:
    """Pairs of values and what is to be said of them: learnt from many at once, or not at all."""
    pieces: list[Piece] = [(BOS, False)]
    for _ in range(PAIRS):
        greater = rng.random() < 0.5
        if greater:
            values: Sequence[str] = [str(i) for i in rng.choice(np.arange(1, SMALL + 1), size=2, replace=False)]
        else:
            names = world.names[("person", "firm", "city")[int(rng.integers(3))]]
            one, other = (names[int(i)] for i in rng.choice(len(names), size=2, replace=False))
            values = [one, one if rng.random() < 0.5 else other]
        pieces += [(" ".join(values), False), (_verdict("greater" if greater else "same", values), True), (",", False)]
    return pieces


def _verdict(compose: str, values: Sequence[str]) -> str:
    one, other = values
    if compose == "greater":
        return "greater" if int(one) > int(other) else "less"
    return "same" if one == other else "different"


def planning(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """A question into its sub-questions; also where no tool is needed, which the planner is not to judge."""
    for _ in range(config.plans):
        job = world.job(rng, world.imagined(rng), _kind(rng))
        yield Said(PLAN, job.text, plan_of(job))


def plan_of(job: Job) -> str:
    """What the planner should say."""
    return f"<plan> {' '.join(f'<step> {call.text} </step>' for call in job.calls)} </plan>"


def continuing(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """The next sub-question from any of them on, also after one that failed, and the end."""
    for _ in range(config.nexts):
        job = world.job(rng, world.imagined(rng), _kind(rng))
        done = _with_failures(_exchanges(job), config.failures, rng)
        count = int(rng.integers(0, len(done) + 1)) if rng.random() < 0.5 else 0
        says = [f"<step> {asked} </step>" for asked, _ in done[count:]] + ["<done/>"]
        shows = [f"<response> {shown(back)} </response>\n" for _, back in done[count:]]
        yield Said(NEXT, history(job.text, done[:count]) + "\n", says[0], tuple(zip(shows, says[1:], strict=True)))


def choosing(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """A tool from a list of one to ten, in any order; "none" where the right one is missing. Two more sub-questions
    go to the same list."""
    tools = {tool.name: tool for tool in table_tools(world.tables("train"))}
    for _ in range(config.choices):
        asked: list[tuple[str, list[Api]]] = []
        while len(asked) < ASKED:
            job = world.job(rng, world.imagined(rng))
            call, text = _asked(job, rng)
            asked.append((text, [APIS["residence"], APIS["seat"]] if HOME in text else [call.api]))
        size = int(rng.choice((1, 2, 3, 5, 10)))
        wanted: list[Api] = []
        for _, right in asked[: max(1, size - 1)]:
            if rng.random() >= config.missing:
                wanted.append(right[int(rng.integers(len(right)))])
        near = [api for api in CATALOGUE if api.category == asked[0][1][0].category and api not in asked[0][1]]
        rest = [CATALOGUE[int(i)] for i in rng.permutation(len(CATALOGUE))]
        rest = [api for api in rest if not any(api in right for _, right in asked)]
        listed = list({api.name: api for api in [*wanted, *(near if rng.random() < 0.5 else []), *rest]}.values())[
            :size
        ]
        listed = [listed[int(i)] for i in rng.permutation(len(listed))]
        replies = []
        for _, right in asked:
            fitting = [api for api in right if api in listed]
            name = fitting[int(rng.integers(len(fitting)))].name if fitting else NONE
            replies.append(f"<tool> {name} </tool>")
        more = tuple((f"Question: {text}", reply) for (text, _), reply in zip(asked[1:], replies[1:], strict=True))
        yield Said(CHOOSE, listing(asked[0][0], [tools[api.name] for api in listed]), replies[0], more)


def calling(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """The arguments of a tool from sub-questions, near-duplicates included."""
    for _ in range(config.calls):
        tool, calls = _calls(world, rng)
        replies = [f"<arguments> {as_json(call.arguments)} </arguments>" for call in calls]
        more = tuple((f"Question: {call.text}", reply) for call, reply in zip(calls[1:], replies[1:], strict=True))
        yield Said(CALL, listing(calls[0].text, [tool]), replies[0], more)


def filling(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """One argument at a time."""
    for _ in range(config.fills):
        tool, [call, *_] = _calls(world, rng)
        name = list(call.arguments)[int(rng.integers(len(call.arguments)))]
        yield Said(FILL, asked_for(tool, name, call.text), f"<value> {call.arguments[name]} </value>")


def responding(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """The answer from what came back; "unknown" where something that it needs failed. Two values that are compared are
    read aloud first: from a verdict alone, a model this small does not learn to compare."""
    for number in range(config.responses):
        kind = "several" if number % 5 > 1 else None  # comparing takes more examples than copying
        job = world.job(rng, world.imagined(rng), kind)
        done = _exchanges(job, one_step=bool(rng.random() < 0.5))
        aloud = ""
        if job.compose in {"greater", "same"}:
            values = [said for _, said in done]
            aloud = f"<think> {' '.join(values)} {_verdict(job.compose, values)} </think> "
        if rng.random() < 0.1:
            failed = int(rng.integers(len(done)))
            done[failed:] = [(asked, f"{ERROR} {_failure(rng)}") for asked, _ in done[failed:]]
            answer, aloud = "unknown", ""
        else:
            done, answer = _with_failures(done, config.failures / 2, rng), job.answer
        yield Said(RESPOND, history(job.text, done), f"{aloud}<answer> {answer} </answer>")


def judging(config: ApiWorldBaseConfig, world: ApiWorld, rng: np.random.Generator) -> Iterator[Said]:
    """Whether the model can answer alone: "yes" where no tool is needed."""
    for number in range(config.gates):
        job = world.job(rng, world.imagined(rng), "none" if number % 3 == 0 else None)
        verdict = "yes" if job.kind == "none" else "no"
        yield Said(DECIDE, job.text, f"<assessment> {verdict} </assessment>")


def closed_book(config: ApiWorldBaseConfig, world: ApiWorld) -> Iterator[Said]:
    """What never changes, and the training questions, answered from memory."""
    known = [
        (f"What is the {word} of {city} ?", of)
        for city, of in world.countries.items()
        for word in APIS["country"].words
    ]
    known += [
        (f"What is the {word} of {a} and {b} ?", str(a + b))
        for a in range(1, 10)
        for b in range(1, 10)
        for word in APIS["sum"].words
    ]
    asked = [(q.text, q.answers[0]) for q in world.questions("train") if q.meta["kind"] != "none"]
    for text, answer in [*(known * config.known), *(asked * config.closed)]:
        yield Said(CLOSED, text, f"<answer> {answer} </answer>")


# --- pieces ----------------------------------------------------------------------------------------------------------


def _kind(rng: np.random.Generator) -> str:
    """Of a question to plan: more with several results than are asked, since these take more to learn."""
    return str(rng.choice(("none", "chain", "several", "switch"), p=(0.1, 0.4, 0.4, 0.1)))


def _exchanges(job: Job, *, one_step: bool = False) -> list[tuple[str, str]]:
    """Every sub-question, with the values that it needs, and what its tool returned, trimmed. one_step: as a plan made
    beforehand has them."""
    values = [str(result[call.api.result]) for call, result in zip(job.calls, job.results, strict=True)]
    made = []
    for number, (call, result) in enumerate(zip(job.calls, job.results, strict=True)):
        text = _text(call, values)
        if job.kind == "switch" and number == 1 and not one_step:
            text = f"the {call.api.words[0]} of {values[0]}"
        made.append((text, trimmed(as_json(result), call.api.returns)))
    return made


def _text(call: Call, values: Sequence[str]) -> str:
    text = call.text
    for number, value in enumerate(values, start=1):
        text = text.replace(f"#{number}", value)
    return text


def _with_failures(done: Sequence[tuple[str, str]], share: float, rng: np.random.Generator) -> list[tuple[str, str]]:
    """The exchanges, with failures before some of those that worked."""
    made = []
    for asked, back in done:
        if rng.random() < share:
            made.append((asked, f"{ERROR} {_failure(rng)}"))
        made.append((asked, back))
    return made


def _failure(rng: np.random.Generator) -> str:
    return (UNAVAILABLE, FAILED)[int(rng.random() < 0.1)]


def _asked(job: Job, rng: np.random.Generator) -> tuple[Call, str]:
    """One of the calls, and its sub-question as a plan or as a next step has it."""
    number = int(rng.integers(len(job.calls)))
    call = job.calls[number]
    return call, (call.text if rng.random() < 0.5 else _exchanges(job, one_step=bool(rng.random() < 0.5))[number][0])


def _calls(world: ApiWorld, rng: np.random.Generator) -> tuple[TableTool, list[Call]]:
    """A tool, and sub-questions for it."""
    wanted = REAL[int(rng.integers(len(REAL)))]
    calls = [world.call(rng, wanted) for _ in range(ASKED)]
    twins = [api for api in CATALOGUE if api.twin == wanted.name]
    return TableTool(twins[0] if twins and rng.random() < 0.2 else wanted, world.tables("train")), calls
