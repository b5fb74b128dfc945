"""The tools of an ApiWorld as tools that agents call: their schemas, and answers from its tables."""

from __future__ import annotations

from collections.abc import Iterator

from ken.core import BadInput
from ken.lab.apiworld import CATALOGUE, Api, Tables, as_json
from ken.sources.tools.tool import ERROR, Arguments, Tool, ToolResult


class TableTool(Tool):
    """One tool of the world over some tables."""

    def __init__(self, api: Api, tables: Tables) -> None:
        self.api, self.tables = api, tables
        self.name, self.description, self.parameters = api.name, api.description, api.parameters  # type: ignore[misc]
        self.returns = api.returns

    async def call(self, arguments: Arguments) -> ToolResult:
        try:
            return ToolResult(as_json(self.tables.call(self.api, arguments)))
        except BadInput as error:
            return ToolResult(f"{ERROR} {error}", ok=False, error="failed")


def table_tools(tables: Tables) -> Iterator[TableTool]:
    """All forty tools."""
    return (TableTool(api, tables) for api in CATALOGUE)
