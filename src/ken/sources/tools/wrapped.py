"""A tool that stands before another and is called in its place."""

from __future__ import annotations

from ken.sources.tools.tool import Arguments, Tool, ToolResult


class WrappedTool(Tool):
    """Looks like `tool` to a model and to a `Toolbox`. Subclasses change what a call does."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.name, self.description, self.parameters = tool.name, tool.description, tool.parameters  # type: ignore[misc]
        self.budget, self.returns, self.cost, self.side_effect = tool.budget, tool.returns, tool.cost, tool.side_effect

    async def call(self, arguments: Arguments) -> ToolResult:
        return await self.tool.call(arguments)

    async def close(self) -> None:
        await self.tool.close()

    def misfit(self, arguments: Arguments) -> str:
        return self.tool.misfit(arguments)

    def read(self, content: str) -> Arguments:
        return self.tool.read(content)
