"""One line of JSON for every request, on standard error; no question, answer or address with a query in it unless
asked for."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO


class Log:
    """Writes lines. texts: with questions and answers too."""

    def __init__(self, stream: TextIO | None = None, *, texts: bool = False) -> None:
        self.texts = texts
        self._stream = stream

    def write(self, event: str, fields: Mapping[str, Any], texts: Mapping[str, Any] | None = None) -> None:
        """One line: the time, what happened, and its fields; those of `texts` only where they are wanted."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "event": event, **fields, **((texts or {}) if self.texts else {})}
        stream = self._stream or sys.stderr
        try:
            stream.write(json.dumps(line, ensure_ascii=True, default=str) + "\n")
            stream.flush()
        except (OSError, ValueError):  # nobody reads any more; requests matter more than lines about them
            pass


class JsonLines(logging.Handler):
    """What libraries log (uvicorn: a defect's traceback, above all), as lines of the same kind."""

    def __init__(self, log: Log, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
        fields["message"] = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._log.write("log", fields)
