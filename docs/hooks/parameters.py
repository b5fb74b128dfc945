"""Ken's docstrings name parameters as `name: what it is`, in running text; the reference shows each on a line of its own.

A griffe extension: it rewrites the text before it is rendered and leaves the source alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from griffe import Class, Extension, Function

# "a, b: text", at the start of a line or of a sentence.
_NAMED = re.compile(r"(?:^[ \t]*|(?<=[.;)] ))(?P<names>[a-z_][a-z_0-9]*(?:, [a-z_][a-z_0-9]*)*): ", re.MULTILINE)


class Parameters(Extension):
    """Makes lists of the parameters that docstrings explain."""

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        _rewrite(func, {parameter.name for parameter in func.parameters} | _options(func))

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        names = set(cls.members)
        if isinstance(init := cls.members.get("__init__"), Function):
            names |= {parameter.name for parameter in init.parameters}
        _rewrite(cls, names)


def _options(func: Function) -> set[str]:
    """Names that `Unpack`ed or free keyword arguments go by are not in the signature."""
    return {"model_options"} if any(p.name == "model_options" for p in func.parameters) else set()


def _rewrite(documented: Class | Function, names: Collection[str]) -> None:
    if documented.docstring is not None:
        documented.docstring.value = listed(documented.docstring.value, names)


def listed(text: str, names: Collection[str]) -> str:
    """`text` with every explanation of one of `names` as an item of a list; the other paragraphs stay as they are.

    >>> print(listed("Search.\\n\\nk: how many. mode: which\\n    of them.\\n\\nRaises.", {"k", "mode"}))
    Search.
    <BLANKLINE>
    - **k**: how many.
    - **mode**: which of them.
    <BLANKLINE>
    Raises.
    """
    return "\n\n".join(_paragraph(paragraph, names) for paragraph in re.split(r"\n[ \t]*\n", text))


def _paragraph(paragraph: str, names: Collection[str]) -> str:
    if paragraph.lstrip().startswith((">>>", "|", "-", "*")):
        return paragraph
    found = [m for m in _NAMED.finditer(paragraph) if set(m["names"].split(", ")) <= set(names)]
    if not found:
        return paragraph
    before = paragraph[: found[0].start()].rstrip()
    ends = [match.start() for match in found[1:]] + [len(paragraph)]
    items = []
    for match, end in zip(found, ends, strict=True):
        label = ", ".join(f"**{name}**" for name in match["names"].split(", "))
        items.append(f"- {label}: {' '.join(paragraph[match.end() : end].split())}")
    return "\n\n".join(part for part in (before, "\n".join(items)) if part)
