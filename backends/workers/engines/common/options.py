"""Validates the engine options of a catalogue row, and the files that they name."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from catalog.errors import ConfigurationError
from catalog.validation.wording import UNKNOWN, describe, place

T = TypeVar("T", bound="EngineOptions")
_MOST = 2**31 - 1
"""The largest number of an option: engines read them as 32-bit integers."""


class Content(Enum):
    """The kind of file that a path among the options must lead to; without one, any regular file."""

    GGUF = "gguf"
    FOLDER = "folder"


UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
GgufPath = Annotated[UserPath | None, Content.GGUF]
FolderPath = Annotated[UserPath | None, Content.FOLDER]


class EngineOptions(BaseModel):
    """The options of every engine; each engine adds its own, and an unknown option is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slots: int | None = Field(default=None, ge=1, le=512, description="concurrent requests")
    context: int | None = Field(default=None, ge=128, description="tokens of one request, answer included")

    @field_validator("*")
    @classmethod
    def _fits_the_engine(cls, value: Any) -> Any:
        if isinstance(value, int) and value > _MOST:
            raise ValueError(f"it must be at most {_MOST}")
        return value

    def needed(self, folder: Path) -> tuple[str, ...]:
        """The names of the files that the engine opens in the model's folder; empty for a model of one file.

        Raises ModelUnavailable for a folder whose own description cannot be read.
        """
        del folder
        return ()


def read_options(kind: type[T], engine: str, values: dict[str, Any]) -> T:
    """Validate a row's options. Raises ConfigurationError that names the first wrong one."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first, *others = (_wrong_option(kind, engine, each) for each in error.errors(include_url=False))
        first.also = tuple((each.message, each.param) for each in others)
        raise first from error


def _wrong_option(kind: type[BaseModel], engine: str, error: ErrorDetails) -> ConfigurationError:
    wrong = f"{describe(error, value=True)}."
    if error["type"] == UNKNOWN:
        wrong = f"there is no such option. The engine has: {', '.join(sorted(kind.model_fields))}."
    where = place(error)
    return ConfigurationError(f"Option '{where}' of engine {engine}: {wrong}", param=f"options.{where}")


def paths_of(
    value: Any, name: str = "", content: Content | None = None
) -> Iterator[tuple[str, Path, Content | None]]:
    """The files and folders that options name, each with the name of its option and its declared content."""
    if isinstance(value, Path):
        yield name, value, content
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from paths_of(item, f"{name}[{position}]", content)
    elif isinstance(value, BaseModel):
        for field_name, field in type(value).model_fields.items():
            declared = next((mark for mark in field.metadata if isinstance(mark, Content)), None)
            place = f"{name}.{field_name}" if name else field_name
            yield from paths_of(getattr(value, field_name), place, declared)
