"""Validation by the types of the providers' SDKs, as if they forbade the fields that they do not know."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from catalog.types import Json


def strictly(kind: Any, value: Any, *, ours: frozenset[str] = frozenset()) -> Any:
    """``value`` as a model of an SDK. Fails for a field that neither the SDK nor ``ours`` knows."""
    read = _adapter(kind).validate_python(value)
    unknown = {name for name in _unknown(read, "") if name.rpartition(".")[2] not in ours}
    assert not unknown, sorted(unknown)
    return read


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def bodies(params: Any) -> Callable[[Json], None]:
    """A check of recorded bodies by an SDK's typed dictionary of parameters; ``stream`` is not among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDKs have a type that allows extra fields
        adapter: TypeAdapter[Any] = TypeAdapter(list[params], config=ConfigDict(extra="forbid"))

    def check(body: Json) -> None:
        _consumed(adapter.validate_python([{name: value for name, value in body.items() if name != "stream"}]))

    return check


def _consumed(value: Any) -> None:
    """Read lazily validated iterables to their end."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | Iterator):
        return
    for one in value:
        _consumed(one)


def _unknown(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from (f"{where}.{name}" for name in value.model_extra or ())
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for one in value:
            yield from _unknown(one, where)
