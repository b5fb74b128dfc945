"""Answer a question by a tree of simpler ones, each from memory, from what is found, or from its parts, whichever the
model is surest of (ProbTree, arXiv 2311.13982; card 59).

The model first writes the tree (`query_tree`). It is then solved from the leaves to the root: a leaf is answered closed
book and from retrieved passages, an inner node also from the answers of its children, each time by a chain of thought
that ends in "So the answer is: …". What counts is how sure the model was of its *explanation*, not of the answer.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, get_args

from ken.agents.attempt import Attempt
from ken.agents.confidence import span_logprobs
from ken.agents.protocol import escape, render_passages
from ken.agents.query_tree import QueryTree, mean_logprob, read_tree
from ken.agents.strategy import Strategy
from ken.agents.tree_prompts import CHAIN, FROM_PARTS, FROM_PASSAGES, MARKER, SPLIT, UNKNOWN
from ken.core import Answer, BadInput, Candidate, Malformed, Passage, Step, SubQuestion
from ken.core.seeding import derive_seed
from ken.core.steps import NO_SCORE, Method, Origin
from ken.metrics.text import normalize_answer, token_f1
from ken.models import Generation, Instruction, Message, Model

Confidence = Literal["explanation", "answer", "all", "probability"]
"""Which tokens count: those of the explanation (ProbTree's code), of the answer, or all of both, each as the mean of
their log-probabilities; or of all the probability itself, normalised by length: the exponential of that mean."""

Aggregation = Literal["mean", "sum", "mean-without-decomposition"]
"""How an answer from the parts is scored: with the decomposition and the children's scores, on average (ProbTree) or in
sum, or on average without the decomposition."""

Selector = Literal["max", "random", "closed", "open", "child", "oracle"]
"""Who wins: the best score, anybody, always one method, or whoever is nearest to the accepted answer (evaluation
only)."""

WINDOW = 4097  # tokens of text-davinci-003, for models that do not say how many they take
CHARACTERS = 3  # of a token, for models whose tokenizer is not known; more in English, fewer in other scripts
ANSWER_TOKENS = 256
EVERYTHING = 10**9  # words: what is too long is left out by passages

_MARKER = re.compile(r"so the answer is\s*:?", re.IGNORECASE)
_EDGES = "*_` \t\r\n"  # chat models like to set answers in bold


# --- candidates and who wins ------------------------------------------------------------------------------------------


def read_candidate(method: Method, generation: Generation, *, confidence: Confidence = "explanation") -> Candidate:
    """The answer in a chain of thought, and how sure the model was of it. Never raises: what is no answer (cut off,
    without the marker, "Unknown", without an explanation where that counts) has `NO_SCORE` and says why."""
    text = generation.text
    marks = list(_MARKER.finditer(text))
    if not text.strip():
        return _no_answer(method, "an empty output")
    if generation.ended == "length":
        return _no_answer(method, "it was cut off")
    if not marks:
        return _no_answer(method, f'no "{MARKER}"')
    start = marks[-1].end()
    said = text[start:].strip(_EDGES).partition("\n")[0].strip(_EDGES)
    said = said.removesuffix(".").strip(_EDGES)
    if not said:
        return _no_answer(method, "an empty answer")
    if UNKNOWN in said or "ERROR" in said or normalize_answer(said) == UNKNOWN.lower():
        return _no_answer(method, UNKNOWN, text=said)
    spans = {"explanation": (0, len(text[: marks[0].start()].rstrip())), "answer": (start, len(text.rstrip()))}
    span = spans.get(confidence, (0, len(text.rstrip())))
    logprobs = span_logprobs(generation, *span) if text[slice(*span)].strip() else ()
    if logprobs is None:
        return _no_answer(method, "no log-probabilities", text=said)
    mean = mean_logprob(logprobs)
    if mean is None:
        return _no_answer(method, "no explanation", text=said)
    sure = math.exp(mean) if confidence == "probability" else mean
    return Candidate(method=method, text=said, score=sure, confidence=sure)


def _no_answer(method: Method, problem: str, *, text: str = "") -> Candidate:
    return Candidate(method=method, text=text, score=NO_SCORE, problem=problem)


def child_score(
    confidence: float, decomposition: float | None, children: Sequence[float], how: Aggregation = "mean"
) -> float:
    """The score of an answer that was put together from those of the children (ProbTree, section 3.2).

    decomposition: how sure the model was of the parts; None where it is not known, and then it does not count.
    """
    terms = [confidence, *children]
    if decomposition is not None and how != "mean-without-decomposition":
        terms.append(decomposition)
    return math.fsum(terms) / (1 if how == "sum" else len(terms))


def select(
    candidates: Sequence[Candidate],
    selector: Selector = "max",
    *,
    rng: random.Random | None = None,
    golds: Sequence[str] = (),
) -> Method | None:
    """The method of the candidate that wins; of equal ones the first. None when there is no answer to choose.

    rng: for "random", which chooses among answers. golds: for "oracle", which takes the one with the best token F1 and
    among equal ones that with the best score; without golds it is "max". "child" is "max" where there are no parts.
    """
    answers = [c for c in candidates if not c.problem]
    if selector in get_args(Method) and any(c.method == selector for c in candidates):
        answers = [c for c in answers if c.method == selector]
    if not answers:
        return None
    if selector == "random":
        return (rng or random.Random(0)).choice(answers).method
    if selector == "oracle" and golds:
        return max(answers, key=lambda c: (token_f1(c.text, golds), c.score)).method
    return max(answers, key=lambda c: c.score).method


def origin(tree: QueryTree, index: int | None = None) -> Origin | None:
    """Where the answer of a node (default: the root) comes from: outside as soon as one answer that it rests on does.
    None when it has no answer."""
    node = tree.root if index is None else tree.nodes[index]
    if node.chosen is None:
        return None
    if node.chosen == "child":
        return "search" if "search" in {origin(tree, child) for child in node.children} else "inside"
    return "inside" if node.chosen == "closed" else "search"


# --- the strategy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the model is told, each with an example: to split a question, to answer it from memory, from passages, from
    passages that answer its parts, and from the answers of its parts."""

    split: Instruction = SPLIT
    closed: Instruction = CHAIN
    open: Instruction = FROM_PASSAGES
    open_inner: Instruction = FROM_PASSAGES
    child: Instruction = FROM_PARTS


Prompt = tuple[Instruction, str]


@dataclass
class _Solving:
    """A tree while it is solved. found: what was searched for, and came back (None: the search failed). logprobs:
    whether the model has given log-probabilities."""

    tree: QueryTree
    logprobs: bool = False
    done: dict[int, SubQuestion] = field(default_factory=dict)
    found: dict[str, tuple[Passage, ...] | None] = field(default_factory=dict)

    @property
    def answers(self) -> dict[int, str]:
        return {i: node.answer.text for i, node in self.done.items() if node.answer is not None}

    def score(self, index: int) -> float:
        answer = self.done[index].answer
        return NO_SCORE if answer is None else answer.score


class Tree(Strategy):
    """Split the question into a tree, answer every node in several ways, keep the answer that the model is surest of.

    leaf, inner: the ways that are tried; without some of them these are the paper's ablations. k: passages for a node's
    own question (default: top_k of the sources; the paper's 5), sub_k: for each question below an inner node; both
    are lowered to 1 until the prompt fits `window` tokens (default: what the model takes, else 4,097). max_depth: of
    the tree; with 0 the question is not split, which leaves the choice between memory and passages. search_answers: a
    leaf is also searched for by every answer that was filled into it (the paper on HotpotQA).
    samples: how many chains of thought a model without log-probabilities writes of each answer, at temperature 1 but
    for the first; the share that agrees is then its confidence, and the candidate says so.
    golds: what is accepted for a node's question, for the selector "oracle"; by default only the root's is known.
    trees: the tree of a question, if it is known already (the paper's are released); None has the model write it.

    Raises `BadInput` for numbers out of range, or ways that cannot be.
    """

    name = "tree"
    needs_search = True

    def __init__(
        self,
        *,
        leaf: Sequence[Method] = ("closed", "open"),
        inner: Sequence[Method] = ("closed", "open", "child"),
        selector: Selector = "max",
        confidence: Confidence = "explanation",
        aggregation: Aggregation = "mean",
        k: int | None = None,
        sub_k: int = 3,
        max_depth: int = 4,
        samples: int = 5,
        window: int | None = None,
        search_answers: bool = False,
        prompts: Prompts = Prompts(),
        golds: Callable[[str], Sequence[str]] | None = None,
        trees: Callable[[str], QueryTree | None] = lambda question: None,
    ) -> None:
        if not leaf or not inner or "child" in leaf:
            raise BadInput("a leaf is answered 'closed', 'open' or both; an inner node may also be answered by 'child'")
        if min(k if k is not None else 1, sub_k, samples) < 1 or max_depth < 0:
            raise BadInput("k, sub_k and samples must be at least 1, max_depth at least 0")
        self.leaf, self.inner, self.selector = tuple(leaf), tuple(inner), selector
        self.confidence, self.aggregation = confidence, aggregation
        self.k, self.sub_k, self.max_depth, self.samples = k, sub_k, max_depth, samples
        self.window, self.search_answers, self.prompts = window, search_answers, prompts
        self.golds, self.trees = golds, trees

    async def solve(self, attempt: Attempt) -> None:
        solving = await self._split(attempt)
        for level in solving.tree.levels():
            # Of a level at once; their steps come one node after another, as if they had been solved in turn.
            for steps, node in await asyncio.gather(*(self._node(attempt, solving, index) for index in level)):
                solving.done[node.index] = node
                attempt.steps.extend([*steps, node])
        solved = QueryTree(nodes=tuple(solving.done[index] for index in sorted(solving.done)))
        best = solved.root.answer
        sure = None
        if best is not None:
            sure = best.score if self.confidence == "probability" else math.exp(min(0.0, best.score))
            sure = min(1.0, max(0.0, sure))
        attempt.steps.append(Answer(text=best.text if best else "", source=origin(solved), confidence=sure))

    async def _split(self, attempt: Attempt) -> _Solving:
        """The tree that the model writes; a single node where it writes none."""
        question = attempt.question.text
        if self.max_depth == 0:
            return _Solving(QueryTree.single(question))
        if (known := self.trees(question)) is not None:
            return _Solving(known)
        generation = await attempt.aside(self.prompts.split, escape(question))
        read = read_tree(
            generation.text,
            question,
            max_depth=self.max_depth,
            sure=lambda start, end: mean_logprob(span_logprobs(generation, start, end)),
        )
        for problem in read.problems:
            attempt.steps.append(Malformed(text=generation.text, problem=f"in the tree: {problem}"))
        return _Solving(read.tree, logprobs=generation.logprobs is not None)

    async def _node(self, attempt: Attempt, solving: _Solving, index: int) -> tuple[list[Step], SubQuestion]:
        """A node with its candidates, and the steps on the way to them."""
        tree, node = solving.tree, solving.tree.nodes[index]
        steps: list[Step] = []
        question, missing = tree.filled(index, solving.answers)
        if missing:
            steps.append(Malformed(text=node.text, problem=f"{missing} references to no answer of an earlier part"))
        node = node.model_copy(update={"question": question})
        methods = self.inner if node.children else self.leaf
        wanted = [m for m in methods if m == self.selector] or methods
        passages = await self._passages(attempt, solving, node, steps) if "open" in wanted else []
        prompts: dict[Method, Iterable[Prompt]] = {
            "closed": [(self.prompts.closed, escape(question))],
            "open": self._readings(passages, node),
            "child": [(self.prompts.child, _context(solving, node))],
        }
        candidates = await asyncio.gather(*(self._candidate(attempt, solving, m, prompts[m]) for m in wanted))
        for one in candidates:
            if one.problem not in ("", UNKNOWN, NOTHING):
                steps.append(Malformed(text=one.text, problem=f"{one.method}: {one.problem}"))
        scored = tuple(self._scored(solving, node, one) for one in candidates)
        golds = attempt.question.answers if index == tree.root.index else ()
        chosen = select(
            scored,
            self.selector,
            rng=random.Random(derive_seed("tree", attempt.sampling.seed, attempt.question.id, attempt.sample, index)),
            golds=self.golds(question) if self.golds is not None else golds,
        )
        return steps, node.model_copy(update={"candidates": scored, "chosen": chosen})

    def _scored(self, solving: _Solving, node: SubQuestion, one: Candidate) -> Candidate:
        if one.method != "child" or one.confidence is None or one.problem:
            return one
        certain = node.decomposition
        if certain is not None and self.confidence == "probability":
            certain = math.exp(certain)
        below = [solving.score(child) for child in node.children]
        return one.model_copy(update={"score": child_score(one.confidence, certain, below, self.aggregation)})

    # --- asking

    async def _candidate(
        self, attempt: Attempt, solving: _Solving, method: Method, prompts: Iterable[Prompt]
    ) -> Candidate:
        """Ask with the first of `prompts` that fits; each is shorter than the one before."""
        tokens = min(attempt.sampling.max_tokens, ANSWER_TOKENS)
        window = self.window or getattr(attempt.model, "limit", None) or WINDOW
        tried: Prompt | None = None
        for tried in prompts:
            if count_tokens(attempt.model, *tried) + tokens <= window:
                break
        else:
            return _no_answer(method, NOTHING if tried is None else "the prompt is too long")
        sampling = attempt.sampling.but(max_tokens=tokens)
        first = await attempt.aside(*tried, stop=STOP, sampling=sampling)
        solving.logprobs |= first.logprobs is not None
        if solving.logprobs or first.ended == "length":
            return read_candidate(method, first, confidence=self.confidence)
        warm = sampling.but(temperature=sampling.temperature or 1.0)
        more = await asyncio.gather(*(attempt.aside(*tried, stop=STOP, sampling=warm) for _ in range(self.samples - 1)))
        return agreed(method, [first, *more], probability=self.confidence == "probability")

    # --- looking things up

    async def _passages(
        self, attempt: Attempt, solving: _Solving, node: SubQuestion, steps: list[Step]
    ) -> list[tuple[Passage, ...]]:
        """What was found for a node's question, then for every question below it, or for the answers in it."""
        most = self.k or attempt.sources.top_k
        queries = {node.question: most}
        if self.search_answers and not node.children:
            meant = solving.tree.references(node.index).values()
            queries |= {solving.answers[n]: most for n in meant if n in solving.answers}
        below = [solving.done[d].question for d in solving.tree.descendants(node.index)]
        queries |= {question: min(self.sub_k, most) for question in below if question not in queries}
        for query in queries:
            if query not in solving.found:  # what a leaf was searched for, an inner node need not search for again
                solving.found[query] = await attempt.search(query, k=most, steps=steps)
        return [(solving.found[query] or ())[:k] for query, k in queries.items()]

    def _readings(self, found: Sequence[tuple[Passage, ...]], node: SubQuestion) -> Iterator[Prompt]:
        """The prompt to answer from passages, then shorter ones: with fewer for every question (a leaf), or fewer for
        the questions below, and in the end fewer for its own (an inner node)."""
        instruction = self.prompts.open_inner if node.children else self.prompts.open
        own, others = len(found[0]) if found else 0, max(map(len, found[1:]), default=0)
        if node.children:
            limits = [(own, most) for most in range(others, 0, -1)] + [(most, 1) for most in range(own, 0, -1)]
        else:
            limits = [(most, most) for most in range(max(own, others), 0, -1)]
        for mine, below in limits:
            shown = unique([one[: below if place else mine] for place, one in enumerate(found)])
            yield instruction, f"{render_passages(shown, max_words=EVERYTHING)}\n\n{escape(node.question)}"


NOTHING = "nothing was found"
STOP = ("\nQ:", "\nQuestion:")  # the next question, which base models go on to make up


def agreed(method: Method, generations: Sequence[Generation], *, probability: bool = False) -> Candidate:
    """The commonest of several answers, the first of equals. Its confidence is the share that agrees with it (its
    logarithm, unless `probability`), among all that were asked."""
    candidates = [read_candidate(method, _certain(generation)) for generation in generations]
    votes = Counter(normalize_answer(c.text) for c in candidates if not c.problem)
    if not votes:
        return candidates[0].model_copy(update={"agreement": True})
    ((most, count),) = votes.most_common(1)
    said = next(c.text for c in candidates if not c.problem and normalize_answer(c.text) == most)
    share = count / len(generations)
    sure = share if probability else math.log(share)
    return Candidate(method=method, text=said, score=sure, confidence=sure, agreement=True)


def _certain(generation: Generation) -> Generation:
    """The generation as if it had log-probabilities, to read its answer."""
    return replace(generation, tokens=(generation.text,), logprobs=(0.0,))


def _context(solving: _Solving, node: SubQuestion) -> str:
    """The answers of the children, one a line, and the question."""
    answers = solving.answers
    lines = [f"{solving.done[c].question} {answers.get(c, '')}".strip() for c in node.children]
    context = "\n".join(f"{escape(line)}." for line in lines)
    return f"Context:\n{context}\n\nQuestion:\n{escape(node.question)}"


def unique(found: Iterable[Sequence[Passage]]) -> list[Passage]:
    """The passages in their order, none with the title and text of one before."""
    first: dict[tuple[str, str], Passage] = {}
    for passage in chain.from_iterable(found):
        first.setdefault((passage.title, passage.text), passage)
    return list(first.values())


def count_tokens(model: Model, instruction: Instruction, text: str) -> int:
    """How long a prompt is, by the model's own tokenizer where it can be had, else estimated from its characters."""
    render = getattr(model, "render", None)
    if render is not None:
        return len(render([Message("system", instruction), Message("user", text)])[1])
    return math.ceil((len(instruction.text) + len(text)) / CHARACTERS)
