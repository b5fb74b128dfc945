"""Ask a model many things, each once: what it says is kept as it comes, so that a run goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ken.core import ModelError
from ken.training.json_lines import JsonLines

TOGETHER = 64  # things asked about at once; when every call about them fails, the model is down

T = TypeVar("T")
Record = dict[str, Any]


class Asking:
    """What a model was asked, in a file: nothing twice, unless it failed.

    spec: of the model. on_progress: told of things done, of how many; `total` may be changed when more is known. A
    record of the file has the keys `kind`, `id`, and those of what was made of the reply.

    Raises `BadInput` when the file cannot be read or written.
    """

    def __init__(self, spec: str, path: Path, on_progress: Callable[[int, int], None], total: int) -> None:
        self.spec, self.on_progress, self.total = spec, on_progress, total
        self._kept, self._done = JsonLines(path), 0

    async def each(
        self, kind: str, things: Mapping[str, T], ask: Callable[[T], Awaitable[Record]], *, calls: int
    ) -> dict[str, Record]:
        """What came of each thing, by its id: `ask` makes `calls` model calls about one and returns a record that JSON
        can hold, with the sentences of those that failed under `errors`.

        Raises `ModelError` when all of `TOGETHER` things failed in all their calls: what was said before is kept.
        """
        found = {
            record["id"]: record
            for record in self._kept.records()
            if record.get("kind") == kind and record.get("id") in things and record.get("errors") == []
        }
        left = [name for name in things if name not in found]
        self.tell(len(found))

        async def one(name: str) -> Record:
            record = {"kind": kind, "id": name, **await ask(things[name])}
            found[name] = record
            self._kept.add(record)
            self.tell(1)
            return record

        for start in range(0, len(left), TOGETHER):
            made = await asyncio.gather(*map(one, left[start : start + TOGETHER]))
            if all(len(record["errors"]) == calls for record in made):
                raise ModelError(
                    f"{self.spec} did not answer {len(made) * calls} times in a row "
                    f"({made[0]['errors'][0].rstrip('.')}); mend that and give the same command again, what was said "
                    "before is kept"
                )
        return found

    def tell(self, more: int) -> None:
        """Say that so many more things are done."""
        self._done += more
        self.on_progress(self._done, self.total)

    def close(self) -> None:
        self._kept.close()
