"""The models within a pydantic model, and the names of their fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel


def fields_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The names of the fields that a value may have at a path within ``model``.

    Names of a table and places in a list are passed over, as its annotation names what they hold.
    """
    found = [model]
    for part in path:
        here = [each.model_fields[part].annotation for each in found if part in each.model_fields]
        found = [inner for annotation in here for inner in models_in(annotation)] if here else found
    return [name for each in found for name in each.model_fields]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, also within lists, tables and unions."""
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from models_in(part)
