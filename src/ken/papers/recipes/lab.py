"""Defaults that suit models of the lab."""

from __future__ import annotations

from typing import Any

# A turn in the lab's worlds takes eleven tokens, and one passage says all there is to know about a name.
LAB: dict[str, Any] = {
    "steps": 100,
    "questions_per_step": 16,
    "group_size": 8,
    "lr": 3e-4,
    "warmup_steps": 5,
    "max_turns": 3,
    "top_k": 1,
    "max_tokens": 16,
    "save_every": 20,
}
