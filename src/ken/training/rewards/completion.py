"""What an attempt produced after its prompt. Rewards read only this: the prompt's example answer is nobody's answer
(card 01, Pitfalls).

Of an attempt that is several conversations (decide, then answer) the last one is read.
"""

from __future__ import annotations

from itertools import takewhile

from ken.agents.instructions import (
    INVALID_ACTION,
    INVALID_ANSWER,
    NO_MORE_SEARCHES,
    NOTHING_FOUND,
    SEARCH_FAILED,
)
from ken.core import BadInput, Segment, Trajectory

# Models of the lab see these as one token each; rewards read what the token stands for, so that a format rule means
# the same for both kinds of model.
_REMARKS = (INVALID_ACTION, INVALID_ANSWER, NO_MORE_SEARCHES, NOTHING_FOUND, SEARCH_FAILED)


def completion(trajectory: Trajectory) -> str:
    """Everything after the last prompt, written or observed, as one text; "" without segments."""
    return "".join(_text(segment) for segment in _after_prompt(trajectory))


def written(trajectory: Trajectory) -> str:
    """What the policy itself wrote after the last prompt, as one text."""
    return "".join(segment.text for segment in _after_prompt(trajectory) if segment.role == "policy")


def observed(trajectory: Trajectory) -> str:
    """What the environment put into the context after the last prompt, as one text."""
    return "".join(_text(segment) for segment in _after_prompt(trajectory) if segment.role == "observation")


def written_tokens(trajectory: Trajectory) -> int:
    """Tokens that the policy wrote, in all conversations: by its ids, or by the model's own count without them."""
    policy = [segment for segment in trajectory.segments if segment.role == "policy"]
    if any(segment.token_ids is None for segment in policy) or not policy:
        return trajectory.usage.completion_tokens
    return sum(len(segment.token_ids or ()) for segment in policy)


def golds(trajectory: Trajectory) -> tuple[str, ...]:
    """The accepted answers. Raises `BadInput` when there are none: correctness cannot be rewarded then."""
    if not trajectory.question.answers:
        raise BadInput(
            f"question {trajectory.question.id!r} has no gold answers to reward by; give some, or do not train on it"
        )
    return trajectory.question.answers


def _after_prompt(trajectory: Trajectory) -> list[Segment]:
    return list(takewhile(lambda segment: segment.role != "prompt", reversed(trajectory.segments)))[::-1]


def _text(segment: Segment) -> str:
    text = segment.text
    if segment.role == "observation":
        for remark in _REMARKS:
            text = text.replace(remark.token, remark.text)
    return text
