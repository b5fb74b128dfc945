"""JSON bodies, read to the letter of their schema: a number in quotes is no number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from ken.serving.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)

REFERENCE = "#/components/schemas/{model}"


def body_of(kind: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads the body as `kind`. A wrong one is answered with 400, another content type with 415."""

    async def read(request: Request) -> Body:
        content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ApiError(415, "send JSON, with the header `Content-Type: application/json`", code="not_json")
        try:
            return kind.model_validate_json(await request.body(), strict=True)
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in wrong]) from None

    return read


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` for a route that reads `kind`; the schemas come by `schemas`."""
    reference = {"$ref": REFERENCE.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def schemas(*kinds: type[BaseModel]) -> dict[str, Any]:
    """The schemas of bodies and of what they are made of, by name, for the document's components."""
    _, document = models_json_schema([(kind, "validation") for kind in kinds], ref_template=REFERENCE)
    found: dict[str, Any] = document["$defs"]
    return found
