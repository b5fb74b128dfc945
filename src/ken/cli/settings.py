"""Defaults for options from `ken.toml` in the working directory.

A key at the top applies to every command that has such an option, a table to one command:

    model = "openai/qwen3-8b"
    base_url = "http://localhost:8000/v1"
    index = "my-index"

    [audit]
    samples = 16
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ken.core.errors import BadInput

FILE = Path("ken.toml")


def read_settings(root: Any) -> dict[str, Any]:
    """The click `default_map` for `root` from `ken.toml`, {} when there is no file.

    Raises `BadInput` for a file that is not TOML, and for a key that no command knows.
    """
    if not FILE.exists():
        return {}
    try:
        settings = tomllib.loads(FILE.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{FILE} cannot be read as TOML: {error}") from error
    return _defaults(root, settings, where=str(FILE))


def _defaults(command: Any, settings: dict[str, Any], where: str) -> dict[str, Any]:
    commands: dict[str, Any] = getattr(command, "commands", {})
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    values = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    for name in tables:
        if name not in commands:
            raise BadInput(f"{where}: [{name}] is not a command; the commands are {', '.join(sorted(commands))}")
    used = {key for key in values if _has_option(command, key)}
    if unknown := sorted(set(values) - used):
        raise BadInput(f"{where}: no command has an option {unknown[0]!r}; see `ken --help`")
    here = {parameter.name for parameter in command.params}
    defaults: dict[str, Any] = {key: value for key, value in values.items() if key in here}
    for name, child in commands.items():
        inherited = {key: value for key, value in values.items() if _has_option(child, key)}
        defaults[name] = _defaults(child, inherited | tables.get(name, {}), where=f"{where} [{name}]")
    return defaults


def _has_option(command: Any, name: str) -> bool:
    """Whether `command` or a command under it has an option `name` (arguments are not settings)."""
    if any(p.param_type_name == "option" and p.name == name for p in command.params):
        return True
    return any(_has_option(child, name) for child in getattr(command, "commands", {}).values())
