"""Bounds and field types that several requests share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic_core import CoreSchema, core_schema

MAX_TEXT = 8_000_000
"""The most characters of one text; the server's limit of a body is usually smaller."""


class Written:
    """Metadata of a text that must match a pattern; ``rule`` says the same in words, for the error."""

    def __init__(self, pattern: str, rule: str) -> None:
        self._pattern = pattern
        self._matches = re.compile(pattern, re.ASCII).fullmatch
        self._rule = rule

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": self._pattern}

    def _checked(self, value: str) -> str:
        if self._matches(value) is None:
            raise ValueError(f"it must be {self._rule}")
        return value


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Identifier = Annotated[str, StringConstraints(max_length=256)]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""The id of a tool call, by which its result refers to it."""
SchemaName = Annotated[str, Written(r"^[a-zA-Z0-9_-]{1,64}$", "1 to 64 letters, digits, '_' or '-'")]
"""The name of the form of an answer, as OpenAI takes it."""
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
MAX_STOPS = 64
"""Stop sequences of one request; OpenAI itself takes four."""
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
"""A caller's own notes on an object, within OpenAI's bounds."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model reasons, in OpenAI's names."""
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _spelled(pattern: str, read: Callable[[str], Any], meaning: str) -> BeforeValidator:
    """Read a text of this form and refuse any other, where pydantic's own parsing of a query is more lenient."""

    def check(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if re.fullmatch(pattern, value, re.ASCII) is None:
            raise ValueError(f"Input should be {meaning}")
        return read(value)

    return BeforeValidator(check)


AS_DAY = _spelled(r"\d{4}-\d{2}-\d{2}", date.fromisoformat, "a day, as 2026-01-31")
AS_COUNT = _spelled(r"-?\d{1,18}", int, "a whole number")
"""Read query parameters: a day, and a number in digits alone, whose bounds tell what is wrong
with a negative one. They stand last in ``Annotated``."""


class WireModel(BaseModel):
    """A request body. Unknown fields are kept in ``model_extra``; each backend passes or drops them.

    Types are strict: a number in quotes is refused.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, protected_namespaces=(), defer_build=True)

    def to_wire(self, /, **overrides: Any) -> dict[str, Any]:
        """The JSON object to send: the fields that the caller set, also unknown ones, then ``overrides``.

        An override of ``None`` removes its field.
        """
        body = self.model_dump(mode="json", exclude_unset=True, by_alias=True)
        for key, value in overrides.items():
            if value is None:
                body.pop(key, None)
            else:
                body[key] = value
        return body


class OwnBody(WireModel):
    """A body of one of Roundhouse's own endpoints, which passes nothing on: an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")
