"""Validates the engine options of a catalogue row."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog.errors import ConfigurationError

T = TypeVar("T", bound="EngineOptions")


class EngineOptions(BaseModel):
    """The options of every engine; each engine adds its own, and an unknown option is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slots: int | None = Field(default=None, ge=1, le=512, description="concurrent requests")
    context: int | None = Field(default=None, ge=128, description="tokens of one request, answer included")


def read_options(kind: type[T], engine: str, values: dict[str, Any]) -> T:
    """Validate a row's options. Raises ConfigurationError that names the first wrong one."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"Option '{where}' of engine {engine}: {first['msg']}.") from error
