"""Recorded calls: what tools answered once, to be answered again without calling them (card 49, recorded mode).

A recording is jsonl, one call a line: `{"tool", "arguments", "text", "ok", "down", "error"}`. An evaluation that
answers from one is the same on every machine, and repeats no side effect.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from ken.core import BadInput
from ken.sources.tools.tool import ERROR, Arguments, ErrorKind, ToolResult


class _Line(BaseModel):
    tool: str
    arguments: dict[str, JsonValue]
    text: str
    ok: bool = True
    down: bool = False
    error: ErrorKind | None = None


class Recording:
    """Calls and results, in the order of the calls.

    path: of the file, or None to keep them in memory. replays: answer from it; the same call sent again gets the next
    answer that it got then, and the last one for ever after. Otherwise calls are added at the end of the file.

    Raises `BadInput` when a file to answer from cannot be read.
    """

    def __init__(self, path: Path | str | None = None, *, replays: bool = False) -> None:
        self.path = Path(path) if path is not None else None
        self.replays = replays
        self._answers: dict[str, list[ToolResult]] = {}
        self._given: Counter[str] = Counter()
        if replays and self.path is not None:
            self._read(self.path)

    def record(self, tool: str, arguments: Arguments, result: ToolResult) -> None:
        """Add a call. Passages are not kept, only the text that a model was shown."""
        self._answers.setdefault(_key(tool, arguments), []).append(result)
        if self.path is not None:
            line = _Line(
                tool=tool,
                arguments=dict(arguments),
                text=result.text,
                ok=result.ok,
                down=result.down,
                error=result.problem,
            )
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line.model_dump_json() + "\n")

    def replay(self, tool: str, arguments: Arguments) -> ToolResult:
        """What the call got then; an error of kind "not_recorded" when it was never made."""
        key = _key(tool, arguments)
        answers = self._answers.get(key)
        if not answers:
            return ToolResult(f"{ERROR} this call of {tool} was not recorded", ok=False, error="not_recorded")
        place = min(self._given[key], len(answers) - 1)
        self._given[key] += 1
        return answers[place]

    def rewind(self) -> Recording:
        """From the beginning, to answer from what was recorded until now."""
        self._given.clear()
        self.replays = True
        return self

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"the recording {path} cannot be read ({error}); record one first") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                call = _Line.model_validate_json(line)
            except ValidationError as error:
                what = error.errors()[0]["msg"]
                raise BadInput(f"{path}, line {number}, is no recorded call ({what})") from error
            result = ToolResult(call.text, ok=call.ok, down=call.down, error=call.error)
            self._answers.setdefault(_key(call.tool, call.arguments), []).append(result)


def _key(tool: str, arguments: Any) -> str:
    return json.dumps([tool, dict(arguments)], sort_keys=True, ensure_ascii=False)
