"""The common base of Ken's data types: immutable, strict about unknown fields, one JSON line each."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value with a JSON round-trip: `type(x).model_validate_json(x.model_dump_json()) == x`."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
