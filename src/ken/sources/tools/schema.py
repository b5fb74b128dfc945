"""Validation by a whole JSON schema, for tools whose schemas are somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ken.core import Unsupported
from ken.sources.tools.tool import Arguments, cut

PROBLEM = 300  # characters of what is said to be wrong


def is_schema(schema: Mapping[str, Any]) -> bool:
    """Whether it is a JSON schema (draft 2020-12)."""
    from jsonschema import Draft202012Validator

    try:
        Draft202012Validator.check_schema(schema)
    except Exception:  # it may be anything
        return False
    return True


def validator(schema: Mapping[str, Any]) -> Any:
    """A validator without patterns, since a pattern of somebody else can take for ever to match, and without fetching
    what a schema refers to elsewhere. Raises `Unsupported` when jsonschema is not installed."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend
        from referencing import Registry
    except ImportError as error:
        raise Unsupported("tools with schemas of their own need jsonschema; run `pip install 'ken[tools]'`") from error

    usual = Draft202012Validator.VALIDATORS["additionalProperties"]

    def additional(validator: Any, allowed: Any, instance: Any, within: Any) -> Any:
        return () if "patternProperties" in within else usual(validator, allowed, instance, within)

    patterns = dict.fromkeys(("pattern", "patternProperties", "unevaluatedProperties"))
    kind: Any = extend(Draft202012Validator, {**patterns, "additionalProperties": additional})
    return kind(schema, registry=Registry())  # an empty one: nothing is fetched


def misfit(arguments: Arguments, checked: Any) -> str:
    """How `arguments` fail the schema of a `validator`, in a line; empty when they fit."""
    try:
        error = min(checked.iter_errors(dict(arguments)), key=lambda e: len(e.path), default=None)
    except Exception:  # a schema that refers to what is not there, or to itself: who carries out the call may judge
        return ""
    if error is None:
        return ""
    where = "".join(f"[{part!r}]" for part in error.path)
    return cut(" ".join(f"{where} {error.message}".split()), PROBLEM)
