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
    """An edge of a knowledge graph. `relation` is the graph's own name for it and `label` what people call it, where
    that is another (P36: capital); `score` is a strategy's, higher is better, comparable only within one hop."""

    subject: Entity
    relation: str
    object: Entity
    label: str = ""
    score: float | None = None

    def __str__(self) -> str:
        return f"{self.subject.label}, {self.label or self.relation}, {self.object.label}"


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


Method = Literal["closed", "open", "child"]
"""How a part of a question is answered: from the weights, from what is found outside, or from the answers of its own
parts (CB, OB and CA of ProbTree, arXiv 2311.13982)."""

NO_SCORE = -100.0
"""The score of a candidate that gives no answer: below every mean log-probability that a model can give."""


class Candidate(Frozen):
    """One answer to a part of a question.

    score: what it competes with, higher is better; `NO_SCORE` for one that is no answer. confidence: how sure the model
    was of this answer alone, on the same scale; None where it is not known. agreement: it was measured by how many
    samples agree, since the model gives no log-probabilities. problem: why it is no answer, "" for one that is.
    """

    method: Method
    text: str
    score: float
    confidence: float | None = None
    agreement: bool = False
    problem: str = ""


class SubQuestion(Frozen):
    """A part of a question that was answered on its own, or the question itself as the root of its parts.

    index: its place in the order in which parts can be answered; children before parents, the root last. children:
    their indices. text: as it was written; `#i` and `<i>` in it stand for the answer of the i-th child of its parent.
    question: as it was asked, with those answers filled in; "" for one that was not asked. decomposition: how sure the
    model was of its children, a mean log-probability. candidates: its answers; chosen: the method of the one that won,
    None when there is no answer.
    """

    kind: Literal["sub_question"] = "sub_question"
    index: int = Field(ge=0)
    text: str
    children: tuple[int, ...] = ()
    question: str = ""
    decomposition: float | None = None
    candidates: tuple[Candidate, ...] = ()
    chosen: Method | None = None

    @property
    def answer(self) -> Candidate | None:
        """The candidate that won."""
        return next((c for c in self.candidates if c.method == self.chosen), None)


class Malformed(Frozen):
    """Model output that does not follow the protocol; `problem` says how."""

    kind: Literal["malformed"] = "malformed"
    text: str
    problem: str


Step = Annotated[
    Thought | Decision | Search | GraphQuery | Observation | ToolCall | SubQuestion | Answer | Malformed,
    Field(discriminator="kind"),
]
