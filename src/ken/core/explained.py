"""Settings that people choose: what cannot be is refused in one sentence."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from ken.core.errors import BadInput
from ken.core.frozen import Frozen


class Explained(Frozen):
    """A value whose fields are checked one by one: raises `BadInput` for the first that is out of range. What must hold
    between fields is checked by the subclass, in an "after" validator that raises `BadInput` too.

    called: what the message calls the whole, such as "a FactWorld".
    """

    called: ClassVar[str]

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[Explained]) -> Explained:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise BadInput(f"{cls.called} cannot have {name} = {first['input']!r}: {first['msg'].lower()}") from error
