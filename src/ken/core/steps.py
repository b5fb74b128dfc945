"""What happens on the way to an answer: typed steps for people and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from ken.core.frozen import Frozen


class Passage(Frozen):
    """A piece of a document, as a source returns it.

    `document` is the id of the document it was cut from (the same as `id` when the document is one passage); `source`
    is the file or address it came from; `score` is the retriever's, higher is better, comparable only within one result
    list.
    """

    id: str
    text: str
    title: str = ""
    score: float | None = None
    document: str = ""
    source: str = ""

    @property
    def document_id(self) -> str:
        """The id of the document this passage belongs to."""
        return self.document or self.id


Origin = Literal["inside", "search", "graph", "tools"]
"""Where something comes from: the model itself, or one of the sources outside."""


class Entity(Frozen):
    """A node of a knowledge graph: its id there (an IRI, a QID, a word) and what people call it. A literal (a date, a
    number) is a value that nothing leads on from; its id is its text."""

    id: str
    label: str
    literal: bool = False


class Triple(Frozen):
    """An edge of a knowledge graph. `relation` is the graph's own name for it; `score` is a strategy's, higher is
    better, comparable only within one hop."""

    subject: Entity
    relation: str
    object: Entity
    score: float | None = None

    def __str__(self) -> str:
        return f"{self.subject.label}, {self.relation}, {self.object.label}"


class Thought(Frozen):
    """Free reasoning."""

    kind: Literal["thought"] = "thought"
    text: str


class Decision(Frozen):
    """The model's judgement of its own knowledge: does it know the answer without looking it up?

    `knows` is None when the judgement could not be parsed. `confidence`, if the model gives one, is its probability in
    [0, 1] that it knows (of "yes", also when it said no). `source` is where it chose to look, where it had a choice of
    several; "inside" when it knows.
    """

    kind: Literal["decision"] = "decision"
    knows: bool | None
    source: Origin | None = None
    rationale: str = ""
    confidence: float | None = Field(default=None, ge=0.0, le=1.0)


class Search(Frozen):
    """A query that was sent to a source."""

    kind: Literal["search"] = "search"
    query: str


class GraphQuery(Frozen):
    """What a knowledge graph was asked about an entity: its neighbours by a relation, "out" (it is the subject) or
    "in" (it is the object); without a relation, which relations it has or all its edges."""

    kind: Literal["graph_query"] = "graph_query"
    entity: Entity
    relation: str | None = None
    direction: Literal["out", "in"] | None = None


class Observation(Frozen):
    """What came back: passages, triples, or a note from the environment (an error, a reminder of the format).

    `left_out` is the share of the passages' text that the model's window had no room for, in [0, 1].
    """

    kind: Literal["observation"] = "observation"
    passages: tuple[Passage, ...] = ()
    triples: tuple[Triple, ...] = ()
    left_out: float = Field(default=0.0, ge=0.0, le=1.0)
    note: str = ""
    error: bool = False


class ToolCall(Frozen):
    """A call of a tool by name."""

    kind: Literal["tool_call"] = "tool_call"
    name: str
    arguments: dict[str, JsonValue] = {}


class Answer(Frozen):
    """The final answer. `confidence` is the model's probability of these answer tokens, if it gives
    log-probabilities. `source` is where it comes from, where the strategy knows; `partial` says that what was found
    there was judged not to suffice.
    """

    kind: Literal["answer"] = "answer"
    text: str
    source: Origin | None = None
    partial: bool = False
    confidence: float | None = Field(default=None, ge=0.0, le=1.0)


class Malformed(Frozen):
    """Model output that does not follow the protocol; `problem` says how."""

    kind: Literal["malformed"] = "malformed"
    text: str
    problem: str


Step = Annotated[
    Thought | Decision | Search | GraphQuery | Observation | ToolCall | Answer | Malformed,
    Field(discriminator="kind"),
]
