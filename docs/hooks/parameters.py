"""Ken's docstrings name parameters as `name: what it is`, in running text, and other things in backticks. The reference
shows each parameter on a line of its own, the fields of data types with their defaults and ranges, and links.

A griffe extension: it rewrites the text before it is rendered and leaves the source alone.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from griffe import Attribute, Class, Extension, Function, Module, NameResolutionError, Object

# "a, b: text", at the start of a line or of a sentence.
_NAMED = re.compile(r"(?:^[ \t]*|(?<=[.;)] ))(?P<names>[a-z_][a-z_0-9]*(?:,\s+[a-z_][a-z_0-9]*)*): ", re.MULTILINE)
_RAISES = re.compile(r"(?<=[.)])\s+(?=Raises )")
_QUOTED = re.compile(r"(?<!`)`([A-Za-z_][A-Za-z_0-9.]*)`(?!`)")
_CARD = re.compile(r"\bcard (\d\d)\b")
_CATALOGUE = Path(__file__).parents[2] / "src" / "ken" / "papers" / "catalogue.toml"
_DATA = {"Frozen", "Explained", "BaseModel"}  # bases of pydantic models, whose fields are their parameters


class Parameters(Extension):
    """Rewrites all docstrings of a package, once it is loaded."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        for documented in _all(pkg):
            if documented.docstring is not None:
                text = _linked(documented.docstring.value, documented)
                documented.docstring.value = listed(text, _names(documented))
                if isinstance(documented, Class):
                    _show_fields(documented)


def _all(owner: Module | Class) -> Iterator[Object]:
    yield owner
    for member in owner.members.values():
        if isinstance(member, Module | Class):
            yield from _all(member)
        elif isinstance(member, Function | Attribute):
            yield member


def _names(documented: Object) -> set[str]:
    if isinstance(documented, Function):
        return {parameter.name.lstrip("*") for parameter in documented.parameters}
    if not isinstance(documented, Class):
        return set()
    init = documented.members.get("__init__")
    own = {parameter.name for parameter in init.parameters} if isinstance(init, Function) else set()
    return own | set(documented.members)


def _show_fields(documented: Class) -> None:
    """Name the fields of a pydantic model under the first paragraph."""
    if documented.docstring is None or not {str(base).rpartition(".")[2] for base in documented.bases} & _DATA:
        return
    fields = [
        f"{name}: {field.annotation}" + (f" = {field.value}" if field.value is not None else "")
        for name, field in documented.members.items()
        if isinstance(field, Attribute) and field.annotation is not None and "property" not in field.labels
        if not name.startswith("_") and "ClassVar" not in str(field.annotation)
    ]
    if fields:
        first, _, rest = documented.docstring.value.partition("\n\n")
        documented.docstring.value = "\n\n".join([first, "```python\n" + "\n".join(fields) + "\n```", rest]).strip()


def _linked(text: str, documented: Object) -> str:
    """`text` with names in backticks as links, where the reference has what they name."""

    def link(match: re.Match[str]) -> str:
        try:
            path = match[1] if match[1].startswith("ken.") else documented.resolve(match[1])
        except NameResolutionError:
            return match[0]
        if path == documented.path or not path.startswith("ken."):
            return match[0]
        return f'<autoref optional identifier="{path}"><code>{match[1]}</code></autoref>'

    lines = text.split("\n")
    text = "\n".join(line if line.lstrip().startswith((">>>", "...")) else _QUOTED.sub(link, line) for line in lines)
    return _CARD.sub(lambda match: _papers().get(int(match[1]), match[0]), text)


@cache
def _papers() -> dict[int, str]:
    """By number, a link to the paper that a card of the catalogue is about."""
    entries = tomllib.loads(_CATALOGUE.read_text(encoding="utf-8")).values()
    return {e["number"]: f"[card {e['number']:02}](https://arxiv.org/abs/{e['arxiv']})" for e in entries}


def listed(text: str, names: Collection[str]) -> str:
    """`text` with every explanation of one of `names` as an item of a list, and examples as code.

    >>> print(listed("Search.\\n\\nk: how many. mode: which\\n    of them. Raises nothing.\\n\\nGood.", {"k", "mode"}))
    Search.
    <BLANKLINE>
    - **k**: how many.
    - **mode**: which of them.
    <BLANKLINE>
    Raises nothing.
    <BLANKLINE>
    Good.
    """
    return "\n\n".join(_paragraph(paragraph, names) for paragraph in re.split(r"\n[ \t]*\n", text))


def _paragraph(paragraph: str, names: Collection[str]) -> str:
    if paragraph.lstrip().startswith(">>>"):
        return f"```pycon\n{paragraph.strip()}\n```"
    if paragraph.lstrip().startswith(("|", "-", "*")):  # a table, a list
        return paragraph
    found = [m for m in _NAMED.finditer(paragraph) if set(re.split(r",\s+", m["names"])) <= set(names)]
    if not found:
        return paragraph
    before = paragraph[: found[0].start()].rstrip()
    ends = [match.start() for match in found[1:]] + [len(paragraph)]
    items, after = [], ""
    for match, end in zip(found, ends, strict=True):
        label = ", ".join(f"**{name}**" for name in re.split(r",\s+", match["names"]))
        text, *raises = _RAISES.split(paragraph[match.end() : end], maxsplit=1)
        items.append(f"- {label}: {' '.join(text.split())}")
        after = "".join(raises) or after
    return "\n\n".join(part for part in (before, "\n".join(items), after) if part)
