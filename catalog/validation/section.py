"""The base of every settings model: values that have no meaning are refused in each field alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST_NUMBER = 1e9
"""Of a setting that may be a fraction: seconds (32 years), or dollars (whose nano-dollars fit into 64 bits)."""
LARGEST_INTEGER = 2**53


class Section(BaseModel):
    """A section of the settings.

    In every field ``true`` is no number, a number is finite and not absurdly large, and a path is not empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    rows: ClassVar[frozenset[str]] = frozenset()
    """Fields of tables that are validated as rows of their own, whose errors name them."""

    @field_validator("*", mode="before")
    @classmethod
    def _meaningful(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls, info.field_name or "")
        if not kinds & {int, float, PurePath}:
            return value
        for each in _values(value):
            if isinstance(each, bool) and bool not in kinds:
                raise ValueError("it must be a number, and not true or false")
            if PurePath in kinds and str not in kinds and isinstance(each, str) and (not each or "\0" in each):
                raise ValueError("it must be a file or folder: it is empty, or has a null character")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name in cls.rows:
            return value
        for place, each in _places(value):
            what = f"'{place}' in it" if place else "it"
            if isinstance(each, float) and abs(each) > LARGEST_NUMBER:
                raise ValueError(f"{what} must be at most {LARGEST_NUMBER:.0f}")
            if isinstance(each, int) and abs(each) > LARGEST_INTEGER:
                raise ValueError(f"{what} must be at most {LARGEST_INTEGER}")
        return value


def _places(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """A value, or those within a table or list, each with its dotted place."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _places(each, f"{place}.{name}".removeprefix("."))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, each in enumerate(value):
            yield from _places(each, f"{place}.{number}".removeprefix("."))
    else:
        yield place, value


def _values(value: Any) -> Iterator[Any]:
    """A value, or those within a table or list."""
    return (each for _, each in _places(value))


@cache
def _kinds(section: type[BaseModel], name: str) -> frozenset[type]:
    field = section.model_fields.get(name)
    return frozenset() if field is None else frozenset(_types(field.annotation))


def _types(annotation: Any) -> Iterator[type]:
    """The plain types in an annotation of a field; every kind of path counts as ``PurePath``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _types(get_args(annotation)[0])
    elif origin in (Union, UnionType) or origin is not None:
        arguments = get_args(annotation)
        # The keys of a table are names.
        for each in arguments[1:] if isinstance(origin, type) and issubclass(origin, Mapping) else arguments:
            yield from _types(each)
    elif isinstance(annotation, type):
        yield PurePath if issubclass(annotation, PurePath) else annotation
