"""Does the completion follow the search loop's format to the letter? The structure reward of Search-R1 v0.3.

Source: Search-R1's follow-up study (arXiv 2505.15117); card 00, Rewards.
"""

from __future__ import annotations

import re

from ken.core import Trajectory
from ken.metrics import substring_match
from ken.training.rewards.completion import completion, golds, observed, written
from ken.training.rewards.outcome import exact

_TAG = re.compile(r"(</?(?:think|search|information|answer)>)")
_INFORMATION = re.compile(r"<information>(.*?)</information>", re.DOTALL)

# think → search → information → think → … → think → answer. States in capitals are inside of a tag: text may stand
# there. Between tags only white space may.
_NEXT = {
    ("start", "<think>"): "THINK",
    ("THINK", "</think>"): "thought",
    ("thought", "<search>"): "SEARCH",
    ("SEARCH", "</search>"): "searched",
    ("searched", "<information>"): "INFORMATION",
    ("INFORMATION", "</information>"): "start",
    ("thought", "<answer>"): "ANSWER",
    ("ANSWER", "</answer>"): "end",
}


def valid_structure(text: str) -> bool:
    """Whether `text` is think, search, information, think, …, think, answer, with nothing but white space between
    tags and no tag inside of another."""
    state = "start"
    for place, part in enumerate(_TAG.split(text)):
        if place % 2:  # every second part is a tag
            if (state, part) not in _NEXT:
                return False
            state = _NEXT[state, part]
        elif part.strip() and not state.isupper():
            return False
    return state == "end"


def well_structured(trajectory: Trajectory) -> bool:
    """`valid_structure` of the completion; False when the policy wrote information itself."""
    return "<information>" not in written(trajectory) and valid_structure(completion(trajectory))


def retrieval_hit(trajectory: Trajectory) -> bool:
    """Whether a normalised gold is a substring of some information block. Raises `BadInput` without golds."""
    accepted = golds(trajectory)
    return any(substring_match(block, accepted) for block in _INFORMATION.findall(observed(trajectory)))


def structured(trajectory: Trajectory, *, structure: float = 0.2, final: float = 0.1, retrieval: float = 0.0) -> float:
    """Exact match, and partial credit for the format.

    | EM | valid | reward |
    |---|---|---|
    | 1 | yes | 1 |
    | 1 | no | 1 − structure |
    | 0 or no answer | yes | structure, + retrieval when a gold was retrieved |
    | 0 | no | final; 0 when there is no answer at all |

    The defaults are those of the authors' GRPO script. 0 after an error. Raises `BadInput` without golds.
    """
    right = exact(trajectory)
    if trajectory.error is not None:
        return 0.0
    valid = well_structured(trajectory)
    if right:
        return 1.0 if valid else 1.0 - structure
    if valid:
        return structure + (retrieval if retrieval_hit(trajectory) else 0.0)
    return 0.0 if trajectory.unfinished else final
