"""Stage 3, calling: from a sub-question and a tool's schema to arguments that fit (card 49, Method)."""

from __future__ import annotations

from ken.agents.protocol import escape
from ken.agents.tool_stages.grammar import signature
from ken.sources.tools.tool import Tool


def asked_for(tool: Tool, name: str, question: str) -> str:
    """What a model reads that is to say the value of one parameter."""
    return f"{signature(tool)}\nParameter: {escape(name)}\nQuestion: {escape(question)}"
