"""What answers cost in tokens, by part, and when work that is done once pays (card 38, Token accounting)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ken.core.frozen import Frozen


class Prices(Frozen):
    """Of a million tokens, in any currency: read (prompt) and written (completion)."""

    prompt: float
    completion: float

    def cost(self, prompt: float, completion: float) -> float:
        """Of so many tokens."""
        return (self.prompt * prompt + self.completion * completion) / 1e6


class TokenAccount(Frozen):
    """What an answer cost, in tokens.

    prompt: of the final question, of which `context` is what was given to read and `question` the question; the rest
        is instruction and chat template. answer: written.
    documents: of everything that could have been put into the prompt; so `whole` is the prompt that plain RAG takes.
    once_prompt, once_completion: of what was done once for many questions (summaries), whenever that was; now: whether
        any of it was done for this one.
    exact: counted by the model's own tokenizer, not estimated.
    """

    prompt: int = 0
    context: int = 0
    question: int = 0
    answer: int = 0
    documents: int = 0
    once_prompt: int = 0
    once_completion: int = 0
    now: bool = False
    exact: bool = True

    @property
    def whole(self) -> int:
        """The prompt with all documents in the place of the context."""
        return self.prompt - self.context + self.documents

    @property
    def once(self) -> int:
        """T_sum of the card."""
        return self.once_prompt + self.once_completion

    @property
    def reduction(self) -> float:
        """1 − T_CRAG / T_RAG; nan without a prompt."""
        return reduction(self.prompt, self.whole)

    @property
    def break_even(self) -> float:
        """n*: after so many questions on the same documents, what was done once is paid back; inf where it never is."""
        return break_even(self.once, self.whole, self.prompt)

    def cost(self, prices: Prices) -> float:
        """Of one more question, without what is done once."""
        return prices.cost(self.prompt, self.answer)

    def cost_once(self, prices: Prices) -> float:
        """Of what is done once."""
        return prices.cost(self.once_prompt, self.once_completion)

    def __str__(self) -> str:
        rest = self.prompt - self.context - self.question
        said = (
            f"{'' if self.exact else 'about '}{self.prompt:,} tokens in the prompt ({self.context:,} of context, "
            f"{self.question:,} of the question, {rest:,} of instructions), {self.answer:,} written"
        )
        if self.documents != self.context:
            said += f"; with all documents it would be {self.whole:,}"
        if self.once:
            after = self.break_even
            pays = "which never pays back" if math.isinf(after) else f"paid back after {math.ceil(after):,} questions"
            said += f"; summaries took {self.once:,} {'now' if self.now else 'before'}, {pays}"
        return said


def reduction(short: float, long: float) -> float:
    """The share of tokens that is saved: 1 − short / long; nan where `long` is 0.

    >>> round(reduction(468, 5165), 3)  # the paper's 75 reviews
    0.909
    """
    return 1 - short / long if long else math.nan


def growth(few: float, many: float) -> float:
    """How many times as long a prompt gets; nan where it was empty."""
    return many / few if few else math.nan


def break_even(once: float, long: float, short: float) -> float:
    """The number of questions after which `once` is paid back by long − short tokens a question; inf where nothing is
    saved, 0 where nothing was spent."""
    if not once:
        return 0.0
    return once / (long - short) if long > short else math.inf


@dataclass(frozen=True, slots=True)
class CostLine:
    """A line of the cost table: a strategy, its mean tokens a question, and money for the first and for every question
    after it."""

    name: str
    prompt: float
    answer: float
    once: float
    first: float
    next: float


def cost_table(accounts: Mapping[str, Sequence[TokenAccount]], prices: Prices) -> list[CostLine]:
    """What strategies cost at given prices, in the order given; means over their accounts. Raises `ValueError` for a
    strategy without any."""
    lines = []
    for name, those in accounts.items():
        if not those:
            raise ValueError(f"there is no account of {name}; give at least one")
        n = len(those)
        each = sum(a.cost(prices) for a in those) / n
        lines.append(
            CostLine(
                name,
                sum(a.prompt for a in those) / n,
                sum(a.answer for a in those) / n,
                sum(a.once for a in those) / n,
                each + sum(a.cost_once(prices) for a in those) / n,
                each,
            )
        )
    return lines
