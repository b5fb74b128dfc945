"""What a verifier earns in training (CoSineVerifier, arXiv 2512.01224; card 28, Stage 2): a right verdict, the format,
tools where they help, and brevity, each a function of its own. That tool use is encouraged is the paper's; the forms
and weights of all terms are inferred.
"""

from __future__ import annotations

from ken.core import BadInput, Trajectory
from ken.training.rewards.completion import golds, written_tokens
from ken.training.rewards.tool_bonus import valid_calls


def right_verdict(trajectory: Trajectory) -> float:
    """1 when the verdict is the gold label, else 0. Raises `BadInput` without one."""
    return float(trajectory.error is None and trajectory.answer in golds(trajectory))


def valid_format(trajectory: Trajectory) -> float:
    """1 when every turn was a call or a verdict, and there is a verdict."""
    return float(trajectory.error is None and not trajectory.malformed and not trajectory.unfinished)


def useful_tool(trajectory: Trajectory) -> float:
    """1 when the verdict is right, at least one call worked, and the item is computational (`meta["computed"]`).

    Without the first condition a model learns to call tools always (card 28, Pitfalls).
    """
    computed = bool(trajectory.question.meta.get("computed"))
    return float(computed and right_verdict(trajectory) == 1.0 and valid_calls(trajectory) > 0)


def too_long(trajectory: Trajectory, *, budget: int = 100) -> float:
    """Tokens that the model wrote beyond the budget, as a share of it; 0 within. Raises `BadInput` for no budget."""
    if budget < 1:
        raise BadInput(f"the budget is {budget} tokens; give at least 1")
    return max(0, written_tokens(trajectory) - budget) / budget


def verifier_reward(
    trajectory: Trajectory,
    *,
    format_weight: float = 0.1,
    tool_weight: float = 0.2,
    length_weight: float = 0.1,
    budget: int = 100,
) -> float:
    """R = right + λ_f format + λ_t useful tool − λ_l length, with the card's weights."""
    return (
        right_verdict(trajectory)
        + format_weight * valid_format(trajectory)
        + tool_weight * useful_tool(trajectory)
        - length_weight * too_long(trajectory, budget=budget)
    )
