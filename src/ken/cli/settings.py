"""Defaults for options from `ken.toml` in the working directory.

A key at the top applies to every command that has such an option, a table to one command:

    model = "openai/qwen3-8b"
    base_url = "http://localhost:8000/v1"
    index = "my-index"

    [audit]
    samples = 16

The keys are the long options, with _ for -. What may be given several times is one text or a list of them. `ken demo`,
`ken lab`, `ken papers` and `ken reproduce` have worlds of their own, so that only their own tables apply to them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ken.core.errors import BadInput

FILE = Path("ken.toml")


def read_settings(root: Any) -> dict[str, Any]:
    """The click `default_map` for `root` from `ken.toml`, {} when there is no file.

    Raises `BadInput` for a file that is not TOML, a key that no command knows, and a value of the wrong type.
    """
    try:
        settings = tomllib.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"{FILE} cannot be read ({error.strerror}); check its permissions, or move it away") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f'{FILE} is not TOML ({error}); settings look like: model = "openai/NAME"') from error
    return _defaults(root, settings, where=str(FILE))


_APART = {"demo", "lab", "reproduce", "papers"}


def _defaults(command: Any, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """The defaults for `command` and the commands under it, which inherit what is said above them."""
    commands: dict[str, Any] = getattr(command, "commands", {})
    values: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            if key not in commands:
                raise BadInput(f"{where}: [{key}] is no command here; {_listed('the tables are', commands)}")
            tables[key] = value
        elif key not in (options := _options(command)):
            raise BadInput(f"{where}: there is no option {key!r}; {_listed('the options are', options)}")
        elif not any(_fits(value, kind) for kind in options[key]):
            wanted = " or ".join(sorted({_WORDS[kind] for kind in options[key]}))
            raise BadInput(f"{where}: {key} = {json.dumps(value, default=str)} does not fit; it must be {wanted}")
        else:
            values[key] = value
    own = {parameter.name: parameter for parameter in command.params}
    defaults = {
        key: [value] if getattr(own[key], "multiple", False) and isinstance(value, str) else value
        for key, value in values.items()
        if key in own  # `index` is an option and a command
    }
    for name, child in commands.items():
        options = {} if name in _APART else _options(child)
        inherited = {key: v for key, v in values.items() if any(_fits(v, kind) for kind in options.get(key, ()))}
        defaults[name] = _defaults(child, inherited | tables.get(name, {}), where=f"{where} [{name}]")
    return defaults


def _options(command: Any) -> dict[str, set[type]]:
    """The options of `command` and of those under it, each with the types that it has (arguments are not settings).

    The types are those of the function's signature: what typer makes of them differs with its version.
    """
    types = get_type_hints(command.callback) if command.callback else {}
    options: dict[str, set[type]] = {}
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name in types and parameter.name not in _NOT_SETTINGS:
            meant = {types[parameter.name], *get_args(types[parameter.name])}
            kinds = meant & _WORDS.keys() or {str}
            options[parameter.name] = kinds | {list} if any(get_origin(kind) is list for kind in meant) else kinds
    for child in getattr(command, "commands", {}).values():
        for name, kinds in _options(child).items():
            options[name] = options.get(name, set()) | kinds
    return options


_NOT_SETTINGS = {"version", "as_json"}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: 'a text in "quotes"',
    list: "several in [brackets]",
}


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool):  # to Python also an integer
        return kind is bool
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, int | float if kind is float else kind)


def _listed(are: str, names: Collection[str]) -> str:
    return f"{are} {', '.join(sorted(names))}" if names else "there are none"
